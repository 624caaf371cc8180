"""A virtual phone, one process: `python -m crowdlearn_host.emulator.phone FOLDER READY_FD [PARENT]`."""

import asyncio
import hashlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from crowdlearn_device.energy.gauge import VIRTUAL
from crowdlearn_device.platform.battery import SUPPLIES
from crowdlearn_device.platform.confinement import landlock_version
from crowdlearn_device.platform.heat import THERMAL
from crowdlearn_device.transport.abstract_socket import PREFIX

from crowdlearn_host.common import event_loop
from crowdlearn_host.emulator.commands.packages import Packages, package_commands
from crowdlearn_host.emulator.commands.system import Powered, system_commands, thermal_service
from crowdlearn_host.emulator.commands.wakefulness import power_service, wakefulness_commands
from crowdlearn_host.emulator.daemon.adbd import Adbd, LinkBytes, Offer
from crowdlearn_host.emulator.daemon.keys import KeyStore
from crowdlearn_host.emulator.daemon.wireless import WirelessDoor, server_context
from crowdlearn_host.emulator.hardware.facts import (
    battery_facts,
    generated_files,
    properties,
    thermal_status,
)
from crowdlearn_host.emulator.hardware.filesystem import Filesystem
from crowdlearn_host.emulator.hardware.log import Log
from crowdlearn_host.emulator.hardware.power import Activity, PowerState, spend
from crowdlearn_host.emulator.hardware.profiles import DeviceProfile, find_profile
from crowdlearn_host.emulator.hardware.radio_link import Direction, LinkModel
from crowdlearn_host.emulator.hardware.wakefulness import Wakefulness
from crowdlearn_host.emulator.processes.limits import Limits, make_limits, remove_groups
from crowdlearn_host.emulator.processes.parent import die_with_parent, schedule_as_batch
from crowdlearn_host.emulator.processes.processes import Processes
from crowdlearn_host.emulator.processes.program_file import ABIS
from crowdlearn_host.emulator.processes.spawner import Spawner
from crowdlearn_host.emulator.settings import (
    CONTROL_SOCKET,
    FILES,
    KEYS_FILE,
    MAX_REQUEST,
    PhoneInfo,
    Settings,
    process_start,
)

POWER_SECONDS = 1.0
LEAST_SECONDS = 0.02
"""The least seconds between two looks at what programs have used; the kernel counts in hundredths of a
second.
"""
MOST_WAITING = 50
"""Keys that the owner is shown at once."""


class Phone:
    """The parts of a running phone, and what its owner can do to it."""

    def __init__(self, folder: Path, settings: Settings, limits: Limits | None) -> None:
        profile = find_profile(settings.profile)
        self._folder = folder
        self._log = Log(folder / "logcat.txt")
        self._traffic = LinkBytes()
        self._link = settings.link
        self._battery = Battery(profile, self._measure, self._link.radio if self._link else "wifi")
        self._shown: dict[Path, str] = {}
        files = Filesystem(
            folder / FILES,
            generated_files(profile, lambda: self._battery.state, lambda: self._processes.memory()),
        )
        spawner = Spawner(folder.parent.parent, settings.preload)
        self._supplies, self._zones = folder.absolute() / "power_supply", folder.absolute() / "thermal"
        variables = {
            SUPPLIES: str(self._supplies),
            THERMAL: str(self._zones),
            PREFIX: hashlib.sha256(bytes(folder.absolute())).hexdigest()[:16],
        }
        self._processes = Processes(
            files, self._log, spawner, settings.programs, limits, variables, settings.machine
        )
        self._show()
        self._jobs: set[asyncio.Task[int]] = set()
        self._connections: set[Adbd] = set()
        self._plugged = True
        self._tls = server_context() if settings.wireless else None
        self._off = asyncio.Event()
        shown = properties(profile, settings.name, ABIS.get(settings.machine, profile.abi))
        packages = Packages(folder / "packages")
        wakefulness = Wakefulness(folder.absolute() / "global_settings.json")
        self._offer = Offer(
            identity="".join(
                f"ro.product.{key}={shown[f'ro.product.{key}']};" for key in ("name", "model", "device")
            ),
            keys=KeyStore(folder / KEYS_FILE),
            auto_accept=settings.auto_accept,
            files=files,
            processes=self._processes,
            commands={
                **system_commands(profile, shown, self._log, self._processes, packages, self._battery),
                **wakefulness_commands(wakefulness),
                **package_commands(
                    packages,
                    files,
                    self._processes,
                    {
                        "thermalservice": thermal_service(self._battery),
                        "power": power_service(profile, wakefulness),
                    },
                ),
            },
            spawn_job=self._spawn_job,
            connections=self._connections,
            admits=lambda: self._plugged,
            traffic=self._traffic,
            up=Direction(self._link.up, self._link.round_trip / 2000) if self._link else None,
            down=Direction(self._link.down, self._link.round_trip / 2000) if self._link else None,
        )

    async def serve(self, listener: socket.socket, control: socket.socket, ready: Callable[[], None]) -> None:
        """Serve adb and the owner until the phone is switched off or its battery is empty."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._off.set)
        server = await loop.create_server(self._connection, sock=listener)
        owner = await asyncio.start_unix_server(self._serve_owner, sock=control, limit=MAX_REQUEST)
        background = [loop.create_task(self._live())]
        if self._link and self._link.drop_seconds:
            background.append(loop.create_task(self._lose_connections(self._link)))
        ready()
        await self._off.wait()
        server.close()
        owner.close()
        for task in (*background, *self._jobs):
            task.cancel()
        await self._processes.close()
        await asyncio.gather(*background, *self._jobs, return_exceptions=True)
        await self._disconnect("the phone was switched off")
        self._log.close()

    def _connection(self) -> asyncio.BaseProtocol:
        if self._tls is None:
            return Adbd(self._offer)
        accept = self._offer.auto_accept
        return WirelessDoor(self._tls, self._offer.keys, lambda: Adbd(self._offer), accept=accept)

    def _spawn_job(self, work: Awaitable[int]) -> None:
        task = asyncio.ensure_future(work)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _live(self) -> None:
        # A phone whose folder was deleted can be neither listed nor switched off any more: it goes.
        while self._battery.state.charge > 0 and self._folder.exists():
            with suppress(TimeoutError):
                async with asyncio.timeout(POWER_SECONDS):
                    await self._battery.changed.wait()
            self._battery.changed.clear()
            self._show()
        self._log.write("PowerManager", "off: battery is empty, or the folder is gone", pid=os.getpid())
        self._off.set()

    def _measure(self) -> tuple[float, int, int]:
        """Return seconds of the processor that programs used since the start, bytes sent and received since
        this was last asked.
        """
        return self._processes.cpu_seconds(), *self._traffic.take()

    def _show(self) -> None:
        """Show battery and heat to programs, which are processes of this machine and see its /sys."""
        state = self._battery.state
        battery = {"type": "Battery", "model_name": VIRTUAL, **battery_facts(state)}
        files = {self._supplies / "battery" / name: text for name, text in battery.items()}
        files[self._zones / "status"] = str(thermal_status(state))
        for file, text in files.items():
            if self._shown.get(file) != text:
                file.parent.mkdir(parents=True, exist_ok=True)
                partial = file.with_name(f"{file.name}.partial")
                partial.write_text(text + "\n")
                partial.replace(file)
                self._shown[file] = text

    async def _lose_connections(self, link: LinkModel) -> None:
        chance = random.Random(self._offer.identity)
        while True:
            await asyncio.sleep(chance.expovariate(1 / link.drop_seconds))
            await self._disconnect("the link failed")

    async def _disconnect(self, reason: str) -> None:
        for connection in list(self._connections):
            await connection.close(reason)

    async def _serve_owner(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError):
            request = (await reader.readline()).decode(errors="replace").split()
            writer.write((await self._obey(request)).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _obey(self, request: list[str]) -> str:
        match request:
            case ["waiting"]:
                keys = {key for connection in self._connections if (key := connection.waiting_key())}
                return f"keys {','.join(sorted(keys)[:MOST_WAITING])}"
            case ["accept", shown]:
                accepted = [connection.accept_key(shown) for connection in self._connections]
                return "ok" if any(accepted) else f"no key {shown} waits to be accepted"
            case ["unplug"]:
                self._plugged = False
                self._battery.plug(False)
                await self._disconnect("unplugged")
                return "ok"
            case ["plug"]:
                self._plugged = True
                self._battery.plug(True)
                return "ok"
            case ["drain", percent] if percent.isdigit() and int(percent) <= 100:
                self._battery.plug(False)
                self._battery.set_level(int(percent))
                return "ok"
        return f"unknown request {' '.join(request)}"


class Battery(Powered):
    """The battery over time; `changed` wakes its watchers.

    `measure` gives the processor's seconds since the start, and bytes sent and received since it was last
    asked: whenever the state is looked at, it is up to date.
    """

    def __init__(
        self, profile: DeviceProfile, measure: Callable[[], tuple[float, int, int]], radio: str = "wifi"
    ) -> None:
        self.changed = asyncio.Event()
        self._state = PowerState()
        self._profile, self._radio = profile, radio
        self._measure = measure
        self._cpu_seconds, self._at = 0.0, time.monotonic()

    @property
    def state(self) -> PowerState:
        now = time.monotonic()
        if (seconds := now - self._at) < LEAST_SECONDS:
            return self._state
        cpu_seconds, sent, received = self._measure()
        # All of the imitated processor is busy when the programs use all of the share that stands for it.
        used = max(cpu_seconds - self._cpu_seconds, 0.0) / self._profile.cpu_share
        self._at, self._cpu_seconds = now, cpu_seconds
        activity = Activity(seconds, used / seconds, sent, received)
        self._state = spend(self._state, self._profile, activity, self._radio)
        return self._state

    def plug(self, plugged: bool) -> None:
        """Connect or disconnect the charger."""
        self._state = replace(self.state, plugged=plugged)
        self.changed.set()

    def set_level(self, percent: int) -> None:
        """Set the charge; at 0 the phone goes off."""
        self._state = replace(self.state, charge=percent / 100)
        self.changed.set()

    def override_thermal(self, status: int | None) -> None:
        """Set the thermal status that Android reports, or let it report its own again."""
        self._state = replace(self.state, thermal_override=status)
        self.changed.set()


def main(folder: Path, ready_fd: int, parent: int | None) -> None:
    """Run the phone of a folder; writes one line to `ready_fd` when it can be reached."""
    if parent is not None:
        die_with_parent(parent)
    schedule_as_batch()
    # From here on short paths do: an address of a Unix socket has room for 107 bytes.
    os.chdir(folder)
    settings = Settings.load(Path())
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", settings.port))
    listener.listen(128)
    Path(CONTROL_SOCKET).unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX)
    control.bind(CONTROL_SOCKET)
    control.listen()
    limits = _limits(settings, folder) if settings.limited else None

    def ready() -> None:
        pid = os.getpid()
        serial = f"127.0.0.1:{listener.getsockname()[1]}"
        PhoneInfo(
            name=settings.name,
            serial=serial,
            pid=pid,
            started=process_start(pid),
            profile=settings.profile,
            limits=limits.kind if limits else "none",
            groups=tuple(map(str, limits.folders)) if limits else (),
            confined=f"landlock {version}" if (version := landlock_version()) else "none",
        ).save(Path())
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)

    event_loop.run(Phone(folder, settings, limits).serve(listener, control, ready))
    remove_groups(limits.folders if limits else ())


def _limits(settings: Settings, folder: Path) -> Limits:
    # Phones of different state folders have the same names: tell their control groups apart.
    mark = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    return make_limits(find_profile(settings.profile), f"crowdlearn-{settings.name}-{mark}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
