"""Where this host's own disk fails, the run ends and says what to do; then it goes on from what is kept."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION
from crowdlearn_device.transport.join import join_host
from crowdlearn_host.common.files import locked
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.coordinator.group import effects as do
from crowdlearn_host.coordinator.group.effects import Effects
from crowdlearn_host.coordinator.group.events import Ticked
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.handlers.table import EVENTS
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment
from crowdlearn_host.errors import RunError
from crowdlearn_host.runs.data import load_split, to_npz
from crowdlearn_host.runs.groups import groups_of, shared_model_of
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.runs.train import train
from crowdlearn_host.spec.run_spec import RunSpec
from safetensors.torch import load_file
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

ENOUGH_SECONDS = 120


def a_run_that_listens(folder: Path, port: int) -> Prepared:
    """It waits for a second device no longer than until the first tick."""
    values = {
        "model": "mlp:64-12-10",
        "data": "digits",
        "group": {"pieces": 1},
        "training": {"epochs": 1, "batch": 128, "grace_seconds": 0, "kernels": "by_size"},
        "fleet": {"listen": f"127.0.0.1:{port}", "joining": 2},
    }
    return prepare(parse_config(values, RunSpec, "the test"), lambda *_: None)


def a_free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def fill(folder: RunFolder) -> None:
    """Leave SQLite no room for another page."""
    folder._db.execute(
        "replace into groups values (99, ?)", (json.dumps({"points": [], "done": False, "long": "x" * 4000}),)
    )
    folder._db.commit()
    folder._db.execute("pragma max_page_count = 1")


async def test_a_full_disk_ends_the_run_with_what_to_do_and_the_run_goes_on(
    tmp_path: Path, home: Path
) -> None:
    port = a_free_port()
    prepared = a_run_that_listens(tmp_path, port)
    token, (_, pin) = Enrolment(home).enrol("phone"), certificate(home)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.npz").write_bytes(to_npz(load_split("digits", "test")))
    url = f"wss://127.0.0.1:{port}"
    joining = asyncio.create_task(
        join_host(tmp_path / "phone", tmp_path / "data", "phone", url, token, pin, once=True)
    )
    with RunFolder(tmp_path / "run", create=True) as folder:

        def on_event(event: str, fields: dict[str, Any]) -> None:
            if event == "joined":
                fill(folder)  # what is written next, a tick writes

        with pytest.raises(RunError, match=r"run\.db cannot be used: .* full; .* --resume"):
            await asyncio.wait_for(train(prepared, [], folder, on_event), ENOUGH_SECONDS)
    assert not joining.done()
    with RunFolder(tmp_path / "run", create=False) as folder:
        result = await asyncio.wait_for(train(prepared, [], folder, lambda *_: None), ENOUGH_SECONDS)
    await joining
    assert result is not None
    await the_last_checkpoint_comes_again(prepared, tmp_path / "run")


async def the_last_checkpoint_comes_again(prepared: Prepared, run: Path) -> None:
    """A host died when the epoch was on disk, and its checkpoint was not."""
    with RunFolder(run, create=False) as folder:
        ((epoch, path),) = folder.checkpoints().items()
        model = load_file(path)
        path.unlink()
        await asyncio.wait_for(train(prepared, [], folder, lambda *_: None), ENOUGH_SECONDS)
        again = load_file(folder.checkpoints()[epoch])
    assert model.keys() == again.keys()
    assert all(torch.equal(model[name], again[name]) for name in model)


async def test_a_tick_that_breaks_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = a_run_that_listens(tmp_path, 0)

    def tick(group: Group, event: Ticked) -> Effects:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setitem(EVENTS, Ticked, tick)
    with RunFolder(tmp_path / "run", create=True) as folder, pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(train(prepared, [], folder, lambda *_: None), ENOUGH_SECONDS)


@pytest.mark.parametrize("dialled", [True, False])
async def test_a_failure_of_this_host_is_no_device_out_of_reach(tmp_path: Path, dialled: bool) -> None:
    """And nothing goes out that was to follow what failed."""
    prepared = a_run_that_listens(tmp_path, 0)
    groups = [Group(settings) for settings in groups_of(prepared, 2)]
    shown: list[str] = []

    def on_event(event: str, fields: dict[str, Any]) -> None:
        shown.append(event)
        raise OSError(5, "Input/output error")

    with RunFolder(tmp_path / "run", create=True) as folder:
        server = Server("run", groups, folder, shared_model_of(prepared, 1), on_event, lambda *_: None)

        async def handle(connection: ServerConnection) -> None:
            await server.attach(connection, dialled=dialled)

        hello = pb.Hello(version=VERSION, device="phone", identity=bytes(32), samples=4)
        async with serve(handle, "127.0.0.1", 0) as serving:
            address = f"ws://127.0.0.1:{next(iter(serving.sockets)).getsockname()[1]}"
            async with connect(address, compression=None) as device:
                await device.send(pb.Frame(hello=hello).SerializeToString())
                await asyncio.wait_for(server.over.wait(), ENOUGH_SECONDS)
                server._performer.perform(0, [do.Send(0, pb.Frame(go=pb.Go(generation=7)))])
                await server.stop("the test is over")
                frames = [data async for data in device]
    said = [pb.Frame.FromString(data).WhichOneof("body") for data in frames if isinstance(data, bytes)]
    assert said == ["welcome"]
    assert shown == ["joined"]
    assert isinstance(server.error, OSError)


def test_a_full_disk_is_told_with_the_file_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").symlink_to("/dev/full")
    with RunFolder(tmp_path / "run", create=True) as folder:
        with pytest.raises(RunError, match=r"events\.jsonl cannot be used: No space left .*room.*--resume"):
            folder.event("joined", device="phone")
        folder.save({0: {"kept": 1}})
        fill(folder)
        with pytest.raises(RunError, match=r"run\.db cannot be used: .*full.*room.*--resume"):
            folder.save({0: {"kept": 2, "long": "x" * 10_000}})
        assert folder.load_group(0) == {"kept": 1}


def test_what_a_full_disk_cut_short_is_not_left_behind(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", create=True) as folder:
        (tmp_path / "run" / "snapshots" / "0-00000000-000000000002-0.partial").symlink_to("/dev/full")
        with pytest.raises(RunError, match="No space left"):
            folder.save_snapshot(0, pb.Snapshot(boundary=2, parts=1, sealed=b"x" * 100_000), 1 << 20)
        assert not list((tmp_path / "run" / "snapshots").iterdir())


@pytest.mark.parametrize("state", ['{"points": [', "[1]", "null", "{}", b"\xff{}", "[" * 100_000])
def test_a_group_s_state_that_is_damaged_is_told_with_the_file_and_what_to_do(
    tmp_path: Path, state: str | bytes
) -> None:
    with RunFolder(tmp_path / "run", create=True) as folder:
        folder._db.execute("insert into groups values (0, ?)", (state,))
        folder._db.commit()
        with pytest.raises(
            RunError, match=r"run/run\.db is damaged \(.*\); start a new run in another folder"
        ):
            assert folder.begun
    with pytest.raises(RunError, match=r"run/run\.db is damaged"):
        RunFolder(tmp_path / "run", create=True)


def check_let_go(folder: Path, words: str) -> None:
    """A folder that cannot be opened is refused in these words, and let go while the error is looked at."""
    with pytest.raises(RunError, match=words):
        try:
            RunFolder(folder, create=True)
        except RunError:
            locked(folder).close()
            raise


def test_a_folder_that_cannot_be_opened_is_let_go(tmp_path: Path) -> None:
    """Also while the error is still looked at, which keeps all that was opened."""
    (tmp_path / "run.db").write_bytes(b"no database " * 1000)
    check_let_go(tmp_path, r"run\.db is damaged")
    (tmp_path / "run.db").unlink()
    (tmp_path / "events.jsonl").mkdir()
    check_let_go(tmp_path, r"events\.jsonl cannot be used: Is a directory")


def test_a_database_that_is_none_is_damaged_and_not_full(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", create=True).close()
    (tmp_path / "run" / "run.db").write_bytes(json.dumps("no database").encode() * 1000)
    with pytest.raises(RunError, match="damaged"):
        RunFolder(tmp_path / "run", create=False)
