"""One network's pieces, foretold and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from crowdlearn.planning import Training, costs, peak_memory, plan_from_counts, wire_format
from crowdlearn_device.optimizers.registry import Kind, typical
from crowdlearn_device.protocol.schedule import dominator_order
from crowdlearn_export.program.footprint import footprint
from crowdlearn_export.stages.piece_stages import loss_region
from crowdlearn_export.tracing.trace import neuron_graph

from .cases import CASES, LARGE
from .measure import SAMPLES, measure

BATCH = 64


def compare(
    name: str, wire: str, folder: Path, cache: Path, micro_batch: int = 16, optimizer: Kind = "sgd"
) -> list[dict[str, Any]]:
    """A row per piece: bytes in millions, by how many percent the prediction is off, and what a device had at
    most when pieces changed hands.
    """
    case = {**CASES, **LARGE}[name]
    graph = neuron_graph(case.build(), torch.zeros(2, *case.shape), name)
    counts = case.counts(graph)
    # A group that shares all of its weights, as the one that is measured.
    numbers = wire_format(wire)
    training = Training(BATCH, micro_batch, momentum=True, optimizer=optimizer, theta=1.0, wire=numbers)
    region = loss_region(graph, counts[0])
    regions = (region,) if region < len(graph.layers) - 1 else ()
    rule = typical(optimizer, momentum=True)
    known = footprint(graph, micro_batch, cache / "footprints", regions=regions, optimizer=rule)
    priced = costs(graph, training, footprint=known)
    # A device more than pieces where there is one: a spare, to which snapshots go.
    devices = dominator_order(range(max(len(counts), 2)), seed=0, epoch=0)
    grown, shuffled = measure(
        graph, plan_from_counts(graph, counts), training, folder, devices, cache / "programs"
    )
    rows = []
    for piece, count in enumerate(counts):
        foretold = peak_memory(priced.memory, [count[members[0]] for members in priced.layers])
        measured = grown[piece] - SAMPLES * priced.sample_bytes
        rows.append(
            {
                "network": name,
                "wire": wire,
                "optimizer": optimizer,
                "micro-batch": micro_batch,
                "piece": piece,
                "neurons": " ".join(map(str, count)),
                "predicted_mb": foretold / 1e6,
                "measured_mb": measured / 1e6,
                "off_percent": 100 * (foretold / measured - 1),
                "shuffle_mb": (max(shuffled) - SAMPLES * priced.sample_bytes) / 1e6,
            }
        )
    return rows
