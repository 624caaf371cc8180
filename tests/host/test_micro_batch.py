"""The micro-batch that is taken if nobody says otherwise: as many parts as computing hides."""

from __future__ import annotations

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.coordinator.hub.traffic_ledger import exchanged_messages
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.runs.planned import PlanRequest, plan_network
from crowdlearn_host.spec.micro_batch import (
    MACS_PER_SECOND,
    MESSAGE_SECONDS,
    cheapest_rows,
    rows_for,
    rows_of,
)
from crowdlearn_host.spec.run_spec import ALONE_ROWS, LEAST_ROWS, TrainingSection


@pytest.mark.parametrize(
    ("model", "pieces", "batch", "rows"),
    [
        ("mlp:784-400-200-100-10", 5, 64, 64),
        ("mlp:784-400-200-100-10", 5, 512, 128),
        ("mlp:784-400-200-100-10", 2, 64, 16),
        ("mlp:64-16-10", 3, 32, 32),
        ("mlp:64-16-10", 3, 1000, 125),
    ],
)
def test_messages_cost_no_more_than_half_where_the_batch_allows_it(
    model: str, pieces: int, batch: int, rows: int
) -> None:
    inputs = int(model.split(":")[1].split("-")[0])
    graph = neuron_graph(build_model(model, 0), torch.zeros(2, inputs), model)
    plan = balanced(graph, pieces)
    assert cheapest_rows(graph, plan, batch) == rows
    messages = exchanged_messages(graph, tuple(piece.neurons for piece in plan.pieces)) * MESSAGE_SECONDS
    computing = rows * sum(piece.macs for piece in plan.pieces) / MACS_PER_SECOND
    assert LEAST_ROWS <= rows <= ALONE_ROWS
    assert rows in (batch, 125, ALONE_ROWS) or computing >= messages or rows == LEAST_ROWS
    assert rows_of(TrainingSection(batch=batch, micro_batch=8), graph, plan) == 8


@pytest.mark.parametrize(
    ("message_seconds", "macs_per_second", "sample_seconds", "rows"),
    [
        (None, 1e9, 0.0, 0),  # nobody measured
        (130e-6, 2e9, 0.0, 22),
        (130e-6, 1e10, 0.0, 64),
        (130e-6, 2e7, 0.0, 16),  # computing takes far longer than messages
        (130e-6, 1e10, 0.0002, 25),  # of which the link carries 25 in LINK_SECONDS
    ],
)
def test_a_measured_fleet_has_the_micro_batch_that_its_messages_are_worth(
    message_seconds: float | None, macs_per_second: float, sample_seconds: float, rows: int
) -> None:
    graph = neuron_graph(build_model("mlp:784-400-200-100-10", 0), torch.zeros(2, 784), "mlp")
    kind = {"name": "phone", "count": 5, "samples": 9, "macs_per_second": macs_per_second}
    if message_seconds is not None:
        kind["message_seconds"] = message_seconds
    fleet = Fleet.parse({"class": [kind]}, "the test")
    assert rows_for(graph, balanced(graph, 5), fleet, 64, sample_seconds) == rows


@pytest.mark.parametrize(("message_seconds", "rows"), [(None, 16), (130e-6, 32)])
def test_a_plan_for_a_measured_fleet_has_that_micro_batch(message_seconds: float | None, rows: int) -> None:
    kind = {"name": "phone", "count": 3, "samples": 9, "macs_per_second": 2e9, "max_macs": 2500}
    if message_seconds is not None:
        kind["message_seconds"] = message_seconds
    request = PlanRequest("mlp:64-16-10", (64,), batch=32)
    found = plan_network(request, Fleet.parse({"class": [kind]}, "the test"), seconds=2.0)
    assert len(found.plan.pieces) > 1
    assert found.plan.micro_batch == found.training.micro_batch == rows
