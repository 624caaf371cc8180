"""Frozen weights that devices hold in fewer bytes: training is that of the rounded model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.program.manifest_reader import HELD_AS
from crowdlearn_device.program.ports import predict_method
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import Method
from crowdlearn_export.doctor.held_frozen import held_frozen
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.freezing import hold_frozen
from crowdlearn_export.graph.held.registry import HELD
from crowdlearn_export.graph.neuron_graph import FrozenAs, NeuronGraph
from crowdlearn_export.graph.shape import array_specs, piece_shape
from crowdlearn_export.graph.weights import arrays_of
from crowdlearn_export.program.inference import export_inference
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.stages.stage import example_inputs
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_export.tracing.whole import whole_graph
from torch import nn

from .test_frozen import FROZEN, eager, network, thirds
from .test_sliced_training import SGD, UNEVEN, assert_sliced_equals_whole, merged, orders, ran_by

NARROW: tuple[FrozenAs, ...] = ("float16", "int8")
ARRAYS = {"float16": np.float16, "int8": np.int8}


def test_every_way_to_hold_weights_has_a_name_that_configurations_take() -> None:
    assert tuple(HELD) == get_args(FrozenAs)
    assert {held.dtype for held in HELD.values()} == set(HELD_AS)
    assert set(NARROW) == set(HELD) - {"float32"}


@pytest.mark.parametrize("kind", HELD)
def test_what_is_held_is_exact_and_held_as_the_same_again(kind: str) -> None:
    """On any processor: codes are of their type, and a product with their spacing needs no rounding."""
    held = HELD[kind]
    torch.manual_seed(0)
    weight = torch.randn(40, 3, 5) * torch.logspace(-2, 1, 40).reshape(-1, 1, 1)
    weight[7], weight[8, 0, 0] = 0.0, -1.0
    parts = held.encoded(weight)
    assert len(parts) == 1 + held.spaced
    codes = parts[0].to(getattr(torch, held.dtype))
    assert torch.equal(codes.float(), parts[0])
    decoded = held.decoded(codes, *parts[1:])
    assert decoded.dtype is torch.float32
    assert torch.equal(held.decoded(*(part.double() for part in parts)), decoded.double())
    assert all(map(torch.equal, held.encoded(decoded), parts))
    largest = weight.abs().amax((1, 2), keepdim=True)
    assert (((decoded - weight).abs() / largest.clamp(min=1e-30)).max() <= 1 / 253).item()


def test_int8_of_rows_that_are_hardly_numbers() -> None:
    tiny, huge = torch.full((1, 4), 1e-42), torch.full((1, 4), torch.finfo(torch.float32).max)
    codes, spacings = HELD["int8"].encoded(torch.cat([tiny, huge, torch.full((1, 4), torch.nan)]))
    assert not codes[0].any()
    assert spacings[0] == 0
    decoded = HELD["int8"].decoded(codes, spacings)
    assert decoded[1].isinf().all()  # what `hold_frozen` refuses
    assert not decoded[2].isfinite().any()


def rounded(case: str, kind: FrozenAs) -> tuple[Callable[[], nn.Module], tuple[int, ...], NeuronGraph]:
    """A network of `test_frozen` with its frozen weights rounded, and its graph that says so."""
    build, sample, graph = network(case)

    def built() -> nn.Module:
        model = build()
        hold_frozen(graph, model, kind)
        return model

    return built, sample, replace(graph, frozen_as=kind)


def narrow(graph: NeuronGraph) -> list[str]:
    arrays = piece_shape(graph, widths(graph)).arrays
    return [array.name for array in arrays if array.dtype == graph.frozen_as]


def widths(graph: NeuronGraph) -> list[int]:
    return [layer.neurons for layer in graph.layers]


@pytest.mark.parametrize(
    "case", ["first layers", "weights, not their biases", "a branch", "a depthwise layer"]
)
@pytest.mark.parametrize("kind", NARROW)
def test_cut_networks_learn_as_the_rounded_model_does(case: str, kind: FrozenAs) -> None:
    built, sample, graph = rounded(case, kind)
    assert set(narrow(graph)) == {n for n in FROZEN[case][1].split() if built().get_parameter(n).dim() > 1}
    assert_sliced_equals_whole(built, sample, thirds(graph), UNEVEN, eager, frozen_as=kind)


@pytest.mark.parametrize(("case", "kind"), [("all but the head", "float16"), ("a branch", "int8")])
def test_real_programs_of_the_whole_network_learn_so_too(case: str, kind: FrozenAs, programs: Path) -> None:
    """One call from samples to weights, errors through frozen layers; and what is frozen stays as it is."""
    built, sample, graph = rounded(case, kind)
    (piece,) = assert_sliced_equals_whole(
        built, sample, [widths(graph)], 12, programs, ranked=False, frozen_as=kind
    )
    assert set(ran_by(piece)) == {"loss", "train_step"}
    held = piece.state().layers
    codes = [array for of in held.values() for array in of.values() if array.dtype == ARRAYS[kind]]
    assert len(codes) == len(narrow(graph))
    torch.manual_seed(3)
    first = arrays_of(graph, built().state_dict(), orders(graph))
    found = merged(graph, [piece])
    resting = [spec.name for spec in array_specs(graph) if spec.frozen]
    assert set(resting) >= set(graph.frozen)
    assert all(np.array_equal(found[name], first[name]) for name in resting)


@pytest.mark.parametrize("kind", NARROW)
def test_errors_pass_through_frozen_weights_of_cut_layers_in_real_programs(
    kind: FrozenAs, programs: Path
) -> None:
    built, sample, graph = rounded("weights, not their biases", kind)
    assert_sliced_equals_whole(built, sample, thirds(graph), UNEVEN, programs, frozen_as=kind)


@pytest.mark.parametrize("kind", NARROW)
def test_a_model_without_neurons_learns_so_too(kind: FrozenAs, programs: Path) -> None:
    """Attention, all of it frozen but the last layer, in one program; a prediction has the same scores."""
    torch.manual_seed(0)
    model = Attending()
    x, y = torch.randn(12, 4, 6), torch.arange(12) % 3
    graph = hold_frozen(whole_graph(model, (4, 6)), model, kind)
    assert graph.whole is not None
    exact = copy.deepcopy(model).double()
    functional.cross_entropy(exact(x.double()), y).backward()
    values = arrays_of(graph, model.state_dict())
    program = export_slice(graph, widths(graph), SGD, max_batch=12, cache=programs)
    method = program.manifest.method("loss")
    given = {"sum": x.numpy(), "labels": y.numpy(), "scale": np.array(1 / 12, np.float32)}
    inputs = [given[p.role] if p.role in given else values[p.name].astype(p.dtype) for p in method.inputs]
    outputs = ExecuTorchExecutor(program.pte).run("loss", inputs)
    by_port = dict(zip([(port.role, port.name) for port in method.outputs], outputs, strict=True))
    learned = exact.get_parameter("head.weight").grad
    assert learned is not None
    found = torch.from_numpy(by_port["gradient", "head.weight"])
    assert (found - learned).abs().max() < 1e-5 * learned.abs().max()
    private = next(each for each in piece_stages(graph, widths(graph), SGD, private=True) if each.outputs)
    drawn = example_inputs(private.inputs, 5, torch.Generator())
    for ours, due in zip(private.method.function(*drawn), private.reference(*drawn), strict=True):
        torch.testing.assert_close(ours, due, atol=1e-4, rtol=1e-4)
    predicting = export_inference(graph, programs)
    ports = predicting.manifest.method("predict").inputs
    (scores,) = ExecuTorchExecutor(predicting.pte).run(
        "predict", [x.numpy(), *(values[port.name] for port in ports[1:])]
    )
    expected = exact.eval()(x.double()).detach()
    assert (torch.from_numpy(scores) - expected).abs().max() < 1e-5 * expected.abs().max()


class Attending(nn.Module):
    """One layer of a transformer, which rests, and a head that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True).requires_grad_(False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.layer(x).mean(1))
        return scores


@pytest.mark.parametrize("kind", NARROW)
def test_a_program_takes_codes_and_a_prediction_floats(kind: FrozenAs, programs: Path) -> None:
    _, _, graph = rounded("all but the head", kind)
    shape = piece_shape(graph, widths(graph))
    assert {port.dtype for port in predict_method(shape).inputs} == {"float32"}
    manifest: Manifest = export_slice(graph, widths(graph), SGD, max_batch=8, cache=programs).manifest
    for method in manifest.methods:
        taken = {port.name for port in method.inputs if port.dtype == kind}
        assert taken == set(narrow(graph)), method.name


@pytest.mark.parametrize("kind", NARROW)
def test_frozen_weights_are_in_memory_as_floats_one_at_a_time(kind: FrozenAs) -> None:
    """Forward and backward, each reader has its own: none waits for the others."""
    held = HELD[kind]
    weights = []
    for _ in range(6):
        codes, *spacings = held.encoded(torch.randn(256, 256))
        weights += [codes.to(getattr(torch, held.dtype)), *spacings]

    def step(x: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        def through(x: torch.Tensor) -> torch.Tensor:
            for at in range(0, len(weights), 1 + held.spaced):
                x = torch.tanh(x @ held.decoded(*weights[at : at + 1 + held.spaced]))
            return x.sum()

        value, gradient = torch.func.grad_and_value(through)(x)
        return value, gradient

    method = Method("step", step, (torch.randn(5, 256), *weights), (0,))
    program = compile_program([method], max_batch=5)
    # The weight, packed once more for XNNPACK; and if it was multiplied, what was.
    assert program.arena_bytes + program.workspace_bytes < 4 * weights[0].numel() * (3 + held.spaced)


def test_what_cannot_be_held_so_is_refused() -> None:
    build, _, graph = network("all but the head")
    model = build()
    assert hold_frozen(graph, model, "float32") == graph
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] = 1e5
    with pytest.raises(UnsupportedModule, match=r"0\.weight has a weight that float16 cannot hold"):
        hold_frozen(graph, model, "float16")
    norms = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5).eval(), nn.ReLU(), nn.Linear(5, 3))
    graph = neuron_graph(norms, torch.zeros(2, 6))
    assert graph.frozen  # its statistics, which stay float32
    with pytest.raises(UnsupportedModule, match="no weights of the model are frozen"):
        hold_frozen(graph, norms, "int8")


@pytest.mark.parametrize(("kind", "saved", "most"), [("float16", 2.0, 5e-3), ("int8", 2.6, 5e-2)])
def test_what_rounding_costs_is_told(kind: FrozenAs, saved: float, most: float) -> None:
    build, sample, graph = network("all but the head")
    model = build()
    x = torch.randn(16, *sample)
    before = model.eval()(x)
    model.train()
    held, rounding = held_frozen(graph, model, kind, x)
    assert held.frozen_as == kind
    assert rounding is not None
    assert rounding.float_bytes == pytest.approx(saved * rounding.bytes, rel=0.1)
    values, narrowed = arrays_of(held, model.state_dict()), narrow(held)
    spacings = [f"{name}.spacing" for name in narrowed if f"{name}.spacing" in values]
    assert rounding.bytes == sum(values[n].astype(kind).nbytes for n in narrowed) + sum(
        values[name].nbytes for name in spacings
    )
    after = model.eval()(x)
    difference = float((after - before).abs().max() / before.abs().max())
    assert rounding.difference == pytest.approx(difference)
    assert 0 < rounding.difference < most
    assert f"differ by at most {difference:.0e}" in str(rounding)
    assert held_frozen(graph, model, "float32", x) == (graph, None)
