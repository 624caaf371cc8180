"""From what runs recorded to the rows of each table: flat objects, errors in per cent."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from crowdlearn.simulation import sums_per_sample
from crowdlearn_export.graph.neuron_graph import NeuronGraph

from .rows import Row
from .runs import Finished
from .slicing import imbalance, layered, metis

Flat = dict[str, Any]

PAPER_LOADS = {5: 20340, 10: 10170, 15: 6780, 20: 5085}
PAPER_KILOBYTES = {
    "traffic": {5: 19.12, 10: 33.57, 15: 46.46, 20: 57.79},
    "cnn-traffic": {5: 214.87, 10: 331.45, 15: 818.11, 20: 1034.29},
}
SLICES = (5, 10, 12, 15, 20)


def error_row(table: str, row: Row, finished: Sequence[Finished]) -> Flat:
    """Test error after the last epoch: the groups' models (as the paper tells it), and the global model."""
    runs = [each.records for each in finished]
    groups = [100 - 100 * float(records[-1].group_accuracy or 0) for records in runs]
    whole = [100 - 100 * float(records[-1].accuracy or 0) for records in runs]
    return {
        "table": table,
        "run": row.label,
        "paper %": row.paper,
        "ours %": round(mean(groups), 2),
        "least": round(min(groups), 2),
        "most": round(max(groups), 2),
        "global %": round(mean(whole), 2),
        "seeds": len(runs),
        "epochs": runs[0][-1].epoch + 1,
        "core minutes": round(mean(each.cpu_seconds for each in finished) / 60, 2),
    }


def load_rows(graph: NeuronGraph) -> list[Flat]:
    """Ideal load of a slice, and how far the largest slice is above the mean (the paper publishes 1.03)."""
    total = sum(
        (1 + graph.layers[layer + 1].neurons) * graph.layers[layer].neurons
        for layer in range(1, len(graph.layers) - 1)
    )
    rows = []
    for slices in SLICES:
        by_metis = metis(graph, slices)
        rows.append(
            {
                "table": "load",
                "run": f"n = {slices}",
                "paper_ideal": PAPER_LOADS.get(slices),
                "ideal": round(total / slices),
                "metis_imbalance": by_metis and round(imbalance(graph, by_metis), 3),
                "layered_imbalance": round(imbalance(graph, layered(graph, slices)), 3),
            }
        )
    return rows


def traffic_rows(graph: NeuronGraph, table: str = "traffic") -> list[Flat]:
    """Kilobytes (1000 bytes) of sums and errors that one sample moves: modelled from the plan."""
    rows = []
    for slices in SLICES:
        by_metis = metis(graph, slices)
        sums = sums_per_sample(graph, layered(graph, slices))
        rows.append(
            {
                "table": table,
                "run": f"n = {slices}",
                "paper_kb": PAPER_KILOBYTES[table].get(slices),
                "metis_float32_kb": by_metis and _kilobytes(sums_per_sample(graph, by_metis), 4),
                "layered_float32_kb": _kilobytes(sums, 4),
                "layered_int8_kb": _kilobytes(sums, 1),
            }
        )
    return rows


def _kilobytes(sums: int, width: int) -> float:
    return round(2 * sums * width / 1000, 2)
