"""What a piece's program takes of memory while it runs, before any piece is exported.

Arenas are planned by the exporter and hard to foretell. So each layer is compiled at a few widths, once, and
what it needs is kept on disk; between the widths it lies near straight lines. The last layers as one region
(`region.py`) are compiled as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import executorch.version
import torch
from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.optimizers.registry import described
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.manifest import LOSS, TRAIN_STEP

from crowdlearn_export.graph.memory_curves import Curve, Footprint, Line, MemoryUse
from crowdlearn_export.graph.neuron_graph import Layer, NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.quiet import quietly
from crowdlearn_export.stages.piece_stages import piece_stages

from .methods import REVISION

PARTS = (4, 2, 1)
"""The widths are these parts of a layer."""
SGD = Sgd(momentum=0.9)


@quietly()
def footprint(
    graph: NeuronGraph,
    micro_batch: int,
    cache: Path | None = None,
    *,
    regions: Collection[int] = (),
    optimizer: Optimizer = SGD,
    memory: MemoryUse = "fastest",
    private: bool = False,
    on_layer: Callable[[int, int], None] = lambda number, of: None,
) -> Footprint:
    """Return the footprint of every layer for micro-batches of up to `micro_batch` + 1 samples, and of the
    `regions` from these layers on. Programs use `memory` in this way; `private` ones are for steps of DP-SGD.
    `on_layer` gets the number of each layer as it begins, and how many there are.

    Takes seconds for every kind of layer that `cache` does not know, and as long as exporting does for a
    region. Raises ExportError as exporting does.
    """
    known: dict[str, tuple[Curve, Curve]] = {}
    found = []
    for number, layer in enumerate(graph.layers, 1):
        on_layer(number, len(graph.layers))
        key = _key(graph, layer, micro_batch, memory, private=private)
        if key not in known:
            known[key] = _cached(cache, key) or _measured(graph, layer, micro_batch, memory, private=private)
            _keep(cache, key, known[key])
        found.append(known[key])
    region = partial(_region, graph, micro_batch=micro_batch, cache=cache, memory=memory)
    in_one = 0 in regions and not private
    return Footprint(
        tuple(arena for arena, _ in found),
        tuple(workspace for _, workspace in found),
        {first: region(first, method=LOSS, private=private) for first in regions},
        region(0, method=TRAIN_STEP, optimizer=optimizer) if in_one else 0.0,
    )


def _region(
    graph: NeuronGraph,
    first: int,
    micro_batch: int,
    cache: Path | None,
    method: str,
    memory: MemoryUse,
    optimizer: Optimizer = SGD,
    *,
    private: bool = False,
) -> float:
    """Return what one method of the region takes: a run calls no other, and touches nothing else."""
    key = _region_key(graph, first, micro_batch, method, memory, optimizer, private=private)
    known = _cached(cache, key)
    if known is None:
        owned = [layer.neurons if layer.index >= first else 0 for layer in graph.layers]
        arena, workspace = _compiled(graph, owned, micro_batch, memory, [method], optimizer, private=private)
        known = (Line(arena, 0.0),), (Line(workspace, 0.0),)
        _keep(cache, key, known)
    return sum(curve[0].each for curve in known)


def _measured(
    graph: NeuronGraph, layer: Layer, micro_batch: int, memory: MemoryUse, *, private: bool
) -> tuple[Curve, Curve]:
    ends = layer.index in (0, len(graph.layers) - 1)
    widths = sorted({layer.neurons if ends else max(1, layer.neurons // part) for part in PARTS})
    alone = [[width if other is layer else 0 for other in graph.layers] for width in widths]
    points = [
        (width, *_compiled(graph, owned, micro_batch, memory, private=private))
        for width, owned in zip(widths, alone, strict=True)
    ]
    return _curve([point[:2] for point in points]), _curve([(width, size) for width, _, size in points])


def _compiled(
    graph: NeuronGraph,
    owned: Sequence[int],
    micro_batch: int,
    memory: MemoryUse,
    only: Collection[str] = (),
    optimizer: Optimizer = SGD,
    *,
    private: bool = False,
) -> tuple[int, int]:
    stages = piece_stages(graph, owned, optimizer, private=private)
    methods = [stage.method for stage in stages if not only or stage.method.name in only]
    from crowdlearn_export.compiler.compile import compile_program  # takes seconds

    compiled = compile_program(methods, max_batch=micro_batch + 1, memory=memory)
    return compiled.arena_bytes, compiled.workspace_bytes


def _curve(points: Sequence[tuple[int, int]]) -> Curve:
    """Return lines through neighbouring points, from nothing on; none falls, and none begins below
    nothing.
    """
    lines = [Line(0.0, points[-1][1] / points[-1][0])]
    for (narrow, low), (wide, high) in pairwise(points):
        rise = max((high - low) / (wide - narrow), 0.0)
        if high >= rise * wide:
            lines.append(Line(high - rise * wide, rise))
    return tuple(dict.fromkeys(lines))


def _key(
    graph: NeuronGraph, layer: Layer, micro_batch: int, memory: MemoryUse, *, private: bool = False
) -> str:
    """Return a key of a layer: layers that are alike share their figures, whatever they are called."""
    targets = [graph.layers[edge.target] for edge in graph.outgoing(layer.index)]
    edges = list(zip(graph.edges, graph.taught, strict=True))
    what: Mapping[str, Any] = {
        "revision": REVISION,
        "torch": torch.__version__,
        "executorch": executorch.version.__version__,
        "rows": micro_batch,
        "memory": memory,
        "place": (layer.index == 0, layer.index == len(graph.layers) - 1),
        "layer": [layer.neurons, layer.sum_shape, layer.output_shape],
        "ops": [(op.kind, dict(op.attributes), op.parameters) for op in layer.ops],
        "edges": [(edge.kind, dict(edge.attributes)) for edge in graph.outgoing(layer.index)],
        "targets": [(target.neurons, target.sum_shape) for target in targets],
        "arrays": [(array.role, array.dtype) for array in array_specs(graph) if array.layer == layer.index],
        "taught": [taught for edge, taught in edges if edge.source == layer.index],
        "asked": any(taught for edge, taught in edges if edge.target == layer.index),
    }
    return _hashed({**what, "private": True} if private else what)


def _region_key(
    graph: NeuronGraph,
    first: int,
    micro_batch: int,
    method: str,
    memory: MemoryUse,
    optimizer: Optimizer,
    *,
    private: bool,
) -> str:
    layers = [_key(graph, layer, micro_batch, memory, private=private) for layer in graph.layers[first:]]
    joined = [
        (max(edge.source - first, -1), edge.target - first, taught)
        for edge, taught in zip(graph.edges, graph.taught, strict=True)
        if edge.target >= first
    ]
    what = {"layers": layers, "edges": joined, "method": method}
    return _hashed(what if optimizer == SGD else {**what, "optimizer": described(optimizer)})


def _hashed(what: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _cached(cache: Path | None, key: str) -> tuple[Curve, Curve] | None:
    if cache is None:
        return None
    try:
        arena, workspace = json.loads((cache / f"{key}.json").read_text())
        return tuple(Line(*line) for line in arena), tuple(Line(*line) for line in workspace)
    except (OSError, ValueError, TypeError):
        return None


def _keep(cache: Path | None, key: str, curves: tuple[Curve, Curve]) -> None:
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f"{key}.{os.getpid()}.partial"
        partial.write_text(json.dumps([[(line.each, line.neuron) for line in curve] for curve in curves]))
        os.replace(partial, cache / f"{key}.json")
