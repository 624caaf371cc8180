"""What runs spent: gigabytes until an accuracy, and federated averaging for as many bytes or rounds.

Sums and errors are modelled from METIS's plan for the paper's protocol and from the layered one for ours.
Shuffles are modelled: of all pieces for the paper's protocol, whose accumulated gradients are not counted; as
the server for phones moves them for ours, which are none where every pass ends in a sharing that renews every
weight. Sharing is of encoded updates (the paper's protocol gets our codec
too). Federated averaging sends float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from crowdlearn.models import build_model
from crowdlearn.planning import Plan
from crowdlearn.simulation import (
    RoundRecord,
    SimulationConfig,
    flat_layout,
    piece_of_weight,
    shuffle_bytes,
    sums_per_sample,
)
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_host.simulation.learners.rounding import BYTES

from .rows import Row
from .slicing import layered, metis

PAPERS = "the paper's protocol"
MODEL = "paper-mlp"

Records = Sequence[RoundRecord]
Runs = Mapping[str, Sequence[Records]]
Flat = dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """Gigabytes by purpose, and how often everybody's data was passed."""

    epochs: float
    training: float
    shuffles: float
    sharing: float

    @property
    def total(self) -> float:
        return self.training + self.shuffles + self.sharing


class Prices:
    """What a run's samples and epochs cost beside its sharing. Raises LookupError where METIS is missing."""

    def __init__(self, graph: NeuronGraph, row: Row) -> None:
        config = row.config(MODEL, 0)
        self.training = self.shuffles = 0.0
        if config.method == "fedavg":
            return
        plan = _plan(graph, config)
        if plan is None:
            raise LookupError("pymetis is not installed")
        self.training = 2 * sums_per_sample(graph, plan) * BYTES[config.training.wire] / 1e9
        if config.rotation == "full":
            moved = 4 * graph.parameters
        else:
            state = build_model(MODEL, 0).state_dict()
            pieces = piece_of_weight(flat_layout(state), graph, plan)
            moved = shuffle_bytes(config, pieces, np.zeros(len(pieces), np.bool_))
        shuffles = config.group - config.renews * config.rounds_an_epoch
        self.shuffles = moved * shuffles * config.groups / 1e9

    def spent(self, records: Records, until: int) -> Spent:
        """What a run spent in its first `until` rounds."""
        samples = sum(record.samples for record in records[:until])
        epochs = samples / sum(record.samples for record in records if record.epoch == 0)
        sharing = sum(record.bytes["sharing"] for record in records[:until]) / 1e9
        return Spent(epochs, self.training * samples, self.shuffles * epochs, sharing)


def bytes_rows(
    graph: NeuronGraph, rows: Sequence[Row], runs: Runs, accuracies: Sequence[float]
) -> list[Flat]:
    """Gigabytes until the global model reaches an accuracy, by purpose; none where no run gets there."""
    found: list[Flat] = []
    for row in rows:
        try:
            prices = Prices(graph, row)
        except LookupError:
            continue
        for accuracy in accuracies:
            reached = [
                prices.spent(records, rounds)
                for records in runs[row.label]
                if (rounds := _rounds_to(records, accuracy)) is not None
            ]
            flat: Flat = {"table": "bytes", "run": row.label, "accuracy": accuracy}
            flat["reached"] = f"{len(reached)} of {len(runs[row.label])}"
            for key in ("epochs", "training", "shuffles", "sharing", "total"):
                name = key if key == "epochs" else f"{key} GB"
                flat[name] = round(mean(getattr(each, key) for each in reached), 3) if reached else None
            found.append(flat)
    for accuracy in accuracies:
        at = {each["run"]: each for each in found if each["accuracy"] == accuracy}
        papers = at.get(PAPERS, {}).get("total GB")
        for each in at.values():
            total = each["total GB"]
            each["paper / this"] = round(papers / total, 2) if papers and total else None
    return found


def fedavg_rows(graph: NeuronGraph, rows: Sequence[Row], runs: Runs) -> list[Flat]:
    """Federated averaging for as many bytes as each other run spent, and for as many rounds as its epochs."""
    averaged = [row for row in rows if row.config(MODEL, 0).method == "fedavg"]
    found: list[Flat] = []
    for row in rows:
        if row in averaged:
            continue
        try:
            prices = Prices(graph, row)
        except LookupError:
            continue
        ends = [prices.spent(records, len(records)) for records in runs[row.label]]
        total, epochs = mean(end.total for end in ends), round(mean(end.epochs for end in ends))
        for other in averaged:
            price = Prices(graph, other)
            a_round = price.spent(runs[other.label][0], 1).total
            affordable = int(total / a_round)
            found.append(
                {
                    "table": "fedavg",
                    "run": row.label,
                    "epochs": epochs,
                    "GB": round(total, 2),
                    "error %": _error(runs[row.label], len(runs[row.label][0])),
                    "beside": other.label,
                    "rounds for these GB": affordable,
                    "then error %": _error(runs[other.label], affordable),
                    "GB of as many rounds": round(epochs * a_round, 2),
                    "error % then": _error(runs[other.label], epochs),
                }
            )
    return found


def _error(runs: Sequence[Records], rounds: int) -> float | None:
    """Mean test error of the global model after so many rounds, in per cent; None where none ran as many."""
    known = [records[rounds - 1].accuracy for records in runs if 0 < rounds <= len(records)]
    return round(100 - 100 * mean(a for a in known if a is not None), 2) if any(known) else None


def _rounds_to(records: Records, accuracy: float) -> int | None:
    there = [i for i, r in enumerate(records, 1) if r.accuracy is not None and r.accuracy >= accuracy]
    return there[0] if there else None


def _plan(graph: NeuronGraph, config: SimulationConfig) -> Plan | None:
    return metis(graph, config.group) if config.rotation == "full" else layered(graph, config.group)
