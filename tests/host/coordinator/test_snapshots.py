"""A sealed piece is kept once all its parts are there; until then the one before is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.snapshots import Snapshots
from crowdlearn_host.errors import RunError

ENOUGH = 1 << 20


def parts(boundary: int, count: int = 3, **changes: int) -> list[pb.Snapshot]:
    place: dict[str, Any] = {"generation": 2, "boundary": boundary, "piece": 1, "sender": 4}
    place |= {"parts": count, **changes}
    made = [pb.Snapshot(part=n, sealed=b"x" * n, **place) for n in range(count)]
    made[0].keys.add(device=7, sealed=b"key")
    return made


def test_a_snapshot_is_kept_with_its_last_part(tmp_path: Path) -> None:
    store, (*some, last) = Snapshots(tmp_path), parts(8)
    assert [store.save(0, part, ENOUGH) for part in some] == [None, None]
    with pytest.raises(RunError, match="cannot be read"):
        list(store.load(0, 2, 8, 1))
    assert store.save(0, last, ENOUGH) == {7}
    assert list(store.load(0, 2, 8, 1)) == parts(8)


@pytest.mark.parametrize("dies", [False, True])
def test_one_that_is_cut_off_leaves_the_one_before(tmp_path: Path, dies: bool) -> None:
    store = Snapshots(tmp_path)
    for part in [*parts(8), *parts(9)[:2]]:
        store.save(0, part, ENOUGH)
    if dies:
        store = Snapshots(tmp_path)
        assert not list(tmp_path.glob("*.partial"))
        with pytest.raises(WireError, match="before its first"):
            store.save(0, parts(9)[2], ENOUGH)
    assert list(store.load(0, 2, 8, 1)) == parts(8)
    assert [store.save(0, part, ENOUGH) for part in parts(9)] == [None, None, {7}]  # it says all of it again
    store.forget_before(0, 2, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["0-00000002-000000000009-1.sealed"]


@pytest.mark.parametrize(
    "stray",
    [
        parts(8)[2],
        parts(9)[1],
        parts(8, generation=3)[1],
        parts(8, sender=5)[1],
        parts(8, 4)[1],
        pb.Snapshot(generation=2, boundary=8, piece=1, sender=4, part=1, parts=3, ephemeral=b"another"),
    ],
)
def test_parts_out_of_order_or_of_another_are_refused_and_what_came_is_forgotten(
    tmp_path: Path, stray: pb.Snapshot
) -> None:
    store = Snapshots(tmp_path)
    store.save(0, parts(8)[0], ENOUGH)
    with pytest.raises(WireError, match="not the next"):
        store.save(0, stray, ENOUGH)
    assert not list(tmp_path.iterdir())


def test_a_device_cannot_fill_the_disk(tmp_path: Path) -> None:
    store = Snapshots(tmp_path)
    with pytest.raises(WireError, match="more than 100 bytes"):
        for part in parts(8, 99):
            store.save(0, part, 100)
    with pytest.raises(WireError, match="not the next"):
        store.save(0, pb.Snapshot(), 100)
    assert not list(tmp_path.iterdir())


def test_one_that_is_cut_short_on_disk_is_told_with_what_to_do(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", create=True) as folder:
        for part in parts(8):
            folder.save_snapshot(0, part, ENOUGH)
        (path,) = (tmp_path / "run" / "snapshots").iterdir()
        for size in (path.stat().st_size - 1, 60, 2, 0):
            with path.open("r+b") as file:
                file.truncate(size)
            with pytest.raises(
                RunError, match=r"cannot be read: .*bring back the device that held this piece"
            ):
                list(folder.load_snapshot(0, 2, 8, 1))
