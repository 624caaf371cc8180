"""From what runs recorded to the rows of each table: flat objects, errors in per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from crowdlearn_export.graph import NeuronGraph
from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.simulation.engine import RoundRecord
from crowdlearn_host.simulation.traffic import sums_per_sample
from crowdlearn_host.simulation.wire import BYTES

from .rows import DEVICES, Row
from .runs import Finished
from .slicing import imbalance, layered, metis

Records = Sequence[RoundRecord]
Flat = dict[str, Any]

PAPER_LOADS = {5: 20340, 10: 10170, 15: 6780, 20: 5085}
PAPER_KILOBYTES = {5: 19.12, 10: 33.57, 15: 46.46, 20: 57.79}
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


def traffic_rows(graph: NeuronGraph) -> list[Flat]:
    """Kilobytes (1000 bytes) of sums and errors that one sample moves: modelled from the plan."""
    rows = []
    for slices in SLICES:
        by_metis = metis(graph, slices)
        sums = sums_per_sample(graph, layered(graph, slices))
        rows.append(
            {
                "table": "traffic",
                "run": f"n = {slices}",
                "paper_kb": PAPER_KILOBYTES.get(slices),
                "metis_float32_kb": by_metis and _kilobytes(sums_per_sample(graph, by_metis), 4),
                "layered_float32_kb": _kilobytes(sums, 4),
                "layered_int8_kb": _kilobytes(sums, 1),
            }
        )
    return rows


def bytes_rows(
    graph: NeuronGraph,
    rows: Sequence[Row],
    runs: Mapping[str, Sequence[Records]],
    accuracies: Sequence[float],
) -> list[Flat]:
    """Gigabytes until the global model reaches an accuracy, by purpose.

    Sums and errors are modelled from METIS's plan for the paper's protocol and from the layered one for ours,
    shuffles from the rotation, sharing is of encoded updates (the paper's protocol gets our codec too). A run
    that does not get there has none.
    """
    told = []
    for row in rows:
        for accuracy in accuracies:
            spent = [_spent(graph, row, records, accuracy) for records in runs[row.label]]
            reached = [each for each in spent if each is not None]
            flat: Flat = {"table": "bytes", "run": row.label, "accuracy": accuracy, "seeds": len(spent)}
            flat["reached"] = len(reached)
            for key in ("epochs", "training_gb", "shuffle_gb", "sharing_gb", "total_gb"):
                flat[key] = round(mean(each[key] for each in reached), 3) if reached else None
            told.append(flat)
    for accuracy in accuracies:
        at = {each["run"]: each["total_gb"] for each in told if each["accuracy"] == accuracy}
        papers = at.get("the paper's protocol")
        for each in told:
            if each["accuracy"] == accuracy and each["total_gb"] and papers:
                each["paper_over_this"] = round(papers / each["total_gb"], 2)
    return told


def _spent(graph: NeuronGraph, row: Row, records: Records, accuracy: float) -> Flat | None:
    config = row.config("paper-mlp", 0)
    there = [r.round for r in records if r.accuracy is not None and r.accuracy >= accuracy]
    if not there:
        return None
    until = records[: there[0] + 1]
    samples = sum(record.samples for record in until)
    epochs = samples / sum(record.samples for record in records if record.epoch == 0)
    training = 0.0
    if config.method == "slicenet":
        plan = _plan(graph, config.group, config.rotation == "full")
        if plan is None:
            return None
        floats = 2 * sums_per_sample(graph, plan)
        training = floats * BYTES[config.training.wire] * samples / 1e9
    # The paper moves slices only; accumulated gradients would double what its shuffles cost.
    shuffle = sum(r.bytes.get("shuffle", 0) for r in until) / 1e9
    if config.method == "slicenet" and config.rotation == "full":
        shuffle = 4 * graph.parameters * DEVICES * epochs / 1e9
    sharing = sum(r.bytes["sharing"] for r in until) / 1e9
    return {
        "epochs": epochs,
        "training_gb": training,
        "shuffle_gb": shuffle,
        "sharing_gb": sharing,
        "total_gb": training + shuffle + sharing,
    }


def _plan(graph: NeuronGraph, slices: int, as_paper: bool) -> Plan | None:
    return metis(graph, slices) if as_paper else layered(graph, slices)


def _kilobytes(sums: int, width: int) -> float:
    return round(2 * sums * width / 1000, 2)
