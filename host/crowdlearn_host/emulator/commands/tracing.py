"""`perfetto`: a trace of the modelled rails and battery, in the form in which Android's tells them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

from crowdlearn_host.emulator.commands.usage import UsageError
from crowdlearn_host.emulator.hardware.facts import level, microamperes, rails
from crowdlearn_host.emulator.hardware.power import PowerState, millivolts
from crowdlearn_host.emulator.hardware.profiles import DeviceProfile
from crowdlearn_host.emulator.shell.shell import CommandFunction, Io, Shell

MOST_SECONDS = 600.0
MOST_CONFIG = 1 << 16
SESSION = 1


def perfetto(profile: DeviceProfile, power: Callable[[], PowerState]) -> CommandFunction:
    """Return the command `perfetto --txt -c - -o FILE`, for the data source android.power alone."""

    async def run(shell: Shell, words: list[str], io: Io) -> int:
        match words[1:]:
            case ["--txt", "-c", "-", "-o", path]:
                pass
            case _:
                raise UsageError("only --txt -c - -o FILE is known")
        config = b""
        while (data := await io.read()) and len(config) < MOST_CONFIG:
            config += data
        duration, every = (_milliseconds(config, name) for name in ("duration_ms", "battery_poll_ms"))
        try:
            from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace
        except ImportError as error:
            raise UsageError("inaccessible or not found: pip install 'crowdlearn[energy]'", 127) from error
        trace: Any = Trace()
        ends = time.monotonic() + min(duration, MOST_SECONDS)
        while True:
            _add(trace, profile, power())
            left = ends - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(max(every, 0.05), left))
        with shell.files.open(path, "wb", shell.cwd) as file:
            file.write(trace.SerializeToString())
        return 0

    return run


def _milliseconds(config: bytes, name: str) -> float:
    found = re.search(rf"\b{name}:\s*(\d+)", config.decode(errors="replace"))
    if found is None or b"android.power" not in config:
        raise UsageError(f"the configuration has no {name}, or not the data source android.power")
    return int(found[1]) / 1000


def _add(trace: Any, profile: DeviceProfile, power: PowerState) -> None:
    now = time.monotonic_ns()
    first = not trace.packet
    packet = trace.packet.add(timestamp=now)
    packet.power_rails.session_uuid = SESSION
    for index, (name, joules) in enumerate(rails(power).items()):
        if first:
            packet.power_rails.rail_descriptor.add(index=index, rail_name=name, subsys_name="virtual phone")
        packet.power_rails.energy_data.add(
            index=index, timestamp_ms=now // 1_000_000, energy=round(joules * 1e6)
        )
    trace.packet.add(timestamp=now).battery.MergeFrom(
        type(packet.battery)(
            charge_counter_uah=round(profile.battery * 1000 * power.charge),
            capacity_percent=level(power),
            current_ua=microamperes(power),
            voltage_uv=millivolts(power) * 1000,
        )
    )
