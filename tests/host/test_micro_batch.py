"""The micro-batch that is taken if nobody says otherwise: as many parts as computing hides."""

from __future__ import annotations

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.spec.micro_batch import (
    MACS_PER_SECOND,
    MESSAGE_SECONDS,
    cheapest_rows,
    exchanged_messages,
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
