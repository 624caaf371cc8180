"""No plan relays less than the certificate's bound: against every division of small networks."""

from __future__ import annotations

from itertools import product
from math import inf
from typing import Any

import pytest
import torch
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.errors import InfeasiblePlan
from crowdlearn_host.models.named import mlp
from crowdlearn_host.planner.afford import affording
from crowdlearn_host.planner.planner import plan_fleet
from crowdlearn_host.planner.problem.costs import Training, WireFormat, costs
from crowdlearn_host.planner.problem.fleet import Fleet, deal
from crowdlearn_host.planner.problem.places import compositions, trees
from crowdlearn_host.planner.problem.rotations import Rotation
from crowdlearn_host.planner.problem.seats import group_problem
from crowdlearn_host.planner.rotation import rotate
from crowdlearn_host.planner.spending.epoch_bytes import epoch_traffic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import fleet
from .test_search import shares

GRAPH = neuron_graph(mlp((5, 3, 2, 2)), torch.zeros(2, 5), "tiny")


def sent(graph: NeuronGraph, devices: Fleet, training: Training, groups: int) -> float:
    """The fewest bytes of an epoch that any division sends, every one of them rotated."""
    priced = costs(graph, training)
    problem = group_problem(priced, training, devices, groups)
    parts = deal(devices, groups)
    pieces = min(map(len, parts))
    choices = [
        [(neurons, *[0] * (pieces - 1))] if b in problem.pinned else shares(neurons, pieces)
        for b, neurons in enumerate(problem.neurons)
    ]
    best, seen = inf, set[tuple[tuple[int, ...], ...]]()
    for columns in product(*choices):
        first, *others = zip(*columns, strict=True)
        counts = (first, *sorted((c for c in others if any(c)), reverse=True))
        if counts in seen:
            continue
        seen.add(counts)
        for tree in trees(devices):
            try:
                turned = [
                    rotate(problem, priced, devices, part, counts, training.rotation, tree) for part in parts
                ]
            except InfeasiblePlan:
                continue
            afforded = affording(problem, priced, devices, counts)
            if all(afforded[kind.name][0] for kind in devices.classes if kind.samples):
                best = min(best, epoch_traffic(priced, training, devices, problem, counts, turned).total)
    return best


@st.composite
def crowds(draw: st.DrawFn, classes: int = 2) -> tuple[Fleet, int, Rotation]:
    """Three to six devices, or nine, of one to two `classes`, or three, in one or two groups; not everybody
    holds samples.
    """
    kinds: list[dict[str, Any]] = [
        {
            "name": name,
            "count": draw(st.integers(1, 3)),
            "samples": draw(st.sampled_from([0, 3, 30])) if k else 20,
            "max_macs": draw(st.integers(45, 110)),
        }
        for k, name in enumerate(("one", "other", "third")[: draw(st.integers(1, classes))])
    ]
    kinds[0]["count"] = max(kinds[0]["count"], 3 if len(kinds) == 1 else 1)
    groups = draw(st.integers(1, 2))
    return fleet(*kinds), groups, draw(st.sampled_from(["full", "minimal"]))  # type: ignore[return-value]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(crowds())
def test_no_division_relays_less_than_the_bound(case: tuple[Fleet, int, Rotation]) -> None:
    devices, groups, rotation = case
    training = Training(8, 4, rotation=rotation, theta=0.5, wire=WireFormat(4, 20))
    try:
        plan = plan_fleet(
            GRAPH, devices, training, group_size=devices.size // groups, seconds=10, compare=False
        ).plan
    except InfeasiblePlan:
        return
    best = sent(GRAPH, devices, training, len(plan.groups))
    assert plan.certificate is not None
    assert plan.certificate.bound <= best * (1 + 1e-9)
    assert plan.certificate.cost >= best * (1 - 1e-9)
    if plan.certificate.optimal:
        assert plan.certificate.cost == pytest.approx(best)


def _free_groups_are_the_best(case: tuple[Fleet, int, Rotation], theta: float) -> None:
    devices, _, rotation = case
    training = Training(8, 4, rotation=rotation, theta=theta, wire=WireFormat(4, 20))
    try:
        certificate = plan_fleet(GRAPH, devices, training, seconds=10, compare=False).plan.certificate
    except InfeasiblePlan:
        return
    numbers = [n for n in range(1, devices.size + 1) if all(c.dominators for c in compositions(devices, n))]
    best = min(sent(GRAPH, devices, training, groups) for groups in numbers)
    assert certificate is not None
    assert certificate.bound <= best * (1 + 1e-9)
    assert certificate.cost == pytest.approx(best)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(crowds(), st.sampled_from([0.1, 0.5, 1.0]))
def test_with_free_groups_no_division_into_any_number_sends_less(
    case: tuple[Fleet, int, Rotation], theta: float
) -> None:
    _free_groups_are_the_best(case, theta)


@pytest.mark.nightly
@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(crowds(classes=3), st.sampled_from([0.1, 0.5, 1.0]))
def test_with_free_groups_larger_crowds_are_divided_best(
    case: tuple[Fleet, int, Rotation], theta: float
) -> None:
    _free_groups_are_the_best(case, theta)
