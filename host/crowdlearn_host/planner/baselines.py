"""Baselines: the paper's METIS on the plain edge cut, and a hypergraph partitioner on sums per present
source.

Both divide hidden neurons among the followers' seats, in proportion to what these can compute, and are
judged by the planner's own accounting. Neither knows of memory or uplinks: a division over a budget is
shown, but never planned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

from crowdlearn_host.planner.problem.problem import Division, Problem, cost, forward_floats, violations
from crowdlearn_host.planner.solver.piece_program import seat_classes

SEEDS = {"METIS": 5, "hypergraph": 2}
IMBALANCE = 0.03
MAX_PINS = 3_000_000


@dataclass(frozen=True)
class Baseline:
    """A partitioner's best division of several seeds, what it costs, and the budgets that it breaks."""

    name: str
    division: Division
    cost: float
    floats: int
    broken: tuple[str, ...]


@dataclass(frozen=True)
class _Vertices:
    """Every neuron of every free bundle, in order."""

    starts: dict[int, range]
    weights: list[int]


def baselines(problem: Problem, loads: Sequence[float]) -> list[Baseline]:
    """Return every partitioner that is installed (`pip install crowdlearn[partitioners]`); `loads` per neuron
    of each bundle.
    """
    partitioners: list[tuple[str, Callable[[Problem, _Vertices, list[float], int], list[int] | None]]] = [
        ("METIS", _metis),
        ("hypergraph", _hypergraph),
    ]
    if _unfit(problem):
        return []
    seats = [seat for seat in seat_classes(problem) if seat]
    shares = _shares(problem, seats)
    vertices = _vertices(problem, loads)
    found = []
    for name, partition in partitioners:
        divisions = []
        for seed in range(SEEDS[name]):
            parts = partition(problem, vertices, shares, seed)
            if parts is not None:
                divisions.append(_division(problem, seats, vertices, parts))
        judged = [
            Baseline(
                name,
                division,
                cost(problem, division),
                forward_floats(problem, division.counts),
                tuple(violations(problem, division)),
            )
            for division in divisions
        ]
        if judged:
            found.append(min(judged, key=lambda baseline: (bool(baseline.broken), baseline.cost)))
    return found


def absent(problem: Problem) -> dict[str, str]:
    """Return the partitioners that `baselines` leaves out, and why."""
    unfit = _unfit(problem)
    if unfit:
        return dict.fromkeys(SEEDS, unfit)
    modules = {"METIS": "pymetis", "hypergraph": "mtkahypar"}
    return {
        name: f"not run: {module} is not installed"
        for name, module in modules.items()
        if find_spec(module) is None
    }


def _unfit(problem: Problem) -> str:
    """Return why no partitioner can divide this; empty if they can."""
    followers = sum(seat.count for seat in problem.seats[1:])
    neurons = sum(problem.neurons[b] for b in problem.free)
    if followers < 2:
        return "nothing to divide among fewer than two followers"
    if neurons < followers:
        return f"not run: {neurons:,} hidden neurons are fewer than {followers:,} followers"
    if _pairs(problem) > MAX_PINS:
        return f"not run: {_pairs(problem):,} pairs of neurons, at most {MAX_PINS:,}"
    return ""


def _pairs(problem: Problem) -> int:
    return sum(problem.neurons[link.source] * problem.neurons[link.target] for link in problem.links)


def _shares(problem: Problem, seats: Sequence[int]) -> list[float]:
    limits = [next((b.limit for b in problem.seats[seat].budgets), 1.0) for seat in seats]
    return [limit / sum(limits) for limit in limits]


def _vertices(problem: Problem, loads: Sequence[float]) -> _Vertices:
    free = problem.free
    edges = [0, *accumulate(problem.neurons[b] for b in free)]
    starts = {b: range(edges[i], edges[i + 1]) for i, b in enumerate(free)}
    largest = max((loads[b] for b in free), default=1.0)
    scale = min(1.0, 2**20 / largest) if largest else 1.0
    weights = [max(1, round(loads[b] * scale)) for b in free for _ in range(problem.neurons[b])]
    return _Vertices(starts, weights)


def _division(problem: Problem, seats: Sequence[int], vertices: _Vertices, parts: Sequence[int]) -> Division:
    whole = tuple(n if b in problem.pinned else 0 for b, n in enumerate(problem.neurons))
    counts = [[0] * len(problem.neurons) for _ in seats]
    for b, members in vertices.starts.items():
        for vertex in members:
            counts[parts[vertex]][b] += 1
    return Division((0, *seats), (whole, *(tuple(count) for count in counts)))


def _metis(problem: Problem, vertices: _Vertices, shares: list[float], seed: int) -> list[int] | None:
    try:
        import pymetis
    except ImportError:
        return None
    neighbours: list[dict[int, int]] = [{} for _ in vertices.weights]
    for link in problem.links:
        for source in vertices.starts.get(link.source, ()):
            for target in vertices.starts.get(link.target, ()):
                if source != target:
                    neighbours[source][target] = neighbours[source].get(target, 0) + link.floats
                    neighbours[target][source] = neighbours[target].get(source, 0) + link.floats
    _, parts = pymetis.part_graph(
        len(shares),
        pymetis.CSRAdjacency(
            adj_starts=[0, *accumulate(len(near) for near in neighbours)],
            adjacent=[vertex for near in neighbours for vertex in near],
        ),
        eweights=[weight for near in neighbours for weight in near.values()],
        vweights=vertices.weights,
        tpwgts=shares,
        recursive=False,
        options=pymetis.Options(seed=seed, ufactor=round(1000 * IMBALANCE)),
    )
    return list(parts)


def _hypergraph(problem: Problem, vertices: _Vertices, shares: list[float], seed: int) -> list[int] | None:
    """Return one net per target neuron with all its sources: connectivity less one is the sums sent to it."""
    partitioner = _mtkahypar()
    if partitioner is None:
        return None
    library, initializer = partitioner
    nets, weights = [], []
    for link in problem.links:
        sources = vertices.starts.get(link.source)
        if sources is None:
            continue
        if link.target in vertices.starts:
            for target in vertices.starts[link.target]:
                nets.append(sorted({target, *sources}))
                weights.append(link.floats)
        else:
            nets.append(list(sources))
            weights.append(link.floats * problem.neurons[link.target])
    library.set_seed(seed)
    context = initializer.context_from_preset(library.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(len(shares), IMBALANCE, library.Objective.KM1)
    context.logging = False
    total = sum(vertices.weights)
    context.set_individual_target_block_weights(
        [int(total * share * (1 + IMBALANCE)) + 1 for share in shares]
    )
    graph = initializer.create_hypergraph(
        context, len(vertices.weights), len(nets), nets, vertices.weights, weights
    )
    parts: list[int] = graph.partition(context).get_partition()
    return parts


@cache
def _mtkahypar() -> tuple[Any, Any] | None:
    """Return the library and its one initialisation, on one thread; None if it is not installed."""
    try:
        import mtkahypar
    except ImportError:
        return None
    return mtkahypar, mtkahypar.initialize(1)
