"""What would be larger than a message is refused when it is planned."""

from __future__ import annotations

import pytest
import torch
from crowdlearn_device.protocol.frames import MAX_FRAME
from crowdlearn_device.state.piece_state import MOST_KINDS
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.errors import PlanError
from crowdlearn_host.planner import messages
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.messages import check_messages
from crowdlearn_host.planner.micro_batch import plan_with_micro_batch
from crowdlearn_host.planner.problem.costs import Training
from crowdlearn_host.planner.problem.wire_format import wire_format
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import RunSpec
from torch import nn

from .conftest import fleet

WIDTH = 1 << 10
WIDE = nn.Sequential(nn.Linear(2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))
GRAPH = neuron_graph(WIDE, torch.zeros(2, 2), "wide")
ROWS = MAX_FRAME // (4 * WIDTH)
"""As many samples as would just fit a message, were there nothing else in it."""


def layout(pieces: int) -> list[tuple[tuple[int, int], ...]]:
    return [piece.neurons for piece in balanced(GRAPH, pieces).pieces]


def test_sums_that_fit_no_message_are_refused_with_what_to_change() -> None:
    check_messages(GRAPH, layout(2), ROWS - 100, 4)
    with pytest.raises(
        PlanError, match=r"layer .* 67\.1 MB, and a message has .*smaller micro-batches"
    ) as refused:
        check_messages(GRAPH, layout(2), ROWS, 4)
    assert f"{ROWS} samples for {WIDTH} neurons" in str(refused.value)
    check_messages(GRAPH, layout(2), ROWS, 1)  # int8
    check_messages(GRAPH, layout(3), ROWS, 4)  # more pieces
    check_messages(GRAPH, layout(1), ROWS, 4)  # nobody to send anything to


def test_a_neuron_whose_state_fits_no_message_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_FRAME", messages.ROOM + 4 * MOST_KINDS * WIDTH)
    check_messages(GRAPH, layout(1), 16, 1)
    monkeypatch.setattr(messages, "MAX_FRAME", messages.ROOM + 4 * MOST_KINDS * WIDTH - 1)
    with pytest.raises(
        PlanError, match=r"one neuron of layer .* MB at most; narrow the layers that it feeds"
    ):
        check_messages(GRAPH, layout(1), 16, 1)


def test_planning_and_training_refuse_them_before_anything_is_compiled() -> None:
    rows = 8 * ROWS  # the dominator may keep a part of the hidden layer
    training = Training(batch=rows, micro_batch=rows, wire=wire_format("float32"))
    devices = fleet({"name": "phone", "count": 2, "samples": 10, "max_macs": 14 * WIDTH})
    with pytest.raises(PlanError, match="--micro-batch"):
        plan_with_micro_batch(GRAPH, devices, training, lambda rows, regions: None, seconds=1, compare=False)
    config = RunSpec.model_validate(
        {
            "device_data": "data",
            "input_shape": (2,),
            "model": f"mlp:2-{WIDTH}-2",
            "group": {"pieces": 2},
            "training": {"batch": ROWS, "micro_batch": ROWS, "wire": "float32"},
        }
    )
    with pytest.raises(PlanError, match=r"training\.micro_batch"):
        prepare(config, lambda event, fields: pytest.fail(event))
