"""The emulated wire rounds what pieces would send each other, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_tensor, encode_tensor
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.planner.plan import plan_from_counts
from crowdlearn_host.simulation.learners.rounding import crossings, round_sums
from torch import nn

COUNTS = ([6, 1, 0, 4], [0, 5, 3, 0], [0, 4, 5, 0])
ORDER = (tuple(range(6)), (3, 9, 0, 1, 2, 4, 5, 6, 8, 7), (7, 1, 2, 3, 4, 5, 6, 0), tuple(range(4)))


def sliced(wire, counts=COUNTS, order=ORDER):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 4)))
    graph = neuron_graph(model, torch.zeros(2, 6))
    plan = replace(plan_from_counts(graph, counts), order=order)
    round_sums(model, wire, crossings(graph, plan), torch.Generator().manual_seed(1))
    return model, plan


def sent(values, dtype):
    return torch.from_numpy(decode_tensor(encode_tensor(values.detach().numpy(), dtype)))


def as_pieces_would(layer, x, errors, owners, targets):
    """Sums of a dense layer, errors of its inputs and gradient of its weights, over a float16 wire."""
    total, back = layer.bias.detach().repeat(len(x), 1), torch.zeros_like(x)
    gradient = torch.zeros_like(layer.weight)
    for owner in sorted(set(owners)):
        own = [i for i, piece in enumerate(owners) if piece == owner]
        for target in sorted(set(targets)):
            there = [i for i, piece in enumerate(targets) if piece == target]
            part, error = x[:, own] @ layer.weight.detach()[there][:, own].T, errors[:, there]
            if owner != target:
                part, error = sent(part, pb.FLOAT16), sent(error, pb.FLOAT16)
            total[:, there] += part
            back[:, own] += error @ layer.weight.detach()[there][:, own]
            gradient[np.ix_(there, own)] = error.T @ x[:, own]
    return total, back, gradient


def owners(plan, layer):
    found = [0] * len(plan.order[layer])
    for number, piece in enumerate(plan.pieces):
        for position in range(*piece.neurons[layer]):
            found[plan.order[layer][position]] = number
    return found


def test_float16_gives_what_pieces_would_get():
    model, plan = sliced("float16")
    layer = model[2]
    x = torch.randn(7, 10, requires_grad=True)
    errors = torch.randn(7, 8)
    sums = layer(x)
    sums.backward(errors)
    total, back, gradient = as_pieces_would(layer, x.detach(), errors, owners(plan, 1), owners(plan, 2))
    exact = nn.functional.linear(x, layer.weight, layer.bias)
    assert float((total - exact).detach().abs().max()) > 1e-4
    torch.testing.assert_close(sums, total, atol=1e-6, rtol=0)
    torch.testing.assert_close(x.grad, back, atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.weight.grad, gradient, atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.bias.grad, errors.sum(0))


def test_int8_rounds_each_message_by_its_own_largest_value_and_without_bias():
    model, plan = sliced("int8")
    layer = model[0]  # piece 0 has all inputs, and of the outputs one that it need not send
    x = torch.randn(5, 6)
    exact = nn.functional.linear(x, layer.weight).detach()
    mean = torch.zeros_like(exact)
    targets = np.array(owners(plan, 1))
    for _ in range(400):
        sums = (layer(x) - layer.bias).detach()
        for piece in (1, 2):
            there = np.flatnonzero(targets == piece)
            step = float(exact[:, there].abs().max() / 127)
            assert float((sums - exact)[:, there].abs().max()) <= step * 1.001
        mean += sums / 400
    stays = np.flatnonzero(targets == 0)
    torch.testing.assert_close(mean[:, stays], exact[:, stays], atol=1e-5, rtol=0)
    assert float((mean - exact).abs().max()) < 0.2 * float(exact.abs().max() / 127)


def test_evaluation_and_a_piece_alone_are_exact():
    x = torch.randn(5, 6)
    whole, _ = sliced("float32")
    alone, _ = sliced("int8", [[6, 10, 8, 4]])
    torch.testing.assert_close(alone(x), whole(x), atol=0, rtol=0)
    short, _ = sliced("int8")
    torch.testing.assert_close(short.eval()(x), whole(x), atol=0, rtol=0)
    rounded = short.train()(x)
    assert float((rounded - whole(x)).abs().max()) > 1e-4
    resting, _ = sliced("int8")
    resting[:3].requires_grad_(False).eval()
    torch.testing.assert_close(resting(x), rounded, atol=0, rtol=0)  # frozen layers send their sums, too


@pytest.mark.parametrize("wire", ["float16", "int8"])
def test_convolutions_round_per_channel_owner(wire):
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.ReLU())
    model = nn.Sequential(*layers, nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(4 * 36, 3))
    graph = neuron_graph(model, torch.zeros(2, 2, 8, 8))
    plan = plan_from_counts(graph, [[2, 0, 0, 0, 3], [0, 3, 3, 2, 0], [0, 3, 3, 2, 0]])
    found = crossings(graph, plan)
    assert [crossing.module for crossing in found] == ["0", "3", "5"]  # depthwise neurons stay at home
    x = torch.randn(3, 2, 8, 8)
    exact = model(x)
    round_sums(model, wire, found, torch.Generator().manual_seed(1))
    rounded = model(x)
    assert 0 < float((rounded - exact).abs().max()) < 0.05
    rounded.sum().backward()
    slopes = [parameter.grad for parameter in model.parameters()]
    assert all(slope is not None and bool(torch.isfinite(slope).all()) for slope in slopes)
