"""A device keeps to the identities it first saw in a run, whatever becomes of connections and processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.errors import StateError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, decode_frame
from crowdlearn_device.security import known_peers
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.security.known_peers import KnownPeers
from crowdlearn_device.transport.serve import serve_device
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial

FIRST, OTHER = Identity.generate().public, Identity.generate().public


def connect(url: str, **more: Any) -> dial:
    """Dial a device as its host does, which knows the token in its home."""
    home, _, address = url.rpartition("|")
    shown = {"Authorization": f"Bearer {(Path(home) / 'token').read_text().strip()}"}
    return dial(address, additional_headers=shown, **more)


@asynccontextmanager
async def a_device(home: Path) -> AsyncIterator[str]:
    """A runtime of its own; what it knows from before is on its disk."""
    (home / "data").mkdir(exist_ok=True)
    (home / "port").unlink(missing_ok=True)
    np.savez(home / "data" / "train.npz", inputs=np.zeros((3, 2), np.float32), labels=np.zeros(3, np.int64))
    stopping = asyncio.Event()
    serving = asyncio.create_task(serve_device(home, home / "data", "phone", 0, stopping))
    while not (home / "port").exists():
        await asyncio.sleep(0)
    try:
        yield f"{home}|ws://127.0.0.1:{(home / 'port').read_text().strip()}/"
    finally:
        stopping.set()
        await asyncio.wait_for(serving, 30)


async def said(connection: ClientConnection) -> pb.Frame:
    data = await asyncio.wait_for(connection.recv(), 30)
    assert isinstance(data, bytes)
    return decode_frame(data)


async def welcome(connection: ClientConnection, run: bytes = bytes(16)) -> None:
    frame = pb.Frame(welcome=pb.Welcome(version=VERSION, run="run", id=run, device=0))
    await connection.send(frame.SerializeToString())


async def assigned(connection: ClientConnection, mine: bytes, peer: bytes) -> pb.Frame:
    """What a spare says to an assignment that tells a peer's identity."""
    peers = [pb.Peer(device=0, identity=mine), pb.Peer(device=1, identity=peer)]
    frame = pb.Frame(assign=pb.Assign(generation=1, piece=-1, peers=peers))
    await connection.send(frame.SerializeToString())
    return await said(connection)


async def shown(url: str, peer: bytes, run: bytes = bytes(16)) -> pb.Frame:
    """The same over a connection of its own."""
    async with connect(url, compression=None) as connection:
        mine = (await said(connection)).hello.identity
        await welcome(connection, run)
        return await assigned(connection, mine, peer)


async def test_a_changed_identity_is_refused_after_a_reconnect_and_a_restart(tmp_path: Path) -> None:
    async with a_device(tmp_path) as url:
        assert (await shown(url, FIRST)).HasField("key_offer")
        assert "device 1 has changed its identity; start a new run" in (await shown(url, OTHER)).fault.reason
        assert (await shown(url, FIRST)).HasField("key_offer")
    async with a_device(tmp_path) as url:
        assert "device 1 has changed its identity; start a new run" in (await shown(url, OTHER)).fault.reason
        assert (await shown(url, FIRST)).HasField("key_offer")


async def test_a_server_cannot_tell_others_a_key_that_is_not_the_devices_own(tmp_path: Path) -> None:
    async with a_device(tmp_path) as url, connect(url, compression=None) as connection:
        assert (await said(connection)).hello.identity != OTHER
        await welcome(connection)
        assert "another's identity" in (await assigned(connection, OTHER, FIRST)).fault.reason


async def test_a_second_welcome_is_refused_and_forgets_nobody(tmp_path: Path) -> None:
    async with a_device(tmp_path) as url, connect(url, compression=None) as connection:
        mine = (await said(connection)).hello.identity
        await welcome(connection)
        assert (await assigned(connection, mine, FIRST)).HasField("key_offer")
        await welcome(connection, b"another run's id")
        assert "welcome came twice" in (await said(connection)).fault.reason
        assert "changed its identity" in (await assigned(connection, mine, OTHER)).fault.reason


@pytest.mark.parametrize("run", ["", "..", ".hidden", "../escaped", "a/b", "a\0b", "r" * 101])
async def test_a_run_whose_name_would_lead_out_of_its_folder_is_refused(tmp_path: Path, run: str) -> None:
    async with a_device(tmp_path) as url, connect(url, compression=None) as connection:
        assert (await said(connection)).HasField("hello")
        told = pb.Welcome(version=VERSION, run=run, id=bytes(16), device=0)
        await connection.send(pb.Frame(welcome=told).SerializeToString())
        assert "is not a name" in (await said(connection)).fault.reason
        assert not list(tmp_path.rglob("0" * 32))


async def test_a_new_run_of_the_same_name_knows_nothing_of_the_old_one(tmp_path: Path) -> None:
    async with a_device(tmp_path) as url:
        assert (await shown(url, FIRST)).HasField("key_offer")
        (old,) = (tmp_path / "runs" / "run").iterdir()
        (old / "00000001-000000000000.state").write_bytes(b"of the old run")
        assert (await shown(url, OTHER, b"another run's id")).HasField("key_offer")
        assert old.exists(), "another host's run of the same name keeps its own"
        new = tmp_path / "runs" / "run" / b"another run's id".hex()
        assert [file.name for file in new.iterdir()] == ["peers.json"]


def test_a_refused_assignment_pins_nobody(tmp_path: Path) -> None:
    pins = KnownPeers(tmp_path)
    pins.trust([pb.Peer(device=1, identity=FIRST)])
    with pytest.raises(Exception, match="changed its identity"):
        pins.trust([pb.Peer(device=2, identity=OTHER), pb.Peer(device=1, identity=OTHER)])
    assert pins.identities == KnownPeers(tmp_path).identities == {1: FIRST}


@pytest.mark.parametrize("kept", [b"", b"[]", b'{"1": "xy"}', b'{"one": "00"}', b'{"1": 2}'])
def test_damaged_pins_are_told(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "peers.json").write_bytes(kept)
    with pytest.raises(StateError, match="is damaged"):
        KnownPeers(tmp_path)


def test_runs_that_are_many_or_old_are_removed_and_the_current_one_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    for number in range(12):
        folder = runs / f"run-{number}" / "id"
        known_peers.enter(folder)
        (folder / "state").write_bytes(bytes(1000))
        os.utime(folder, (time.time() - 1000 + number,) * 2)
    known_peers.enter(runs / "run-5" / "id")
    assert len(list(runs.glob("*/*"))) == known_peers.MAX_RUNS
    assert (runs / "run-5" / "id" / "state").exists()
    monkeypatch.setattr(known_peers, "MAX_BYTES", 2500)
    known_peers.enter(runs / "run-5" / "id")
    assert sorted(path.parent.name for path in runs.glob("*/*")) == ["run-11", "run-5"]
    os.utime(runs / "run-11" / "id", (known_peers.CLOCKS_SET,) * 2)
    known_peers.enter(runs / "new" / "id")
    assert not (runs / "run-11").exists()


def test_a_run_of_a_time_when_the_clock_was_not_set_is_not_old(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    known_peers.enter(runs / "run" / "id")
    os.utime(runs / "run" / "id", (3600, 3600))
    known_peers.enter(runs / "another" / "id")
    assert (runs / "run" / "id").exists()


@pytest.mark.parametrize("linked", ["runs", "runs/run", "runs/run/id"])
def test_a_link_on_the_way_to_a_run_is_refused_and_nothing_behind_it_removed(
    tmp_path: Path, linked: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "folder" / "file").touch()
    path = tmp_path / "home" / linked
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    with pytest.raises(StateError, match="is a link"):
        known_peers.enter(tmp_path / "home" / "runs" / "run" / "id")
    assert (outside / "folder" / "file").exists()
