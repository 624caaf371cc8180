"""A piece may be larger than any message: what grows with it goes in parts, or is refused with advice."""

from __future__ import annotations

from pathlib import Path

import pytest
from crowdlearn_device import envelope, serve, sharing, state, wire
from crowdlearn_host.server.group import MAX_FAULTS
from crowdlearn_host.training.config import TrainConfig

from . import sockets

pytestmark = pytest.mark.system
FRAME = 60_000


@pytest.fixture(autouse=True)
def _small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (wire, serve, sockets):
        monkeypatch.setattr(module, "MAX_FRAME", FRAME)
    monkeypatch.setattr(envelope, "SNAPSHOT_BYTES", FRAME // 4)
    monkeypatch.setattr(state, "PART_BYTES", FRAME // 4)
    monkeypatch.setattr(sharing, "CHUNK_WEIGHTS", FRAME // 20)


def config(micro_batch: int) -> TrainConfig:
    training = {"epochs": 1, "batch": 256, "momentum": 0.9, "wire": "float32", "micro_batch": micro_batch}
    values = {"data": "digits", "model": "mlp:64-256-128-10", "group": {"pieces": 3}, "training": training}
    return TrainConfig.model_validate(values)


async def test_pieces_larger_than_a_message_train_and_are_kept(tmp_path: Path) -> None:
    server, events = await sockets.train_on_sockets(tmp_path, config(16), 3)
    assert server.groups[0].phase == "done", server.groups[0].reason
    assert not [fields for event, fields in events if event in ("fault", "refused", "left", "recovering")]
    kept = sorted((tmp_path / "run" / "snapshots").iterdir())
    assert len(kept) >= 3
    assert max(path.stat().st_size for path in kept) > 2 * FRAME


async def test_sums_larger_than_a_message_stop_the_run_with_what_to_change(tmp_path: Path) -> None:
    server, events = await sockets.train_on_sockets(tmp_path, config(256), 3)
    assert server.groups[0].phase == "stopped"
    assert "take smaller micro-batches" in server.groups[0].reason
    assert len([1 for event, _ in events if event == "fault"]) >= MAX_FAULTS
