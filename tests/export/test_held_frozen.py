"""Frozen weights that devices hold as float16, in half the memory: training is that of the rounded model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.program.ports import predict_method
from crowdlearn_export.compiler.compile import Method, compile_program
from crowdlearn_export.doctor.held_frozen import held_frozen
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.freezing import hold_frozen
from crowdlearn_export.graph.neuron_graph import FrozenAs, NeuronGraph
from crowdlearn_export.graph.shape import piece_shape
from crowdlearn_export.graph.weights import arrays_of
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn

from .test_frozen import FROZEN, eager, network, thirds
from .test_sliced_training import SGD, UNEVEN, assert_sliced_equals_whole, merged, orders, ran_by

HALF: FrozenAs = "float16"


def rounded(case: str) -> tuple[Callable[[], nn.Module], tuple[int, ...], NeuronGraph]:
    """A network of `test_frozen` with its frozen weights rounded, and its graph that says so."""
    build, sample, graph = network(case)

    def built() -> nn.Module:
        model = build()
        hold_frozen(graph, model, HALF)
        return model

    return built, sample, replace(graph, frozen_as=HALF)


def of_halves(graph: NeuronGraph) -> list[str]:
    return [array.name for array in piece_shape(graph, widths(graph)).arrays if array.dtype == HALF]


def widths(graph: NeuronGraph) -> list[int]:
    return [layer.neurons for layer in graph.layers]


@pytest.mark.parametrize(
    "case", ["first layers", "weights, not their biases", "a branch", "a depthwise layer"]
)
def test_cut_networks_learn_as_the_rounded_model_does(case: str) -> None:
    built, sample, graph = rounded(case)
    assert set(of_halves(graph)) == {n for n in FROZEN[case][1].split() if built().get_parameter(n).dim() > 1}
    assert_sliced_equals_whole(built, sample, thirds(graph), UNEVEN, eager, frozen_as=HALF)


@pytest.mark.parametrize("case", ["a branch", "all but the head"])
def test_real_programs_of_the_whole_network_learn_so_too(case: str, programs: Path) -> None:
    """One call from samples to weights, errors through frozen layers; and what is frozen stays as it is."""
    built, sample, graph = rounded(case)
    (piece,) = assert_sliced_equals_whole(
        built, sample, [widths(graph)], 12, programs, ranked=False, frozen_as=HALF
    )
    assert set(ran_by(piece)) == {"loss", "train_step"}
    held = piece.state().layers
    halves = [array for of in held.values() for array in of.values() if array.dtype == np.float16]
    assert len(halves) == len(of_halves(graph))
    torch.manual_seed(3)
    first = arrays_of(graph, built().state_dict(), orders(graph))
    found = merged(graph, [piece])
    assert all(np.array_equal(found[name], first[name]) for name in graph.frozen)


def test_errors_pass_through_frozen_weights_of_cut_layers_in_real_programs(programs: Path) -> None:
    built, sample, graph = rounded("weights, not their biases")
    assert_sliced_equals_whole(built, sample, thirds(graph), UNEVEN, programs, frozen_as=HALF)


def test_a_program_takes_halves_and_a_prediction_floats() -> None:
    _, _, graph = rounded("all but the head")
    shape = piece_shape(graph, widths(graph))
    assert {port.dtype for port in predict_method(shape).inputs} == {"float32"}
    manifest: Manifest = export_slice(graph, widths(graph), SGD, max_batch=8).manifest
    for method in manifest.methods:
        taken = {port.name for port in method.inputs if port.dtype == HALF}
        assert taken == set(of_halves(graph)), method.name


def test_frozen_weights_are_in_memory_as_floats_one_at_a_time() -> None:
    """Forward and backward, each reader has its own: none waits for the others."""
    weights = [torch.randn(256, 256).half() for _ in range(6)]

    def step(x: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        def through(x: torch.Tensor) -> torch.Tensor:
            for weight in weights:
                x = torch.tanh(x @ weight.float())
            return x.sum()

        value, gradient = torch.func.grad_and_value(through)(x)
        return value, gradient

    method = Method("step", step, (torch.randn(5, 256), *weights), (0,))
    program = compile_program([method], max_batch=5)
    assert program.arena_bytes + program.workspace_bytes < 4 * weights[0].numel() * 3


def test_what_cannot_be_held_so_is_refused() -> None:
    build, _, graph = network("all but the head")
    model = build()
    assert hold_frozen(graph, model, "float32") == graph
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] = 1e5
    with pytest.raises(UnsupportedModule, match=r"0\.weight has a weight that float16 cannot hold"):
        hold_frozen(graph, model, HALF)
    norms = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5).eval(), nn.ReLU(), nn.Linear(5, 3))
    graph = neuron_graph(norms, torch.zeros(2, 6))
    assert graph.frozen  # its statistics, which stay float32
    with pytest.raises(UnsupportedModule, match="no weights of the model are frozen"):
        hold_frozen(graph, norms, HALF)


def test_what_rounding_costs_is_told() -> None:
    build, sample, graph = network("all but the head")
    model = build()
    x = torch.randn(16, *sample)
    before = model.eval()(x)
    model.train()
    held, rounding = held_frozen(graph, model, HALF, x)
    assert held.frozen_as == HALF
    assert rounding is not None
    assert rounding.float_bytes == 2 * rounding.bytes
    after = model.eval()(x)
    difference = float((after - before).abs().max() / before.abs().max())
    assert rounding.difference == pytest.approx(difference)
    assert 0 < rounding.difference < 5e-3
    assert f"differ by at most {difference:.0e}" in str(rounding)
    assert held_frozen(graph, model, "float32", x) == (graph, None)
