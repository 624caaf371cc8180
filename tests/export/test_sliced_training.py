"""Pieces that exchange sums and errors train exactly like the whole network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.piece.inbox import Message
from crowdlearn_device.piece.piece import Piece
from crowdlearn_device.piece.private_steps import Clipping
from crowdlearn_device.program.executor import Executor, ExecuTorchExecutor
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol.schedule import Pass, micro_batches
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_export.graph.neuron_graph import FrozenAs, NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import arrays_of, state_of
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn

from benchmarks.models import Inverted

SGD = Sgd(momentum=0.9, weight_decay=1e-3)
RATE = 0.05
RELATIVE = 1e-5
"""What float32 may differ by from a float64 reference after a few steps."""
STEPS = 6
UNEVEN = 6
"""Rows of a micro-batch that leave 5 for the last one. With 2, batch norm gives signs: there PyTorch's own
float32 is 3e-5 off.
"""


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 9),
        nn.BatchNorm1d(9),
        nn.ReLU(),
        nn.Linear(9, 6),
        nn.BatchNorm1d(6),
        nn.Tanh(),
        nn.Linear(6, 4),
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 8, 3, stride=2), nn.SiLU(), nn.Flatten()),
        nn.Linear(8, 4),
    )


def without_bias() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.first, self.norm = nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.head = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.stem(x))
        x = torch.tanh(self.second(torch.tanh(self.norm(self.first(x)))) + x)
        return self.head(x.mean((2, 3)))


def depthwise() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.SiLU()),
        *(nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False), nn.BatchNorm2d(6), nn.SiLU()),
        *(nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(4, 3),
    )


def signals() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6), nn.Tanh(), nn.AvgPool1d(2)),
        *(nn.Conv1d(6, 6, 3, padding="same", groups=6), nn.SiLU(), nn.Dropout1d(0.0)),
        *(nn.Conv1d(6, 8, 3, stride=2, dilation=2), nn.SiLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        nn.Linear(8, 4),
    )


class Excited(nn.Module):
    """Maps weighted by what their means say, as squeeze-and-excite and EfficientNet do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.down, self.up, self.head = nn.Linear(6, 4), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.norm(self.stem(x)))
        y = torch.sigmoid(self.up(torch.tanh(self.down(x.mean((2, 3))))))
        x = x * y.view(x.shape[0], -1, 1, 1).expand_as(x)
        return self.head(x.mean((2, 3)))


class Gated(nn.Module):
    """A gate of another dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.gate, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.values(x) * torch.sigmoid(self.gate(x)))


class Stream(nn.Module):
    """A residual stream: the sums after an addition go on as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for part in self.parts:
            x = x + part(x)
        return self.head(x)


def inverted() -> nn.Module:
    """One of MobileNetV2's blocks three times, after one that widens."""
    blocks = (Inverted(2, 6, 1, 2), *(Inverted(6, 6, 1, 2) for _ in range(3)))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


class Counting(ExecuTorchExecutor):
    """Remembers which methods were run."""

    def __init__(self, pte: bytes) -> None:
        super().__init__(pte)
        self.ran: Counter[str] = Counter()

    def run(self, method: str, inputs, *, borrowed: bool = False):
        self.ran[method] += 1
        return super().run(method, inputs, borrowed=borrowed)


Made = Callable[[NeuronGraph, Sequence[int]], tuple[Manifest, Executor]]
"""What runs a piece that owns so many neurons of each layer."""


def exported(programs: Path) -> Made:
    """Real programs."""

    def made(graph: NeuronGraph, owned: Sequence[int]) -> tuple[Manifest, Executor]:
        program = export_slice(graph, owned, SGD, max_batch=16, cache=programs)
        return program.manifest, Counting(program.pte)

    return made


def make_pieces(
    graph: NeuronGraph,
    model: nn.Module,
    counts: Sequence[Sequence[int]],
    order: Sequence[Sequence[int]],
    made: Made,
    ranked: bool,
    of: Pass,
    clipping: Clipping | None = None,
) -> list[Piece]:
    starts = np.cumsum([[0] * len(graph.layers), *counts], axis=0)
    layout = tuple(
        tuple((int(a), int(a + n)) for a, n in zip(starts[k], count, strict=True))
        for k, count in enumerate(counts)
    )
    arrays = arrays_of(graph, model.state_dict(), order)
    pieces = []
    for k, count in enumerate(counts):
        manifest, executor = made(graph, count)
        layers: dict[int, dict[str, np.ndarray]] = {}
        for spec in array_specs(graph):
            a, b = layout[k][spec.layer]
            if b > a:
                part = layers.setdefault(spec.layer, {})
                part[f"value/{spec.name}"] = arrays[spec.name][a:b]
                if spec.trained:
                    part[f"momentum/{spec.name}"] = np.zeros_like(arrays[spec.name][a:b])
                if spec.trained and ranked:
                    part[f"gradient/{spec.name}"] = np.zeros_like(arrays[spec.name][a:b])
        state = PieceState(layout[k], layers)
        pieces.append(Piece(manifest, executor, layout, k, state, 0, of, RATE, seed=0, clipping=clipping))
    return pieces


def deliver(pieces: list[Piece], rng: np.random.Generator) -> None:
    """Run stages and deliver messages in random order (in order per pair) until nothing is left."""
    queues: dict[tuple[int, int], list[Message]] = {}
    while True:
        movable: list[tuple[int, int]] = [pair for pair, queue in queues.items() if queue]
        ready = [(k, k) for k, piece in enumerate(pieces) if piece.ready]
        if not movable and not ready:
            return
        choices = movable + ready
        source, target = choices[rng.integers(len(choices))]
        if source == target:
            for m in pieces[source].run():
                sent = replace(m, values=m.values.copy())  # as the wire would; the next run writes over them
                queues.setdefault((source, m.partner), []).append(sent)
        else:
            m = queues[source, target].pop(0)
            pieces[target].receive(
                Message(source, m.purpose, m.step, m.micro, m.micros, m.rows, m.edge, m.values)
            )


def merged(graph: NeuronGraph, pieces: list[Piece]) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {}
    for piece in pieces:
        for arrays in piece.state().layers.values():
            for key, array in arrays.items():
                if key.startswith("value/"):
                    parts.setdefault(key[6:], []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


@pytest.mark.parametrize(
    ("counts", "micro"),
    [
        ([[12, 0, 0, 4], [0, 5, 2, 0], [0, 4, 4, 0]], 16),
        ([[12, 0, 0, 4], [0, 5, 2, 0], [0, 4, 4, 0]], UNEVEN),
        ([[12, 3, 1, 4], [0, 6, 0, 0], [0, 0, 5, 0]], UNEVEN),
        ([[12, 0, 6, 4], [0, 9, 0, 0]], 16),
    ],
)
def test_sliced_training_equals_unsliced_sgd(counts, micro, programs):
    assert_sliced_equals_whole(mlp, (12,), counts, micro, programs)


@pytest.mark.parametrize("build", [mlp, convolutional])
@pytest.mark.parametrize(
    ("micro", "ranked", "ran"),
    [
        (16, False, {"train_step": 6}),
        (16, True, {"loss": 6}),
        (12, False, {"loss": 6, "train_step": 3}),
    ],
)
def test_the_whole_network_is_one_program(build, micro, ranked, ran, programs):
    """A mini-batch of one micro-batch is one call, where nobody ranks weights by their gradients."""
    sample = (12,) if build is mlp else (2, 8, 8)
    owned = [layer.neurons for layer in neuron_graph(build(), torch.zeros(2, *sample)).layers]
    (piece,) = assert_sliced_equals_whole(build, sample, [owned], micro, programs, ranked=ranked)
    assert ran_by(piece) == ran


@pytest.mark.parametrize("micro", [16, 12])
def test_the_whole_network_may_take_gradients_at_the_weights_before_the_last_update(micro, programs):
    """A piece that is alone overlaps nothing, but with staleness 1 it computes what the definition says."""
    of = Pass(0, STEPS, every=4, staleness=1)
    whole = [[12, 9, 6, 4]]
    (piece,) = assert_sliced_equals_whole(mlp, (12,), whole, micro, programs, ranked=False, of=of)
    assert set(ran_by(piece)) == {"loss"}


def test_a_shortcut_may_enter_the_layers_that_turn_round(programs):
    graph = neuron_graph(Residual(), torch.zeros(2, 2, 8, 8))
    whole = [layer.neurons for layer in graph.layers]
    cut = next(edge.source for edge in graph.edges if edge.kind == "identity")
    counts = [
        [0 if k == cut else n for k, n in enumerate(whole)],
        [n if k == cut else 0 for k, n in enumerate(whole)],
    ]
    pieces = assert_sliced_equals_whole(Residual, (2, 8, 8), counts, 16, programs)
    assert set(ran_by(pieces[0])) == {"forward_0", "backward_0", "loss"}


@pytest.mark.parametrize("build", [convolutional, Residual, depthwise, signals, Excited])
def test_sliced_maps_train_like_the_whole(build, programs):
    sample = (2, 16) if build is signals else (2, 8, 8)
    graph = neuron_graph(build(), torch.zeros(2, *sample))
    counts = [[0] * len(graph.layers) for _ in range(3)]
    for layer in graph.layers:
        ends = layer.index in (0, len(graph.layers) - 1)
        shares = [layer.neurons, 0, 0] if ends else [0, layer.neurons // 2, layer.neurons // 2]
        for k, count in enumerate(shares):
            counts[k][layer.index] = count
    assert_sliced_equals_whole(build, sample, counts, 16, programs)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("build", [without_bias, Stream, Gated])
def test_sums_that_go_on_as_they_are_train_like_the_whole(build, parts, programs):
    """Identities: sums of a layer without a bias, shortcuts, and errors on their way back."""
    layers = neuron_graph(build(), torch.zeros(2, 3)).layers
    hidden = [layer.neurons for layer in layers[1:-1]]
    ends = (layers[0].neurons, *[0] * len(hidden), layers[-1].neurons)
    shares = [[neurons // parts for neurons in hidden] for _ in range(parts)]
    shares[0] = [whole - (parts - 1) * (whole // parts) for whole in hidden]
    assert_sliced_equals_whole(build, (3,), [ends, *((0, *share, 0) for share in shares)], 16, programs)


def test_a_block_repeated_trains_like_the_whole(programs):
    layers = neuron_graph(inverted(), torch.zeros(2, 2, 6, 6)).layers
    hidden = [layer.neurons for layer in layers[1:-1]]
    counts = [(layers[0].neurons, *[0] * len(hidden), layers[-1].neurons), (0, *hidden, 0)]
    assert_sliced_equals_whole(inverted, (2, 6, 6), counts, 16, programs)


def orders(graph: NeuronGraph) -> list[Sequence[int]]:
    """Hidden neurons shuffled, layers of one size alike: those that an identity or depthwise edge joins
    must be.
    """
    last = len(graph.layers) - 1
    return [
        range(layer.neurons)
        if layer.index in (0, last)
        else tuple(np.random.default_rng(layer.neurons).permutation(layer.neurons))
        for layer in graph.layers
    ]


def drawn(sample: Sequence[int], classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The mini-batches."""
    rng = np.random.default_rng(1)
    for step in range(STEPS):
        rows = 16 if step % 2 == 0 else 11
        x = rng.standard_normal((rows, *sample)).astype(np.float32)
        yield x, rng.integers(0, classes, rows)


def set_to(model: nn.Module, weights: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(value)


def ran_by(piece: Piece) -> Counter[str]:
    """The methods that its executor, one that counts, has run."""
    executor: Any = piece._stages._executor
    counted: Counter[str] = executor.ran
    return counted


def assert_sliced_equals_whole(
    build: Callable[[], nn.Module],
    sample: tuple[int, ...],
    counts: Sequence[Sequence[int]],
    micro: int,
    programs: Path | Made,
    *,
    ranked: bool = True,
    of: Pass = Pass(0, STEPS),
    relative: float = RELATIVE,
    frozen_as: FrozenAs = "float32",
) -> list[Piece]:
    torch.manual_seed(3)
    model = build()
    graph = replace(neuron_graph(model, torch.zeros(2, *sample)), frozen_as=frozen_as)
    rng = np.random.default_rng(1)
    order = orders(graph)
    made = exported(programs) if isinstance(programs, Path) else programs
    pieces = make_pieces(graph, model, counts, order, made, ranked, of)
    reference = build().double()
    reference.load_state_dict(model.state_dict())
    sgd = torch.optim.SGD(
        reference.parameters(), lr=RATE, momentum=SGD.momentum, weight_decay=SGD.weight_decay
    )
    for step, (x, y) in enumerate(drawn(sample, graph.layers[-1].neurons)):
        rows = len(y)
        parts = micro_batches(rows, micro)
        newest = [parameter.detach().clone() for parameter in reference.parameters()]
        if of.staleness == 0 or of.drained(step):
            before = newest
        set_to(reference, before)
        sgd.zero_grad()
        losses = []
        for i, part in enumerate(parts):
            pieces[0].feed(step, i, len(parts), rows, x[part.start : part.stop], y[part.start : part.stop])
            out = reference(torch.from_numpy(x[part.start : part.stop]).double())
            loss = (
                nn.functional.cross_entropy(out, torch.from_numpy(y[part.start : part.stop]), reduction="sum")
                / rows
            )
            loss.backward()
            losses.append(float(loss) * rows / len(part))
        set_to(reference, newest)
        before = newest
        sgd.step()
        deliver(pieces, rng)
        assert [piece.boundary for piece in pieces] == [step + 1] * len(pieces)
        results = sorted(pieces[0].results, key=lambda r: r.micro)
        np.testing.assert_allclose([r.loss for r in results], losses, rtol=1e-4)
    trained = state_of(graph, merged(graph, pieces), model.state_dict(), order)
    for name, expected in reference.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            scale = float(expected.abs().max())
            assert float((trained[name] - expected).abs().max()) <= relative * max(scale, 1e-2), name
    return pieces


def dropping() -> nn.Module:
    """Drops single positions of maps, then numbers of flattened maps, twice in one layer."""
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Dropout(0.3), nn.AvgPool2d(4), nn.Flatten()),
        *(nn.Dropout(0.2), nn.Linear(24, 5), nn.Tanh(), nn.Dropout(0.4), nn.Linear(5, 3)),
    )


def test_dropout_is_the_same_however_the_network_is_cut(programs):
    torch.manual_seed(3)
    model = dropping()
    graph = neuron_graph(model, torch.zeros(2, 2, 8, 8))
    whole = [layer.neurons for layer in graph.layers]
    ends = (0, len(whole) - 1)
    first = [n if k in ends else n // 3 for k, n in enumerate(whole)]
    trained = []
    for counts in ([whole], [first, [n - m for n, m in zip(whole, first, strict=True)]]):
        pieces = make_pieces(graph, model, counts, (), exported(programs), True, Pass(0, STEPS))
        for step, (x, y) in enumerate(drawn((2, 8, 8), 3)):
            pieces[0].feed(step, 0, 1, len(y), x, y)
            deliver(pieces, np.random.default_rng(step))
        trained.append(merged(graph, pieces))
    for name, value in trained[0].items():
        np.testing.assert_allclose(trained[1][name], value, atol=1e-5, err_msg=name)
        assert np.abs(value - arrays_of(graph, model.state_dict())[name]).max() > 1e-4, name
