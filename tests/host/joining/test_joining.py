"""Devices that dial the host: who is let in, what they fetch, and a whole run over TLS."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import JoinError
from crowdlearn_device.member import events as member_events
from crowdlearn_device.member.fetching import Fetching
from crowdlearn_device.member.handlers.table import handle as by_member
from crowdlearn_device.member.member import Member
from crowdlearn_device.prediction.model_folder import KeptModel
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.transport.join import join_host
from crowdlearn_device.transport.pinned import pinned_context
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.coordinator.group.effects import Effect
from crowdlearn_host.coordinator.group.events import Event, Joined
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.handlers.table import handle
from crowdlearn_host.coordinator.group.settings import Settings
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment
from crowdlearn_host.devices.joining.listener import listening
from crowdlearn_host.devices.relays.channel import Channel, Kind
from crowdlearn_host.devices.relays.engines.cluster import Door, _served_with
from crowdlearn_host.errors import FleetError
from crowdlearn_host.runs.data import deal, load_split, shares_of, to_npz
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.runs.train import train
from crowdlearn_host.spec.run_spec import RunSpec

WEIGHTS = ArraySpec("w", 0, (), trained=True)


def give_data(folder: Path, data: Dataset) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.npz").write_bytes(to_npz(data))
    return folder


@asynccontextmanager
async def a_host(home: Path) -> AsyncIterator[int]:
    """A host whose group never fills."""
    settings = Settings((((0, 1),),) * 9, ("",) * 9, 1, 4, 4, 1, 0.1, 0, 1, devices=9)
    with RunFolder(home / "run", create=True) as folder:
        shared = SharedModel([WEIGHTS], {"w": np.zeros(9, np.float32)})
        server = Server("run", [Group(settings)], folder, shared, lambda *_: None, lambda *_: None)
        async with listening(server, "127.0.0.1:0", home) as port:
            yield port
            await server.close()


async def test_a_device_with_another_token_or_name_is_refused_in_plain_words(tmp_path):
    token = Enrolment(tmp_path).enrol("phone-1")
    _, pin = certificate(tmp_path)
    data = give_data(tmp_path / "data", load_split("digits", "test"))
    async with a_host(tmp_path) as port:
        for name, shown in (("phone-1", "guess"), ("phone-2", token), ("phone-1", "")):
            with pytest.raises(JoinError, match="not enrolled"):
                await join_host(tmp_path / "home", data, name, f"wss://127.0.0.1:{port}", shown, pin)


async def test_a_device_that_was_reset_is_refused_in_plain_words(tmp_path):
    token = Enrolment(tmp_path).enrol("phone-1")
    _, pin = certificate(tmp_path)
    data = give_data(tmp_path / "data", load_split("digits", "test"))
    async with a_host(tmp_path) as port:
        url, stopping = f"wss://127.0.0.1:{port}", asyncio.Event()
        first = asyncio.create_task(join_host(tmp_path / "home", data, "phone-1", url, token, pin, stopping))
        while "joined" not in (tmp_path / "run" / "events.jsonl").read_text():
            await asyncio.sleep(0)
        with pytest.raises(JoinError, match="another identity than when it joined; was it reset"):
            await join_host(tmp_path / "reset", data, "phone-1", url, token, pin)
        stopping.set()
        await asyncio.wait_for(first, 30)


async def test_a_token_is_void_once_there_is_a_newer_one(tmp_path):
    enrolment = Enrolment(tmp_path)
    old, new = enrolment.enrol("phone-1"), enrolment.enrol("phone-1")
    assert not enrolment.admits("phone-1", old)
    assert enrolment.admits("phone-1", new)


async def test_a_host_with_another_certificate_hears_no_token(tmp_path):
    token = Enrolment(tmp_path).enrol("phone-1")
    data = give_data(tmp_path / "data", load_split("digits", "test"))
    async with a_host(tmp_path) as port:
        joining = join_host(tmp_path / "home", data, "phone-1", f"wss://127.0.0.1:{port}", token, "0" * 64)
        with pytest.raises(JoinError, match="not the pin"):
            await asyncio.wait_for(joining, 30)
        said = (tmp_path / "run" / "events.jsonl").read_text()
        assert "joined" not in said
        assert "not enrolled" not in said


async def test_a_device_that_is_sent_away_at_once_comes_again_ever_later(tmp_path, monkeypatch):
    came: list[float] = []
    stopping = asyncio.Event()

    def send_away(group: Group, event: Event) -> list[Effect]:
        if isinstance(event, Joined):
            came.append(asyncio.get_running_loop().time())
            if len(came) == 8:
                stopping.set()
            group.attendance.unfit[event.device.number] = "its data is damaged"
        return handle(group, event)

    monkeypatch.setattr("crowdlearn_host.coordinator.hub.server.handle", send_away)
    monkeypatch.setattr("crowdlearn_device.transport.join.FIRST_RETRY", 0.01)
    token, (_, pin) = Enrolment(tmp_path).enrol("phone-1"), certificate(tmp_path)
    data = give_data(tmp_path / "data", load_split("digits", "test"))
    async with a_host(tmp_path) as port:
        url = f"wss://127.0.0.1:{port}"
        await join_host(tmp_path / "home", data, "phone-1", url, token, pin, stopping)
    assert came[-1] - came[-2] > 0.5 * 0.01 * 2**6


async def test_a_device_that_was_silent_is_told_and_comes_again(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "crowdlearn")
    mute = [True, True]

    def silent_at_first(member: Member, event: member_events.Event) -> list[pb.Frame]:
        said = by_member(member, event)
        if mute and isinstance(event, member_events.Connected):
            mute.pop()
            return []
        return said

    monkeypatch.setattr("crowdlearn_device.transport.driver.handle", silent_at_first)
    monkeypatch.setattr("crowdlearn_device.transport.join.FIRST_RETRY", 0.01)
    monkeypatch.setattr("crowdlearn_host.coordinator.hub.introduction.HELLO_SECONDS", 1.0)
    token, (_, pin) = Enrolment(tmp_path).enrol("phone-1"), certificate(tmp_path)
    data = give_data(tmp_path / "data", load_split("digits", "test"))
    async with a_host(tmp_path) as port:
        url, stopping = f"wss://127.0.0.1:{port}", asyncio.Event()
        joining = asyncio.create_task(join_host(tmp_path, data, "phone-1", url, token, pin, stopping))
        while "joined" not in (tmp_path / "run" / "events.jsonl").read_text():
            assert not joining.done(), joining.exception()
            await asyncio.sleep(0)
        stopping.set()
        await asyncio.wait_for(joining, 30)
    assert not mute
    assert caplog.text.count(f"127.0.0.1:{port} is to be tried again: no hello within 1 s") >= 2


@pytest.mark.parametrize(
    ("url", "pin", "words"),
    [("ws://host:1", "0" * 64, "wss://HOST:PORT"), ("wss://host:1", "abc", "SHA-256")],
)
async def test_a_malformed_address_or_pin_is_told(tmp_path, url, pin, words):
    with pytest.raises(JoinError, match=words):
        await join_host(tmp_path, tmp_path, "phone-1", url, "token", pin)


def test_the_certificate_is_kept_and_its_key_is_private(tmp_path):
    assert certificate(tmp_path)[1] == certificate(tmp_path)[1]
    assert (tmp_path / "host.pem").stat().st_mode & 0o077 == 0


def a_member(home: Path) -> Member:
    data = load_split("digits", "test")
    identity, fetching = Identity.generate(), Fetching.into(home)
    member = Member(
        "phone-1", home, identity, len(data), lambda: data, fetching.store, "token", fetching=fetching
    )
    welcome = pb.Welcome(version=VERSION, run="run", id=bytes(16), device=0)
    by_member(member, member_events.Received(pb.Frame(welcome=welcome)))
    program = hashlib.sha256(b"the manifest").hexdigest()
    spec = pb.PieceSpec(device=0, program=program)
    peer = pb.Peer(device=0, identity=identity.public)
    assign = pb.Assign(generation=1, pieces=[spec], peers=[peer])
    (frame,) = by_member(member, member_events.Received(pb.Frame(assign=assign)))
    assert frame.wanted.sha256 == program
    return member


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": b"The manifest"}, "another hash"),
        ({"data": b"", "size": 0}, "has no program"),
        ({"offset": 4}, "were due"),
        ({"sha256": "0" * 64}, "were due"),
        ({"size": 1 << 40}, "at most"),
        ({"size": 5}, "at most"),
    ],
)
def test_bytes_that_are_not_the_program_are_refused(tmp_path, change, words):
    member = a_member(tmp_path)
    program = hashlib.sha256(b"the manifest").hexdigest()
    good = {"sha256": program, "size": 12, "offset": 0, "data": b"the manifest"}
    chunk = pb.Chunk(**{**good, **change})
    (frame,) = by_member(member, member_events.Received(pb.Frame(chunk=chunk)))
    assert words in frame.fault.reason
    assert not list((tmp_path / "programs").glob("*.json"))


@pytest.mark.parametrize(("relays", "engine"), [(0, "local"), (2, "local"), (2, "ray")])
async def test_devices_that_dial_in_train_like_any_others(tmp_path, home, relays, engine, request):
    """Also if a node of the cluster is lost, and the actors of the others die: others take their place."""
    nodes = request.getfixturevalue("cluster") if engine == "ray" else None
    values = {
        "model": "mlp:64-12-10",
        "data": "digits",
        "group": {"pieces": 2, "keep_model": True},
        "training": {"epochs": 2, "batch": 32, "kernels": "by_size"},
        "fleet": {"listen": "127.0.0.1:0", "joining": 2, "relays": relays, "relay_engine": engine},
    }
    prepared = prepare(parse_config(values, RunSpec, "the test"), lambda *_: None)
    listens: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    told: list[str] = []
    losing: list[asyncio.Task[None]] = []

    def on_event(event, fields):
        if event == "listening":
            listens.set_result(fields["port"])
        if event == "progress" and nodes is not None and "progress" not in told:
            losing.append(asyncio.create_task(asyncio.to_thread(lose_a_node, nodes)))
            for actor in actors():
                with suppress(psutil.Error):  # it went with its node
                    actor.kill()
        told.append(event)

    assert prepared.train is not None
    assert prepared.test is not None
    parts = deal(prepared.train, shares_of(len(prepared.train), [1, 1]), seed=0)
    _, pin = certificate(home)
    enrolment = Enrolment(home)
    with RunFolder(tmp_path / "run", create=True) as folder:
        training = asyncio.create_task(train(prepared, [], folder, on_event))
        await asyncio.wait({training, listens}, return_when=asyncio.FIRST_COMPLETED)
        assert not training.done(), training.exception()
        url = f"wss://127.0.0.1:{await listens}"
        devices = [
            join_host(
                tmp_path / name,
                give_data(tmp_path / name / "data", part),
                name,
                url,
                enrolment.enrol(name),
                pin,
                once=True,
            )
            for name, part in zip(("phone-1", "phone-2"), parts, strict=True)
        ]
        result, *_ = await asyncio.gather(training, *devices)
        await asyncio.gather(*losing)
    assert result is not None
    assert result.accuracy > 0.8
    assert ("relay_ended" in told) == (engine == "ray")
    for program in prepared.exported:
        for name, content in program.files().items():
            held = [tmp_path / device / "programs" / name for device in ("phone-1", "phone-2")]
            assert all(path.read_bytes() == content for path in held)
    first, second = (
        KeptModel.load(tmp_path / device / "models" / "run").probabilities(prepared.test.inputs)
        for device in ("phone-1", "phone-2")
    )
    assert (first == second).all()
    assert (first.argmax(axis=1) == prepared.test.labels).mean() == pytest.approx(result.accuracy)


def lose_a_node(nodes: object) -> None:
    """End the second node of a Ray cluster, with all that runs there."""
    with suppress(AssertionError):  # on a busy computer a process takes its time to end
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)  # type: ignore[attr-defined]


def actors() -> list[psutil.Process]:
    """This test's relays on a Ray cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ray::_Relay" in " ".join(process.cmdline()):
                found.append(process)
    return found


async def dial(port: int, word: bytes) -> Channel:
    """Dial a relay's door as an actor does, and show a word."""
    channel = Channel(*await asyncio.open_connection("127.0.0.1", port, ssl=pinned_context()))
    channel.say(Kind.WORD, content=word)
    return channel


def test_a_relay_of_elsewhere_puts_the_key_on_no_disk(home, tmp_path, monkeypatch):
    certificate(home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    context = _served_with((home / "host.pem").read_bytes())
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    with pytest.raises(FleetError, match="cannot be used"):
        _served_with(b"no certificate")


async def test_a_relay_of_elsewhere_gets_the_certificate_for_its_word_alone_and_once(home):
    door, never = Door(home), asyncio.get_running_loop().create_future()
    port = await door.open("127.0.0.1")
    strangers = [await dial(port, word) for word in (b"", b"x" * 32, b"x" * 33)]
    assert [await each.next() for each in strangers] == [None] * 3
    relay = await dial(port, door.word)
    await door.dialled(never)
    given = await relay.next()
    assert given is not None
    assert given.kind == Kind.CERTIFICATE
    assert given.content == (home / "host.pem").read_bytes()
    again = await dial(port, door.word)
    assert await again.next() is None
    door.close()
    for each in (*strangers, relay, again):
        each.close()
