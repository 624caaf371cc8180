"""The work of the app's foreground service: it waits for hosts, through adb and at the invited address.

Java starts it in a thread of its own and calls `stop` from another. Whatever ends the process, the state of
runs lies on the disk, and the next start goes on with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import shlex
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from crowdlearn_device.energy.android import app_meters
from crowdlearn_device.energy.meters import Meter, readable
from crowdlearn_device.energy.readings import Power, Reading, integrated, used
from crowdlearn_device.energy.spending import Spending
from crowdlearn_device.errors import DeviceError, JoinError, MeterError
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.protocol.invitation import Invitation, read_invitation
from crowdlearn_device.security.assignment_policy import fingerprint, own_identity
from crowdlearn_device.security.daily_use import DailyUse
from crowdlearn_device.security.device_list import LISTED
from crowdlearn_device.transport.abstract_socket import LISTENING, SOCKET, listen_abstract
from crowdlearn_device.transport.join import join_host
from crowdlearn_device.transport.serve import serve_device

from .conditions import describe_list, take_list, write_conditions
from .phone import Phone
from .policy import Conditions, load_policy, policy_of, save_policy
from .programs import Programs
from .status import Status, Watch

log = logging.getLogger("crowdlearn")

SHOW_SECONDS = 1.0
METER_SECONDS = 5.0
ADB = "a computer, through adb"
_POLICY, _INVITATION = "policy.json", "invitation"


class Service:
    """One start of the app: `home` is the app's own folder, `inbox` the one that adb can write to."""

    def __init__(
        self, phone: Phone, home: str, inbox: str, arguments: str = "", socket_name: str = SOCKET
    ) -> None:
        """Start from `arguments`, those of `crowdlearn-device serve` in one line, as a host sends them. Its
        name, its limit of the battery and its wish that the device holds no samples are taken; nothing else
        is.
        """
        self.status = Status()
        self._phone, self._home, self._inbox = phone, Path(home), Path(inbox)
        self._asked = _asked(arguments)
        self._socket_name = socket_name
        policy = load_policy(self._home / _POLICY)
        self._programs = Programs(phone, self.status, isolated=policy.isolated)
        self._meters: Sequence[Meter] = ()
        self._use = DailyUse(self._home)
        """The bytes and joules of today, whichever host they are for."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._stopped = threading.Event()
        self._news = asyncio.Event()

    def run(self) -> None:
        """Serve until `stop`. Raises DeviceError if another program has taken the app's socket."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
        logging.getLogger("websockets").setLevel(logging.WARNING)
        asyncio.run(self._run())

    def stop(self) -> None:
        """Have `run` end once others have taken over what this device holds; from any thread."""
        self._stopped.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stopped.is_set():
            return
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._meters = (await readable(app_meters(self._phone.meters)))[0]
        showing = [asyncio.create_task(self._show()), asyncio.create_task(self._meter())]
        work = [asyncio.create_task(each) for each in (self._serve(), self._join())]
        try:
            await asyncio.gather(*work)
        finally:
            for task in (*work, *showing):
                task.cancel()
            await asyncio.gather(*work, *showing, return_exceptions=True)
            self._phone.show(self.status.to_json())
            self.status.state = "stopped"
            self._phone.show(self.status.to_json())

    async def _serve(self) -> None:
        """Wait for hosts that come through adb."""
        policy = load_policy(self._home / _POLICY)
        if not policy.adb:
            await self._stopping.wait()
            return
        conditions = Conditions(self._phone, policy, dialled=False, lowest=self._asked.lowest_battery)
        write_conditions(self._home, self._home / "adb", policy)
        data = self._data(policy.samples and not self._asked.no_data)
        with listen_abstract(self._socket_name) as listening:
            self._inbox.mkdir(parents=True, exist_ok=True)
            write_atomically(self._inbox / LISTENING, b"yes\n")
            await serve_device(
                self._home / "adb",
                data,
                self._asked.name or "phone",
                listening,
                self._stopping,
                conditions,
                inbox=self._inbox,
                watch=self._watch(ADB, self._home / "adb"),
                load_with=self._programs.load,
                use=self._use,
                spending=self._spending,
            )

    async def _join(self) -> None:
        """Dial the host of the invitation, if there is one."""
        invited = load_invitation(self._home)
        if invited is None:
            await self._stopping.wait()
            return
        policy = load_policy(self._home / _POLICY)
        conditions = Conditions(self._phone, policy, dialled=True)
        home, data = self._home / "joined", self._data(policy.samples)
        write_conditions(self._home, home, policy)
        watch = self._watch(invited.address, home)
        given = invited.name, invited.url, invited.token, invited.pin
        try:
            await join_host(
                home,
                data,
                *given,
                self._stopping,
                conditions,
                watch=watch,
                load_with=self._programs.load,
                use=self._use,
                spending=self._spending,
            )
        except DeviceError as error:
            log.error("%s", error)
            watch.resting(str(error))
            await self._stopping.wait()

    def _spending(self) -> Spending:
        return Spending(app_meters(self._phone.meters))

    def _data(self, wanted: bool) -> Path | None:
        """Return the owner's samples, or else those that a host has brought."""
        folders = (self._home / "data", self._inbox / "data")
        return next((each for each in folders if each.is_dir()), None) if wanted else None

    def _watch(self, host: str, home: Path) -> Watch:
        return Watch(self.status, self._news.set, host, fingerprint(own_identity(home).public))

    async def _show(self) -> None:
        """Show the status when it changes, once a second at most."""
        while True:
            self._phone.show(self.status.to_json())
            await self._news.wait()
            self._news.clear()
            await asyncio.sleep(SHOW_SECONDS)

    async def _meter(self) -> None:
        """Keep the joules since the start, of the first meter that can be read."""
        if not self._meters:
            return
        meter = self._meters[0]
        readings: list[Reading] = []
        powers: list[Power] = []
        while True:
            with contextlib.suppress(MeterError):  # on a charger, or too little yet
                reading = await meter.read()
                if isinstance(reading, Reading):
                    readings = [*readings[:1], reading]
                    if len(readings) == 2:
                        self.status.joules = used(*readings).joules
                elif isinstance(reading, Power):
                    powers.append(reading)
                    if len(powers) == 2:
                        self.status.joules = (self.status.joules or 0.0) + integrated(powers).joules
                        powers = powers[1:]
                self._news.set()
            await asyncio.sleep(METER_SECONDS)


def invite(home: str, link: str) -> str:
    """Keep an invitation, or a list of devices, in the app's folder; return what it is in words.

    Raises JoinError or PolicyError.
    """
    if _is_list(link):
        take_list(Path(home), link)
        return described(link)
    found = read_invitation(link)
    write_atomically(Path(home) / _INVITATION, found.link().encode(), private=True)
    return described(link)


def described(link: str) -> str:
    """Return whom an invitation leads to, or a list of devices names, for the owner to confirm.

    Raises JoinError or PolicyError.
    """
    if _is_list(link):
        return describe_list(link)
    found = read_invitation(link)
    pin = " ".join(found.pin[at : at + 4] for at in range(0, 16, 4))
    return f"{found.address} as {found.name}, certificate {pin} ..."


def _is_list(link: str) -> bool:
    return urlsplit(link.strip()[:100]).netloc == LISTED


def forget_invitation(home: str) -> None:
    """Dial no host any more."""
    (Path(home) / _INVITATION).unlink(missing_ok=True)


def load_invitation(home: Path) -> Invitation | None:
    """Return the invitation in the app's folder; None if there is none that can be read."""
    try:
        return read_invitation((home / _INVITATION).read_text())
    except (OSError, ValueError, JoinError):
        return None


def policy_json(home: str) -> str:
    """Return the device's policy, all fields of it, as a JSON object."""
    return json.dumps(asdict(load_policy(Path(home) / _POLICY)))


def set_policy(home: str, text: str) -> None:
    """Replace the device's policy by a JSON object; it counts from the next start. Raises ValueError."""
    save_policy(Path(home) / _POLICY, policy_of(text))


def _asked(arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--name", default="")
    parser.add_argument("--no-data", action="store_true")
    parser.add_argument("--lowest-battery", type=int, default=-1)
    try:
        return parser.parse_known_args(shlex.split(arguments))[0]
    except (argparse.ArgumentError, ValueError) as error:
        raise JoinError(f"{arguments[:100]!r} are no arguments of the device runtime ({error})") from error
