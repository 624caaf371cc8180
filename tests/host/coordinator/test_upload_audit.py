"""The audit of uploads: who shares what is unlike the others', told by event."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.sharing.update import Update, encode_update
from crowdlearn_host.coordinator.group import effects as do
from crowdlearn_host.coordinator.group.effects import Merge
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.hub.performers.groups import GroupPerformer
from crowdlearn_host.coordinator.hub.traffic_ledger import TrafficLedger
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.coordinator.storage.store import Store
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.methods.slicenet.audit import LEAST, UploadAudit
from crowdlearn_host.spec.run_spec import RunSpec

from .crowd import settings_for

SIZE = 200


def uploads_of(wrong: np.ndarray, groups: int = 6) -> list[np.ndarray]:
    """Uploads of groups that learned alike from weights of 0, and of one more."""
    rng = np.random.default_rng(0)
    alike = rng.normal(size=SIZE)
    return [*((alike + 0.3 * rng.normal(size=SIZE)).astype(np.float32) for _ in range(groups)), wrong]


def judged(audit: UploadAudit, uploads: list[np.ndarray]) -> set[tuple[int, str]]:
    for group, upload in enumerate(uploads):
        audit.take(group, np.zeros(SIZE, np.float32), upload)
    return {(found.group, found.by) for found in audit.suspicions(range(len(uploads)))}


def test_moves_and_losses_unlike_the_others_are_named() -> None:
    right = uploads_of(np.zeros(SIZE, np.float32))[0]

    def audit() -> UploadAudit:
        return UploadAudit(lambda weights: float(np.abs(weights - right).mean()), classes=False)

    assert judged(audit(), uploads_of(right)) == set()
    assert judged(audit(), uploads_of(20 * right)) == {(6, "norm"), (6, "loss")}
    assert judged(audit(), uploads_of(-right)) == {(6, "loss")}  # as long as the right ones
    assert judged(UploadAudit(), uploads_of(-right)) == set()
    assert (6, "norm") in judged(audit(), uploads_of(np.zeros(SIZE, np.float32)))
    shares = UploadAudit(lambda weights: 0.36 if weights[0] == 9 else 0.2)
    assert judged(shares, uploads_of(np.full(SIZE, 9, np.float32))) == {(6, "norm"), (6, "loss")}
    nothing = np.full(SIZE, np.nan, np.float32)
    assert judged(audit(), uploads_of(nothing)) == {(6, "norm"), (6, "loss")}


def test_few_groups_have_no_median() -> None:
    assert judged(UploadAudit(), uploads_of(np.full(SIZE, 1e3, np.float32), LEAST - 2)) == set()


def test_the_host_judges_rounds_as_they_enter_the_window() -> None:
    rng = np.random.default_rng(1)
    arrays = [ArraySpec("w", 0, (), True)]
    model = SharedModel(arrays, {"w": np.ones(SIZE, np.float32)}, omega=6, audit=UploadAudit())
    for epoch in range(2):
        records: list[bytes] = []
        for group in range(6):
            at = np.flatnonzero(rng.random(SIZE) < 0.6).astype(np.uint32)
            far = 30.0 if (group, epoch) == (3, 1) else 1.0
            values = (1 + far * rng.normal(size=len(at))).astype(np.float32)
            sent = Merge(
                group, epoch + 1, epoch, ((0, SIZE),), encode_update(Update(group, epoch, at, values))
            )
            model.merge(group, sent)
            records += model.close(group, epoch + 1, (epoch, 0))
        records += model.entering(records)
        found = model.judge(records)
        for record in records:
            model.take_in(record)
        assert [(each.group, each.by) for each in found] == ([(3, "norm")] if epoch else [])


class Told:
    """The hub of a server of which nothing but what it writes down matters."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str, dict[str, Any]]] = []

    def record(self, group: int, event: str, fields: dict[str, Any]) -> None:
        self.events.append((group, event, fields))

    def fail(self, error: Exception) -> None:
        raise error


@pytest.mark.parametrize("synchronous", [False, True])
async def test_the_host_tells_which_group_is_suspicious(synchronous: bool, tmp_path: Path) -> None:
    arrays = [ArraySpec("w", 0, (), True)]
    shared = SharedModel(arrays, {"w": np.zeros(SIZE, np.float32)}, omega=7, audit=UploadAudit())
    groups, told = [Group(settings_for()) for _ in range(7)], Told()
    right = uploads_of(np.zeros(SIZE, np.float32))[0]
    with RunFolder(tmp_path / "run", create=True) as folder:
        store = Store(folder, shared, synchronous=synchronous)
        performer = GroupPerformer(
            told,  # type: ignore[arg-type]
            groups,
            store,
            TrafficLedger(),
            lambda group, epoch, arrays: None,
            synchronous=synchronous,
        )
        for group, upload in enumerate(uploads_of(20 * right)):
            update = Update(group, 0, np.arange(SIZE, dtype=np.uint32), upload)
            shared.merge(group, Merge(group, 1, 0, ((0, SIZE),), encode_update(update)))
            groups[group].schedule = replace(groups[group].schedule, epoch=1)
            performer.perform(group, [do.Commit(1, (0, 0)), do.Save()])
            await performer.settled()
        await store.close()
    ((group, event, fields),) = told.events
    assert (group, event, fields["by"]) == (6, "suspicious", "norm")
    assert fields["value"] > 4 * fields["median"] > 0


def test_losses_take_the_hosts_samples_and_uploads_one_by_one() -> None:
    groups = {"pieces": 2, "groups": 8}
    for values, why in (
        ({"sharing": {"audit": "losses"}, "device_data": "x.npz"}, "takes samples of the host: give data"),
        (
            {"data": "d", "group": groups, "sharing": {"audit": "losses", "secure": True}},
            "leave out sharing.audit",
        ),
    ):
        with pytest.raises(ConfigError, match=why):
            RunSpec.model_validate({"model": "paper-mlp", **values})
