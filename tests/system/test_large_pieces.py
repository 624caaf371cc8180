"""A piece may be larger than any message."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_device.protocol.frames import MAX_FRAME
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.plan import plan_from_counts, save_plan
from crowdlearn_host.spec.run_spec import RunSpec

from .sockets import train_on_sockets

pytestmark = pytest.mark.system
MODEL = "mlp:64-4200-2048-10"


class Killer(Server):
    """Kills whoever holds the large piece, once there is a snapshot of it."""

    victim: int | None = None
    largest = 0

    def record(self, group: int | None, event: str, fields: dict[str, Any]) -> None:
        super().record(group, event, fields)
        (group,) = self.groups
        if self.victim is None and event == "progress" and group.restore_points.points[0].boundary > 0:
            self.largest = max(path.stat().st_size for path in (self.folder.path / "snapshots").iterdir())
            self.victim = group.holders[1]
            (task,) = (t for t in asyncio.all_tasks() if t.get_name() == f"device-{self.victim}")
            task.cancel()
        if event == "pass":  # the next one is the victim's turn
            self.over.set()


async def test_a_piece_larger_than_a_message_trains_and_outlives_its_holder(tmp_path: Path) -> None:
    graph = neuron_graph(build_model(MODEL, 0), torch.zeros(2, 64), MODEL)
    save_plan(plan_from_counts(graph, [[64, 0, 0, 10], [0, 4200, 2048, 0]]), tmp_path / "plan.json")
    training = {"epochs": 1, "batch": 240, "momentum": 0.9, "snapshot_every": 1, "kernels": "by_size"}
    values = {
        "data": "digits",
        "model": MODEL,
        "group": {"plan": tmp_path / "plan.json"},
        "training": training,
    }
    server, events = await train_on_sockets(tmp_path, RunSpec.model_validate(values), 3, Killer)
    assert isinstance(server, Killer)
    assert server.largest > MAX_FRAME
    why = next(fields["why"] for event, fields in events if event == "recovering")
    assert why.startswith(f"device-{server.victim} left")
    assert not [fields for event, fields in events if event in ("fault", "refused")]
    losses = [(fields["boundary"], fields["loss"]) for event, fields in events if event == "progress"]
    assert [boundary for boundary, _ in losses] == [1, 2, 2]
    assert losses[1] == losses[2], "what is repeated from the snapshot gives the same bits"
    assert losses[1][1] < losses[0][1]
