"""Transfer learning: what is frozen rests, the rest learns as in PyTorch, and nothing is done for nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.inbox import Message
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.schedule import Pass, micro_batches
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import piece_shape
from crowdlearn_export.graph.weights import arrays_of
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn

from .test_sliced_training import (
    SGD,
    STEPS,
    UNEVEN,
    Residual,
    assert_sliced_equals_whole,
    convolutional,
    depthwise,
    drawn,
    make_pieces,
    merged,
    mlp,
    orders,
    ran_by,
)


class Eager(Executor):
    """Runs a program's methods in PyTorch, as they were before they were compiled."""

    def __init__(self, graph: NeuronGraph, owned: Sequence[int]) -> None:
        self.stages = {stage.method.name: stage for stage in piece_stages(graph, owned, SGD)}
        self.ran: Counter[str] = Counter()

    def hold(self, arrays: Iterable[Any]) -> None:
        pass

    def zeros(self, shape: Sequence[int], dtype: str = "float32") -> Any:
        return np.zeros(shape, dtype)

    def run(self, method: str, inputs: Sequence[Any], *, borrowed: bool = False) -> list[Any]:
        self.ran[method] += 1
        of = self.stages[method].method
        outputs = [x.numpy() for x in of.function(*(torch.from_numpy(np.asarray(x)) for x in inputs))]
        for output, place in of.updates.items():
            inputs[place][...] = outputs[output]
        return [x for i, x in enumerate(outputs) if i not in of.updates]


def eager(graph: NeuronGraph, owned: Sequence[int]) -> tuple[Manifest, Executor]:
    """A piece's manifest, and who runs it."""
    executor, shape = Eager(graph, owned), piece_shape(graph, owned)
    return Manifest(
        shape.layers,
        shape.edges,
        shape.arrays,
        program="0" * 64,
        max_batch=16,
        optimizer=SGD,
        methods=tuple(stage.spec for stage in executor.stages.values()),
    ), executor


def frozen(build: Callable[[], nn.Module], weights: str, norms: str = "") -> Callable[[], nn.Module]:
    """The network with these of its weights frozen and batch norms in evaluation mode, by name."""

    def built() -> nn.Module:
        model = build()
        for name in weights.split():
            model.get_parameter(name).requires_grad_(False)
        for name in norms.split():
            norm = model.get_submodule(name).eval()
            torch.nn.init.uniform_(norm.get_buffer("running_mean"), -0.5, 0.5)
            torch.nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 2.0)
        return model

    return built


FIRST = "0.weight 0.bias 1.weight 1.bias"
FROZEN = {
    "first layers": (mlp, FIRST, "1", "-ee"),
    "all but the head": (mlp, f"{FIRST} 3.weight 3.bias 4.weight 4.bias", "1 4", "--e"),
    "norms that go on taking statistics": (mlp, f"{FIRST} 3.weight 3.bias", "", "--e"),
    "weights, not their biases": (mlp, "0.weight 4.weight 6.weight", "", "-ee"),
    "a bias, a norm, the last layer": (mlp, "3.bias 6.weight 6.bias", "1", "eee"),
    "first convolutions": (convolutional, f"{FIRST} 4.weight", "1", "--e"),
    "a branch": (Residual, "stem.weight stem.bias first.weight norm.weight norm.bias", "norm", "--e-e"),
    "a depthwise layer": (depthwise, f"{FIRST} 3.weight 4.weight 4.bias", "4", "--ee"),
}
"""A network, what of it is frozen, its norms in evaluation mode, and on which edges (e) errors come back."""


def network(case: str) -> tuple[Callable[[], nn.Module], tuple[int, ...], NeuronGraph]:
    build, weights, norms, _ = FROZEN[case]
    built, sample = frozen(build, weights, norms), (12,) if build is mlp else (2, 8, 8)
    return built, sample, neuron_graph(built(), torch.zeros(2, *sample))


def thirds(graph: NeuronGraph) -> list[list[int]]:
    """Three pieces: the first has both ends, the others halves of all else."""
    last = len(graph.layers) - 1
    shares = [
        [n if k in (0, last) else 0, 0 if k in (0, last) else n // 2, 0 if k in (0, last) else n - n // 2]
        for k, n in enumerate(layer.neurons for layer in graph.layers)
    ]
    return [list(piece) for piece in zip(*shares, strict=True)]


@pytest.mark.parametrize("case", FROZEN)
@pytest.mark.parametrize("micro", [16, UNEVEN])
def test_the_rest_learns_as_in_pytorch_and_nothing_else_goes_backward(case: str, micro: int) -> None:
    built, sample, graph = network(case)
    _, weights, _, taught = FROZEN[case]
    assert set(weights.split()) <= set(graph.frozen)
    assert "".join("e" if one else "-" for one in graph.taught) == taught
    pieces = assert_sliced_equals_whole(built, sample, thirds(graph), micro, eager)
    back = {f"backward_{edge.source}" for edge, one in zip(graph.edges, graph.taught, strict=True) if one}
    assert {m for p in pieces for m in ran_by(p) if m.startswith("backward")} == back
    assert_sliced_equals_whole(built, sample, [[layer.neurons for layer in graph.layers]], micro, eager)


def test_a_real_training_step_leaves_what_is_frozen_as_it_is(programs: Path) -> None:
    """Cut networks run real programs in tests/system."""
    built, sample, graph = network("a branch")
    whole = [[layer.neurons for layer in graph.layers]]
    (piece,) = assert_sliced_equals_whole(built, sample, whole, 12, programs, ranked=False)
    assert set(ran_by(piece)) == {"loss", "train_step"}
    torch.manual_seed(3)
    first = arrays_of(graph, built().state_dict(), orders(graph))
    held = merged(graph, [piece])
    assert all(np.array_equal(held[name], first[name]) for name in graph.frozen)


@pytest.mark.parametrize("of", [Pass(0, STEPS), Pass(0, STEPS, every=4, staleness=1)])
def test_the_dominator_may_be_ahead_of_those_who_still_go_backward(of: Pass) -> None:
    """It feeds a mini-batch as soon as it can, to pieces that are behind, and the weights are the same."""
    built, sample, graph = network("first layers")
    lockstep = assert_sliced_equals_whole(built, sample, thirds(graph), UNEVEN, eager, ranked=False, of=of)
    torch.manual_seed(3)
    pieces = make_pieces(graph, built(), thirds(graph), orders(graph), eager, False, of)
    rng, queues, ahead = np.random.default_rng(5), dict[tuple[int, int], list[Message]](), 0
    waiting = [
        (step, i, len(parts), len(y), x[part.start : part.stop], y[part.start : part.stop])
        for step, (x, y) in enumerate(drawn(sample, graph.layers[-1].neurons))
        for parts in [micro_batches(len(y), UNEVEN)]
        for i, part in enumerate(parts)
    ]
    while True:
        feeding = [(0, -1)] * bool(waiting and waiting[0][0] in pieces[0].under_way)
        ready = [(k, k) for k, piece in enumerate(pieces) if piece.ready]
        choices = [*feeding, *ready, *(pair for pair, queue in queues.items() if queue)]
        if not choices:
            break
        source, target = choices[rng.integers(len(choices))]
        if target < 0:
            pieces[0].feed(*waiting.pop(0))
        elif source == target:
            for m in pieces[source].run():
                queues.setdefault((source, m.partner), []).append(replace(m, values=m.values.copy()))
        else:
            m = queues[source, target].pop(0)
            ahead += m.step not in pieces[target].under_way
            pieces[target].receive(replace(m, partner=source))
    assert [piece.boundary for piece in pieces] == [STEPS] * len(pieces)
    assert ahead
    found, due = merged(graph, pieces), merged(graph, lockstep)
    assert all(np.array_equal(found[name], due[name]) for name in due)


def test_a_message_two_mini_batches_ahead_is_refused() -> None:
    _, _, graph = network("first layers")
    build, *_ = FROZEN["first layers"]
    pieces = make_pieces(graph, build(), thirds(graph), orders(graph), eager, False, Pass(0, STEPS))
    early = Message(0, pb.PURPOSE_ACTIVATION, 1, 0, 1, 5, 0, np.zeros((5, 4), np.float32))
    pieces[1].receive(early)
    with pytest.raises(WireError, match="message of step 2"):
        pieces[1].receive(replace(early, step=2))
    unfrozen = neuron_graph(build(), torch.zeros(2, 12))
    pieces = make_pieces(unfrozen, build(), thirds(unfrozen), orders(graph), eager, False, Pass(0, STEPS))
    with pytest.raises(WireError, match="message of step 1"):
        pieces[1].receive(early)


def test_a_model_that_learns_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedModule, match="nothing in it learns"):
        neuron_graph(mlp().requires_grad_(False), torch.zeros(2, 12))


def test_a_dropout_in_evaluation_mode_drops_nothing() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5).eval(), nn.Tanh(), nn.Linear(5, 3))
    graph = neuron_graph(model, torch.zeros(2, 6))
    assert not any(op.kind == "dropout" for layer in graph.layers for op in layer.ops)
    assert neuron_graph(model.eval(), torch.zeros(2, 6)).layers != graph.layers  # trained altogether


def test_a_model_that_keeps_its_norms_in_evaluation_mode_has_them_fixed() -> None:
    """As is usual: by a train() that puts them back."""

    class Kept(nn.Sequential):
        def train(self, mode: bool = True) -> Kept:
            super().train(mode)
            self[1].eval()
            return self

    graph = neuron_graph(Kept(*mlp()), torch.zeros(2, 12))
    assert graph.frozen == ("1.running_mean", "1.running_var")
    assert graph.least_rows == 2  # the other norm's
