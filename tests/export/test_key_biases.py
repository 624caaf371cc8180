"""Biases that go into attention's keys alone get no gradient, however the attention is written."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from crowdlearn_export.graph.key_biases import held_still, still_biases
from crowdlearn_export.tracing.whole import whole_graph
from torch import Tensor, nn

LENGTH, WIDTH, HEADS = 5, 8, 2


class Attention(nn.Module):
    """Attention that is written in dense layers: `mix` makes of samples what its heads give."""

    def __init__(self, mix: Callable[[Attention, Tensor], Tensor]) -> None:
        super().__init__()
        self.mix, self.fused, self.out = mix, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 4)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.mix(self, x).mean(1))
        return scores

    def apart(self, x: Tensor) -> list[Tensor]:
        return [heads(layer(x)) for layer in (self.query, self.key, self.value)]


def heads(x: Tensor) -> Tensor:
    return x.view(x.shape[0], LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], LENGTH, WIDTH)


def split(net: Attention, x: Tensor) -> Tensor:
    q, k, v = (heads(part) for part in net.fused(x).split(WIDTH, dim=2))
    return joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))


def unbound(net: Attention, x: Tensor) -> Tensor:
    parts = net.fused(x).reshape(x.shape[0], LENGTH, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    return joined(F.scaled_dot_product_attention(*parts.unbind(0)))


def indexed(net: Attention, x: Tensor) -> Tensor:
    parts = net.fused(x).reshape(x.shape[0], LENGTH, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    return joined(F.scaled_dot_product_attention(parts[0], key=parts[1], value=parts[2]))


def by_head(net: Attention, x: Tensor) -> Tensor:
    parts = net.fused(x).reshape(x.shape[0], LENGTH, HEADS, 3, WIDTH // HEADS).transpose(1, 2)
    return joined(F.scaled_dot_product_attention(*parts.unbind(3)))


def by_hand(net: Attention, x: Tensor) -> Tensor:
    q, k, v = net.apart(x)
    scores = (q @ k.transpose(-2, -1)) * (1 / math.sqrt(k.size(-1)))
    scores = scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1) == 1, float("-inf"))
    return joined(F.softmax(scores, dim=-1) @ v)


def turned(net: Attention, x: Tensor) -> Tensor:
    q, k, v = net.apart(x)
    return joined(F.scaled_dot_product_attention(q, k * torch.arange(1.0, LENGTH + 1)[:, None], v))


def of_itself(net: Attention, x: Tensor) -> Tensor:
    both = heads(net.key(x))
    return joined(F.scaled_dot_product_attention(both, both, both))


def twice(net: Attention, x: Tensor) -> Tensor:
    q, k, v = (heads(layer(x)) for layer in (net.key, net.key, net.value))
    return joined(F.scaled_dot_product_attention(q, k, v))


def scrambled(net: Attention, x: Tensor) -> Tensor:
    q, k, v = (layer(x) for layer in (net.query, net.key, net.value))
    return F.scaled_dot_product_attention(q, k.reshape(-1, WIDTH, LENGTH).transpose(1, 2), v)


def used_elsewhere(net: Attention, x: Tensor) -> Tensor:
    q, k, v = net.apart(x)
    return joined(F.scaled_dot_product_attention(q, k, v) + k.mean())


def softly_masked(net: Attention, x: Tensor) -> Tensor:
    q, k, v = net.apart(x)
    scores = (q @ k.transpose(-2, -1)).masked_fill(torch.ones(LENGTH, LENGTH).triu(1) == 1, -2.0)
    return joined(torch.softmax(scores, -1) @ v)


KEYS = {"fused.bias": tuple(range(WIDTH, 2 * WIDTH))}
WAYS: dict[Callable[[Attention, Tensor], Tensor], dict[str, tuple[int, ...]]] = {
    split: KEYS,
    unbound: KEYS,
    indexed: KEYS,
    by_head: {"fused.bias": (*range(4, 8), *range(16, 20))},
    by_hand: {"key.bias": tuple(range(WIDTH))},
    turned: {},
    of_itself: {},
    twice: {},
    scrambled: {},
    used_elsewhere: {},
    softly_masked: {},
}


@pytest.mark.parametrize("mix", WAYS)
def test_rows_that_are_found_are_those_whose_gradient_is_0(
    mix: Callable[[Attention, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    net, x = Attention(mix).double(), torch.randn(3, LENGTH, WIDTH, dtype=torch.float64)
    assert still_biases(net, x) == WAYS[mix]
    torch.autograd.backward(net(x).square().sum())
    slopes = {n: p.grad.abs() for n, p in net.named_parameters() if n.endswith("bias") and p.grad is not None}
    found = {name: tuple(torch.nonzero(slope < 1e-14).flatten().tolist()) for name, slope in slopes.items()}
    assert {name: rows for name, rows in found.items() if rows} == WAYS[mix]


@pytest.mark.parametrize("mix", [split, by_head, by_hand])
def test_whole_models_get_no_gradient_there_and_the_same_elsewhere(
    mix: Callable[[Attention, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    net, x = Attention(mix), torch.randn(3, LENGTH, WIDTH)
    whole = whole_graph(net, (LENGTH, WIDTH)).whole
    assert whole is not None
    state = {name: value.detach().clone().requires_grad_() for name, value in net.state_dict().items()}
    scores, _ = whole.run(x, state, [], training=True)
    torch.testing.assert_close(scores, net(x))
    torch.autograd.backward(scores.square().sum())
    torch.autograd.backward(net(x).square().sum())
    for name, parameter in net.named_parameters():
        slope = state[name].grad
        if parameter.grad is None or slope is None:
            assert name in WAYS[mix] or parameter.grad is slope, name
            continue
        torch.testing.assert_close(slope, parameter.grad, rtol=1e-4, atol=1e-6)
        assert not slope.flatten()[[*WAYS[mix].get(name, ())]].any(), name


@pytest.mark.parametrize("rows", [(0, 1), (2, 3), (4, 5), (0, 2, 5), tuple(range(6))])
def test_rows_of_a_bias_are_held(rows: tuple[int, ...]) -> None:
    bias = torch.arange(6.0).requires_grad_()
    held = held_still(bias, rows)
    assert torch.equal(held, bias)
    (slope,) = torch.autograd.grad((held + 0 * bias).sum(), bias)
    assert tuple(torch.nonzero(slope == 0).flatten().tolist()) == rows
