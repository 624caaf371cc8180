"""Measuring how many samples a follower re-identifies by the sums that enter its neurons, bundle by bundle.

The network trains in this process on samples like the devices', for an epoch and one pass of a victim. The
attacker knows the weights of the pass as a follower does, begin and end, and reckons between them. It makes
views of all devices' samples, and looks for the victim's among them. Nothing is rounded, which costs an
attacker next to nothing. In plain mode sums come apart by their sources: as many as a group can have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.protocol.schedule import mini_batches
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.losses.base import Loss
from numpy.typing import NDArray
from torch import Tensor, nn

from crowdlearn_host.errors import ConfigError
from crowdlearn_host.planner.problem.bundles import PAIRED, bundles
from crowdlearn_host.planner.problem.leaks import LeakCurve

from .labels import read_from_errors, read_from_sums
from .matching import matches, standardised

REVISION = 2
"""The version of the way of measuring: curves of another version are measured anew."""
GALLERY, LEAST = 5200, 60
"""Samples of all devices among which one is to be found, at most and at least."""
DEVICES = 5
"""Parts of the gallery; the victim's samples are one."""
MOST_SOURCES = 10
"""Devices from which sums of a hidden layer come, at most."""
SEGMENTS = 4
"""Parts of a pass, in each of which an attacker takes the weights as constant."""
DRAWS = 2
"""Choices of neurons by which each number of them is measured; the worst one counts."""
MOST_FLOATS, MOST_PLACES, LEAST_NEURONS = 800, 100, 8
"""The most numbers of a sample that an attacker compares, and the most of a map from one source; the least
neurons of large maps that are kept.
"""
ALL = 0.995
"""The part that counts as all samples: more neurons are not tried."""
OnStep = Callable[[int, int], None]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Way:
    """The way in which a group trains, as far as leaks depend on it: devices send each other `sums` of layers
    whose neurons `sources` devices own at most.
    """

    batch: int
    learning_rate: float
    momentum: float
    sums: Literal["plain", "masked"]
    sources: int


def leak_curves(
    model: nn.Module,
    graph: NeuronGraph,
    loss: Loss,
    data: Dataset,
    way: Way,
    cache: Path,
    on_step: OnStep = lambda number, of: None,
) -> tuple[LeakCurve, ...]:
    """Return the curve of every bundle, from `cache` if it was measured before; the model stays as it is.

    Raises ConfigError if there are too few samples.
    """
    gallery = _gallery(data)
    kept = cache / f"{_key(model, graph, loss, gallery, way)}.json"
    if kept.exists():
        return tuple(LeakCurve(tuple(n), tuple(y)) for n, y in json.loads(kept.read_text()))
    group = _Group(deepcopy(model), graph, loss, gallery, way)
    members = bundles(graph)
    found = []
    for number, layers in enumerate(members, 1):
        on_step(number, len(members))
        found.append(group.curve(layers))
    _keep(kept, [[list(curve.neurons), list(curve.reidentified)] for curve in found])
    return tuple(found)


def label_parts(
    model: nn.Module, graph: NeuronGraph, loss: Loss, data: Dataset, way: Way, cache: Path
) -> tuple[float, ...]:
    """Return which part of the labels an owner of neurons reads at most, by bundle.
    It is from `cache` if it was measured before; the model stays as it is.

    Raises ConfigError if there are too few samples, or targets are no classes.
    """
    targets = loss.targets(*graph.scores)
    if not targets.are_classes or targets.are_sequences:
        raise ConfigError("max_label_leak is a part of labels that are classes, one a sample; leave it out")
    gallery = _gallery(data)
    kept = cache / f"{_key(model, graph, loss, gallery, way)}-labels.json"
    if kept.exists():
        return tuple(json.loads(kept.read_text()))
    group = _Group(deepcopy(model), graph, loss, gallery, way)
    found = tuple(group.labels_read(layers, graph.layers[-1].neurons) for layers in bundles(graph))
    _keep(kept, found)
    return found


def _gallery(data: Dataset) -> Dataset:
    if len(data) < LEAST:
        raise ConfigError(f"{len(data)} samples are too few to measure leaks by; give {LEAST} or more")
    return data.subset(np.random.default_rng(0).permutation(len(data))[:GALLERY])


def _keep(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content).encode())


def _key(model: nn.Module, graph: NeuronGraph, loss: Loss, gallery: Dataset, way: Way) -> str:
    found = sha256(f"{REVISION} {loss} {asdict(way)} {graph.layers} {graph.edges}".encode())
    for parameter in model.parameters():
        found.update(parameter.detach().numpy().tobytes())
    found.update(np.ascontiguousarray(gallery.inputs).tobytes())
    found.update(np.ascontiguousarray(gallery.labels).tobytes())
    return found.hexdigest()[:32]


class _Group:
    """A network that trains on the samples of all devices, and what crosses its edges for the victim's."""

    def __init__(self, model: nn.Module, graph: NeuronGraph, loss: Loss, gallery: Dataset, way: Way) -> None:
        self._model, self._graph, self._loss, self._way = model, graph, loss, way
        self._gallery, self._victims = gallery, len(gallery) // DEVICES
        trained = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.SGD(trained, way.learning_rate, way.momentum)
        last = len(graph.layers) - 1
        self._edges = [
            number
            for number, e in enumerate(graph.edges)
            if e.module and e.kind not in PAIRED and e.target != last
        ]
        victims, others = np.arange(self._victims), np.arange(self._victims, len(gallery))
        self._train(victims, [])
        self._train(others, [])
        self._before = _weights(model)
        self._errors: dict[str, list[Floats]] = {edge.module: [] for edge in graph.edges if edge.module}
        self._seen = self._train(victims, self._edges, errors=True)
        self._after = _weights(model)

    def _train(self, rows: Rows, edges: Sequence[int], *, errors: bool = False) -> dict[int, Floats]:
        """Learn from samples in mini-batches; return what crossed the edges, in the order of the samples.
        With `errors` those that come back are kept.
        """
        found: dict[int, list[Floats]] = {edge: [] for edge in edges}
        self._model.train()
        for part in mini_batches(len(rows), self._way.batch, 2):
            own = rows[part.start : part.stop]
            self._optimizer.zero_grad()
            with self._taps(edges, found), self._watch(self._errors if errors else {}):
                scores = self._model(torch.from_numpy(self._gallery.inputs[own]))
            labels = torch.from_numpy(self._gallery.labels[own])
            (self._loss.reference(scores, labels) / len(own)).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return {edge: np.concatenate(each) for edge, each in found.items()}

    def curve(self, layers: tuple[int, ...]) -> LeakCurve:
        """Measure a bundle at ever more of its neurons, until all samples are re-identified."""
        edges = [edge for edge in self._edges if self._graph.edges[edge].target in layers]
        if not edges:
            return LeakCurve()
        neurons = self._graph.layers[layers[0]].neurons
        views = list(self._views(edges))
        widths, parts = [], []
        for width in _widths(neurons):
            widths.append(width)
            parts.append(max(_reidentified(views, width, draw) for draw in range(DRAWS)))
            if parts[-1] >= ALL:
                break
        if widths[-1] < neurons:
            widths, parts = [*widths, neurons], [*parts, 1.0]
        return LeakCurve(tuple(widths), tuple(parts))

    def labels_read(self, layers: tuple[int, ...], classes: int) -> float:
        """Return the part of the victim's labels that owners of a bundle's neurons read: from errors, which
        are on an edge without weights those of its target's sums; or from the sums of all the neurons.
        """
        modules: list[str] = []
        for edge in self._graph.edges:
            if edge.source in layers:
                others = (e.module for e in self._graph.incoming(edge.target) if e.module)
                modules.append(edge.module or next(others, ""))
        labels = self._gallery.labels[: self._victims]
        kept = [self._errors[module] for module in dict.fromkeys(modules) if self._errors.get(module)]
        read = [read_from_errors(np.concatenate(each), labels, classes) for each in kept]
        entering = [e for e in self._edges if self._graph.edges[e].target in layers]
        seen = [self._seen[edge].reshape(len(labels), -1) for edge in entering]
        read += [read_from_sums(x[:, :: -(-x.shape[1] // MOST_FLOATS)], labels, classes) for x in seen]
        return max(read, default=0.0)

    @contextmanager
    def _watch(self, errors: dict[str, list[Floats]]) -> Iterator[None]:
        """Record the errors of what modules give, by name: float32 [B, d] for each batch."""

        def keep(name: str, slopes: Tensor) -> None:
            flat = slopes.detach().reshape(len(slopes), -1)
            errors[name].append(flat[:, :: -(-flat.shape[1] // MOST_FLOATS)].numpy().copy())

        def tap(name: str, module: nn.Module, given: object, left: Tensor) -> None:
            if left.requires_grad:
                left.register_hook(partial(keep, name))  # type: ignore[no-untyped-call]

        hooks = [self._model.get_submodule(name).register_forward_hook(partial(tap, name)) for name in errors]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _views(self, edges: Sequence[int]) -> Iterator[tuple[Floats, Floats, Rows]]:
        """Yield for each segment of the pass what was seen, the same of the gallery under the weights that
        the attacker assumes; and the victim's samples: float32 [n, neurons, d], int64 [n].
        """
        state = deepcopy(self._model.state_dict())
        for number, rows in enumerate(np.array_split(np.arange(self._victims), SEGMENTS)):
            at = (number + 0.5) / SEGMENTS
            fields = {name: torch.lerp(x, self._after[name], at) for name, x in self._before.items()}
            self._model.load_state_dict(fields, strict=False)
            gallery = self._crossing(edges)
            seen = np.concatenate([self._seen[edge][rows] for edge in edges], axis=2)
            yield seen, gallery, rows
        self._model.load_state_dict(state)

    def _crossing(self, edges: Sequence[int]) -> Floats:
        found: dict[int, list[Floats]] = {edge: [] for edge in edges}
        with torch.no_grad(), self._taps(edges, found):
            for part in mini_batches(len(self._gallery), self._way.batch, 2):
                self._model(torch.from_numpy(self._gallery.inputs[part.start : part.stop]))
        return np.concatenate([np.concatenate(found[edge]) for edge in edges], axis=2)

    @contextmanager
    def _taps(self, edges: Sequence[int], found: dict[int, list[Floats]]) -> Iterator[None]:
        """Record the sums that cross edges, by source: float32 [B, neurons, d] for each batch."""

        def tap(edge: int, module: nn.Module, entered: tuple[Tensor, ...]) -> None:
            first = self._graph.edges[edge].source == 0
            sources = 1 if first or self._way.sums == "masked" else self._way.sources
            with torch.no_grad():
                found[edge].append(_sums(module, entered[0].detach(), sources))

        hooks = [
            self._model.get_submodule(self._graph.edges[edge].module).register_forward_pre_hook(
                partial(tap, edge)
            )
            for edge in edges
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _sums(module: nn.Module, x: Tensor, sources: int) -> Floats:
    """Return the sums of a linear module, apart by sources, without its bias: float32 [B, neurons, d]."""
    dense = isinstance(module, nn.Linear)
    axis = x.ndim - 1 if dense else 1
    found = []
    for own in torch.tensor_split(torch.arange(x.shape[axis]), min(sources, x.shape[axis])):
        part = torch.zeros_like(x).index_copy_(axis, own, x.index_select(axis, own))
        sums = module.forward(part)
        if isinstance(module.bias, Tensor):
            sums = sums - (module.bias if dense else module.bias.reshape(1, -1, *(1,) * (sums.ndim - 2)))
        maps = sums.movedim(-1, 1) if dense else sums
        maps = maps.reshape(*maps.shape[:2], -1)
        found.append(maps[:, :, :: -(-maps.shape[2] // MOST_PLACES)])
    kept = max(MOST_FLOATS // found[0].shape[2], LEAST_NEURONS)
    return torch.cat(found, 2)[:, :kept].numpy()


def _widths(neurons: int) -> list[int]:
    """Return the numbers of neurons to measure: every small one, then ever fewer."""
    found = [1]
    while found[-1] < neurons:
        found.append(min(max(found[-1] + 1, found[-1] * 5 // 4), neurons))
    return found


def _reidentified(views: list[tuple[Floats, Floats, Rows]], width: int, draw: int) -> float:
    """Return the part of the victim's samples that are found by so many neurons, drawn at random."""
    right = count = 0
    for seen, gallery, rows in views:
        order = np.random.default_rng((draw, seen.shape[1])).permutation(seen.shape[1])[:width]
        own, whole = (x[:, order].reshape(len(x), -1)[:, :MOST_FLOATS] for x in (seen, gallery))
        found = matches(standardised(own, own), standardised(whole, whole))
        right += int((found == rows).sum())
        count += len(rows)
    return right / count


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in model.named_parameters()}
