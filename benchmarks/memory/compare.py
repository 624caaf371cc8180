"""One network's pieces, foretold and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from crowdlearn_device.schedule import dominator_order
from crowdlearn_export.footprint import footprint
from crowdlearn_export.trace import neuron_graph
from crowdlearn_host.planner.costs import Training, costs
from crowdlearn_host.planner.memory import peak_memory
from crowdlearn_host.planner.plan import plan_from_counts
from crowdlearn_host.planner.wire import wire_format

from .cases import CASES
from .measure import SAMPLES, measure

BATCH, MICRO_BATCH = 64, 16


def compare(name: str, wire: str, folder: Path, cache: Path) -> list[dict[str, Any]]:
    """A row per piece: bytes in millions, and by how many percent the prediction is off."""
    case = CASES[name]
    graph = neuron_graph(case.build(), torch.zeros(2, *case.shape), name)
    last = len(graph.layers) - 1
    counts = [
        [
            (0 if piece else layer.neurons) if layer.index in (0, last) else round(share * layer.neurons)
            for layer in graph.layers
        ]
        for piece, share in enumerate(case.shares)
    ]
    training = Training(BATCH, MICRO_BATCH, momentum=True, wire=wire_format(wire))
    priced = costs(graph, training, footprint=footprint(graph, MICRO_BATCH, cache / "footprints"))
    first = dominator_order(range(len(counts)), seed=0, epoch=0)[0]
    devices = (first, *(device for device in range(len(counts)) if device != first))
    grown = measure(graph, plan_from_counts(graph, counts), training, folder, devices, cache / "programs")
    rows = []
    for piece, count in enumerate(counts):
        foretold = peak_memory(priced.memory, [count[members[0]] for members in priced.layers])
        measured = grown[piece] - SAMPLES * priced.sample_bytes
        rows.append(
            {
                "network": name,
                "wire": wire,
                "piece": piece,
                "neurons": " ".join(map(str, count)),
                "predicted_mb": foretold / 1e6,
                "measured_mb": measured / 1e6,
                "off_percent": 100 * (foretold / measured - 1),
            }
        )
    return rows
