"""python -m benchmarks.planner: proven optima on the paper's network, gaps on mixed fleets of 20 devices, and
gaps of crowds of 5 to 200 devices whose groups are free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from crowdlearn.errors import InfeasiblePlan
from crowdlearn.models import build_model, paper_cnn, paper_mlp
from crowdlearn.planning import (
    Baseline,
    Costs,
    Fleet,
    Training,
    baselines,
    costs,
    group_problem,
    memory_budgets,
    paper_problem,
    plan_fleet,
    search,
    wire_format,
)
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.trace import neuron_graph
from rich.console import Console
from rich.table import Table
from torch import nn

from .models import mobilenet_v2, resnet20
from .report import known, machine, write_rows

SLICES = (5, 10, 15, 20)
STRENGTH = {"high": 10.0, "mid": 10**0.5, "low": 1.0}
"""What the classes can afford, relative to each other: one order of magnitude from the weakest to the
strongest.
"""
SLACK = 1.4
"""What all followers together can compute, over what the hidden layers need."""
MEMORY_SLACK = 8.0
CROWDS = (5, 10, 20, 50, 100, 200)
CROWDED: dict[str, Callable[[], nn.Module]] = {
    "paper MLP": paper_mlp,
    "MLP 64-256-256-10": partial(build_model, "mlp:64-256-256-10", 0),
}
"""Networks by name. A device that affords input and output layer of the first affords the others, too."""
DOMINATOR_SAMPLES = 500


@dataclass(frozen=True)
class Case:
    """A network and how many devices of each class its fleet has."""

    name: str
    build: Callable[[], nn.Module]
    sample: tuple[int, ...]
    high: int
    mid: int
    low: int


CASES = (
    Case("paper MLP", paper_mlp, (784,), 1, 7, 12),
    Case("paper CNN", paper_cnn, (3, 32, 32), 4, 6, 10),
    Case("ResNet-20", resnet20, (3, 32, 32), 4, 6, 10),
    Case("MobileNetV2", mobilenet_v2, (3, 32, 32), 4, 6, 10),
)


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Time limit for each mixed fleet.")] = 60.0,
    quick: Annotated[bool, typer.Option(help="5 s for each mixed fleet, without baselines there.")] = False,
    networks: Annotated[str, typer.Option(help="Only these of the mixed fleets, comma-separated.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all rows there.")] = None,
) -> None:
    """Plan, and compare with METIS and a hypergraph partitioner under the identical accounting."""
    names = networks.split(",") if networks else [case.name for case in CASES]
    known("--networks", names, [case.name for case in CASES])
    console = Console(width=130)
    console.print(machine())
    paper = [_paper_row(slices) for slices in SLICES]
    _print(console, "paper MLP, equal slices, imbalance 1.03: floats sent forward per sample", paper)
    crowds = [
        _crowd_row(name, build, devices, 5.0 if quick else seconds)
        for name, build in CROWDED.items()
        for devices in (CROWDS[::2] if quick else CROWDS)
    ]
    _print(console, "groups free, a fifth of the devices dominates: bytes per epoch, all purposes", crowds)
    wanted = [case for case in CASES if case.name in names]
    mixed = [_mixed_row(case, 5.0 if quick else seconds, compare=not quick) for case in wanted]
    _print(console, "20 devices of three classes: relayed bytes per epoch", mixed)
    write_rows(json_file, paper + crowds + mixed)


def _paper_row(slices: int) -> dict[str, Any]:
    graph = neuron_graph(paper_mlp(), torch.zeros(1, 784), "paper MLP")
    problem = paper_problem(graph, slices)
    solution = search(problem, 10.0)
    compared = baselines(problem, problem.seats[1].budgets[0].per_neuron)
    return {
        "network": "paper MLP",
        "slices": slices,
        "planner": round(solution.cost),
        "lower bound": round(solution.bound, 3),
        "proven": solution.optimal,
        "seconds": round(solution.seconds, 2),
        **{baseline.name: baseline.floats for baseline in compared},
    }


def _crowd_row(name: str, build: Callable[[], nn.Module], devices: int, seconds: float) -> dict[str, Any]:
    module = build()
    first = next(module.parameters())
    graph = neuron_graph(module, torch.zeros(1, first.shape[1]), name)
    training = Training(wire=wire_format("float32"))
    fleet = crowd(costs(graph, training), devices)
    began = time.process_time()
    plan = plan_fleet(graph, fleet, training, seconds=seconds, compare=False).plan
    worked = time.process_time() - began
    certificate = plan.certificate
    assert certificate is not None
    return {
        "network": name,
        "devices": devices,
        "groups": len(plan.groups),
        "pieces": len(plan.pieces),
        "planner MB": round(certificate.cost / 1e6, 2),
        "lower bound MB": round(certificate.bound / 1e6, 2),
        "gap %": round(100 * certificate.gap, 2),
        "CPU seconds": round(worked, 1),
    }


def crowd(priced: Costs, devices: int) -> Fleet:
    """Return a fleet of three classes. A fifth dominates, with a tenth of the hidden neurons' MACs to spare;
    of eight others three afford half of these MACs, and five 15 %.
    """
    pinned = sum(priced.neurons[bundle] * priced.each[bundle].macs for bundle in priced.pinned)
    hidden = sum(n * each.macs for n, each in zip(priced.neurons, priced.each, strict=True)) - pinned
    dominators = max(1, devices // 5)
    middle = round(3 / 8 * (devices - dominators))
    strong = {"name": "strong", "count": dominators, "samples": DOMINATOR_SAMPLES, "macs_per_second": 1e9}
    classes = [
        {**strong, "max_macs": round(1.02 * pinned + 0.1 * hidden)},
        {"name": "middle", "count": middle, "macs_per_second": 1e8, "max_macs": round(0.5 * hidden)},
        {
            "name": "weak",
            "count": devices - dominators - middle,
            "macs_per_second": 1e8,
            "max_macs": round(0.15 * hidden),
        },
    ]
    return Fleet.model_validate({"class": classes})


def _mixed_row(case: Case, seconds: float, *, compare: bool) -> dict[str, Any]:
    graph = neuron_graph(case.build(), torch.zeros(1, *case.sample), case.name)
    training = Training(wire=wire_format("float32"))
    fleet = mixed_fleet(case, graph, costs(graph, training))
    began = time.process_time()
    try:
        planned = plan_fleet(graph, fleet, training, group_size=fleet.size, seconds=seconds, compare=False)
    except InfeasiblePlan as error:
        return {"network": case.name, "planner MB": str(error).partition(":")[0], "seconds": seconds}
    worked = time.process_time() - began
    certificate = planned.plan.certificate
    assert certificate is not None
    shares = [budget.share for piece in planned.plan.pieces for budget in piece.budgets]
    row = {
        "network": case.name,
        "pieces": len(planned.plan.pieces),
        "planner MB": round(certificate.cost / 1e6, 2),
        "lower bound MB": round(certificate.bound / 1e6, 2),
        "gap %": round(100 * certificate.gap, 2),
        "seconds": round(certificate.seconds, 1),
        "CPU seconds": round(worked, 1),
        "fullest budget %": round(100 * max(shares), 1),
        "over budget": sum(share > 1 + 1e-9 for share in shares),
    }
    if compare:
        compared = plan_baselines(graph, fleet, training)
        for baseline in compared:
            over = f" ({len(baseline.broken)} over budget)" if baseline.broken else ""
            row[f"{baseline.name} MB"] = f"{baseline.cost / 1e6:.2f}{over}"
    return row


def plan_baselines(graph: NeuronGraph, fleet: Fleet, training: Training) -> list[Baseline]:
    """What the partitioners reach on one group of the whole fleet."""
    priced = costs(graph, training)
    return baselines(group_problem(priced, training, fleet, 1), [each.macs for each in priced.each])


def mixed_fleet(case: Case, graph: NeuronGraph, priced: Costs) -> Fleet:
    """Three classes, tight for this network: followers together can do SLACK times what the hidden layers
    need.

    The strongest class can also hold input and output layer. A class that cannot, holds no samples.
    """
    pinned = sorted(priced.pinned)
    head_macs = sum(priced.neurons[b] * priced.each[b].macs for b in pinned)
    head_memory = _memory(priced, [n if b in pinned else 0 for b, n in enumerate(priced.neurons)])
    macs = sum(n * each.macs for n, each in zip(priced.neurons, priced.each, strict=True)) - head_macs
    every = range(len(priced.neurons))
    least = max(_memory(priced, [int(b == only) for b in every]) for only in every)
    memory = _memory(priced, priced.neurons) - head_memory
    counts = {"high": case.high - 1, "mid": case.mid, "low": case.low}
    unit = 1 / sum(STRENGTH[name] * count for name, count in counts.items())
    classes = []
    for name, count in {"high": case.high, "mid": case.mid, "low": case.low}.items():
        strength = unit * STRENGTH[name]
        caps = [SLACK * macs * strength, least + MEMORY_SLACK * memory * strength]
        if name == "high":
            caps = [max(caps[0], 1.05 * head_macs), max(caps[1], 1.3 * head_memory)]
        dominates = caps[0] >= head_macs and caps[1] >= head_memory
        caps[1] += DOMINATOR_SAMPLES * priced.sample_bytes * dominates
        classes.append(
            {
                "name": name,
                "count": count,
                "samples": DOMINATOR_SAMPLES if dominates else 0,
                "macs_per_second": 1e8 * STRENGTH[name],
                "max_macs": round(caps[0]),
                "max_memory": round(caps[1]),
            }
        )
    return Fleet.model_validate({"class": classes})


def _memory(priced: Costs, counts: Sequence[int]) -> float:
    """What the planner's limits count for a piece."""
    return max(budget.use(counts) for budget in memory_budgets(priced.memory, inf))


def _print(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
