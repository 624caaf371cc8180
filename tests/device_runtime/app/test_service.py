"""The app's Python half: reached by adb's socket, invited by a link, watched by its owner."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.app.service import (
    Service,
    described,
    forget_invitation,
    invite,
    load_invitation,
    policy_json,
    set_policy,
)
from crowdlearn_device.errors import JoinError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, decode_frame, encode_frame
from crowdlearn_device.protocol.invitation import Invitation
from crowdlearn_device.security.assignment_policy import fingerprint, load_assignment_policy
from crowdlearn_device.security.daily_use import DailyUse
from crowdlearn_device.security.device_list import link_of, load_signer, signed_list
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.transport import abstract_socket
from crowdlearn_device.transport.abstract_socket import LISTENING, listen_abstract
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

INVITATION = Invitation("192.0.2.7:8765", "Ada's phone & more", "-t/o=k+n", "0123456789abcdef" * 4)
WELCOME = pb.Frame(welcome=pb.Welcome(version=VERSION, run="run", id=bytes(16), device=0))


class Phone:
    """A phone that charges, and keeps what it is to show."""

    def __init__(self) -> None:
        self.charging = True
        self.joules, self.a_look = 0, 0
        """What its rails have counted, and how much more they count at every look; 0: it has none."""
        self.shown: list[dict[str, object]] = []

    def facts(self) -> str:
        return json.dumps({"percent": 50, "charging": self.charging, "unmetered": True})

    def meters(self) -> str:
        self.joules += self.a_look
        rail = {"name": "rail", "microwatt_seconds": 1e6 * self.joules, "milliseconds": 1000 * self.joules}
        return json.dumps({"rails": [rail]}) if self.a_look else "{}"

    def show(self, status: str) -> None:
        self.shown.append(json.loads(status))

    def program(self, descriptor: int) -> int:
        return 0

    def endProgram(self, number: int) -> None:
        pass


class Running:
    """A service in a thread of its own, as in the app."""

    def __init__(self, folder: Path, arguments: str = "--name phone-1 --lowest-battery=5 --tap x") -> None:
        self.phone = Phone()
        self.inbox = folder / "inbox"
        self.name = f"crowdlearn-{os.getpid()}-{folder.name}"
        self._service = Service(self.phone, str(folder / "home"), str(self.inbox), arguments, self.name)
        self._thread = threading.Thread(target=self._service.run)

    async def __aenter__(self) -> Running:
        self._thread.start()
        while not (self.inbox / LISTENING).exists() or not (self.inbox / "token").exists():
            assert self._thread.is_alive()
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._service.stop()
        await asyncio.to_thread(self._thread.join, 30)
        assert not self._thread.is_alive()

    def dial(self, token: str | None = None) -> connect:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"\0{self.name}")
        shown = token or (self.inbox / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {shown}"}
        return connect("ws://device/", sock=sock, additional_headers=headers, compression=None)


async def test_a_host_that_comes_through_adb_is_served_and_shown(tmp_path: Path) -> None:
    data = tmp_path / "home" / "data"
    data.mkdir(parents=True)
    np.savez(data / "train.npz", inputs=np.zeros((3, 2), np.float32), labels=np.zeros(3, np.int64))
    async with Running(tmp_path) as app, app.dial() as connection:
        hello = decode_frame(await connection.recv(decode=False)).hello
        assert (hello.device, hello.samples) == ("phone-1", 3)
        await connection.send(WELCOME.SerializeToString())
        await connection.send(encode_frame(pb.Frame(finish=pb.Finish(reason="done"))))
        with pytest.raises(ConnectionClosed):
            await connection.recv()
    told = [status["state"] for status in app.phone.shown]
    assert told[0] == "waiting for a host"
    assert "finished: done" in told
    assert told[-1] == "stopped"
    assert app.phone.shown[-1]["run"] == "run"
    assert list(app.phone.shown[-1]["sent"]) == ["messages without data of yours"]
    identity = tmp_path / "home" / "adb" / "identity.key"
    assert stat.S_IMODE(identity.stat().st_mode) == 0o600


async def test_the_owner_s_policy_comes_before_any_host(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    set_policy(str(home), '{"samples": false}')
    assert json.loads(policy_json(str(home)))["charging"] is True
    (home / "data").mkdir()
    np.savez(home / "data/train.npz", inputs=np.zeros((3, 2), np.float32), labels=np.zeros(3, np.int64))
    async with Running(tmp_path) as app:
        async with app.dial() as connection:
            assert decode_frame(await connection.recv(decode=False)).hello.samples == 0
        app.phone.charging = False
        async with app.dial() as connection:
            with pytest.raises(ConnectionClosed, match="the phone is not charging"):
                await connection.recv()
    assert "resting: the phone is not charging" in [status["state"] for status in app.phone.shown]


async def test_the_owner_s_joules_and_list_bind_hosts(tmp_path: Path) -> None:
    """A day's joules are read from the phone's own meters; devices off the list are no peers."""
    home = tmp_path / "home"
    home.mkdir()
    signer = load_signer(tmp_path / "signer.key")
    link = link_of(signed_list({"friend": fingerprint(Identity.generate().public)}, signer))
    assert "1 devices (friend), signed by" in described(link)
    assert invite(str(home), link) == described(link)
    set_policy(str(home), '{"listed_only": true, "joules_a_day": 300}')
    with pytest.raises(ValueError, match="less than 0"):
        set_policy(str(home), '{"joules_a_day": -1}')
    app = Running(tmp_path)
    app.phone.a_look = 200
    async with app, app.dial() as connection:
        await connection.recv()
        found = load_assignment_policy(home / "adb")
        assert found is not None
        assert (found.joules_a_day, found.strangers) == (300, False)
        assert len(found.known) == 1
        await connection.send(WELCOME.SerializeToString())
        while decode_frame(await connection.recv(decode=False)).WhichOneof("body") != "leave":
            pass
    assert any("the owner allows 300; try tomorrow" in str(told["state"]) for told in app.phone.shown)
    assert DailyUse(home).joules >= 300


async def test_a_stranger_is_served_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Running(tmp_path) as app:
        with pytest.raises(InvalidStatus, match="401"):
            await app.dial("another token")
        monkeypatch.setattr(abstract_socket, "SHELL", -1)
        monkeypatch.setattr(abstract_socket, "ROOT", -1)
        monkeypatch.setattr(os, "getuid", lambda: -1)
        with pytest.raises(InvalidStatus, match="403"):
            await app.dial()


def test_two_programs_do_not_listen_under_one_name(tmp_path: Path) -> None:
    name = f"crowdlearn-{os.getpid()}-two"
    with listen_abstract(name), pytest.raises(JoinError, match="another program of this phone listens"):
        listen_abstract(name)


def test_a_service_that_is_stopped_before_it_runs_does_not_run(tmp_path: Path) -> None:
    service = Service(Phone(), str(tmp_path), str(tmp_path))
    service.stop()
    service.run()
    assert not list(tmp_path.iterdir())


def test_an_invitation_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    link = INVITATION.link()
    assert invite(str(tmp_path), link) == (
        "192.0.2.7:8765 as Ada's phone & more, certificate 0123 4567 89ab cdef ..."
    )
    assert load_invitation(tmp_path) == INVITATION
    assert (tmp_path / "invitation").stat().st_mode & 0o077 == 0
    forget_invitation(str(tmp_path))
    forget_invitation(str(tmp_path))
    assert load_invitation(tmp_path) is None


@pytest.mark.parametrize(
    "link",
    [
        "",
        "https://example.org/",
        "crowdlearn://join",
        INVITATION.link().replace("join?", "leave?"),
        INVITATION.link().replace("8765", ""),
        INVITATION.link().replace("8765", "99999"),
        INVITATION.link().replace("abcdef", "ABCDEF"),
        INVITATION.link().replace("token=", "tok="),
        INVITATION.link() + "&x=" + "x" * 2000,
    ],
)
def test_a_link_that_is_no_invitation_is_refused(link: str, tmp_path: Path) -> None:
    with pytest.raises(JoinError, match="is no invitation"):
        invite(str(tmp_path), link)
    assert load_invitation(tmp_path) is None
