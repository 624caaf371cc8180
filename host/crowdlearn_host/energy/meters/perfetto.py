"""Perfetto's data source android.power: rails and the battery's counters, from a short trace.

Rails count since the phone started, so two short traces tell what was used between them. The trace is read
with perfetto's own message types, which its Python package brings (extra `energy`); its trace processor is a
program that is downloaded at first use, and is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from crowdlearn_device.energy.gauge import Gauge, from_sysfs
from crowdlearn_device.energy.readings import Power, Reading
from crowdlearn_device.errors import MeterError

from crowdlearn_host.errors import FleetError

from .base import AdbMeter, GaugeMeter
from .rails import MICROJOULE, RailsMeter

TRACE = "/data/misc/perfetto-traces/crowdlearn-energy.pftrace"
"""The folder is the only one that Android lets perfetto write to and the shell read."""
CONFIG = """\
duration_ms: 400
buffers { size_kb: 512 }
data_sources { config { name: "android.power" android_power_config {
  battery_poll_ms: 100
  battery_counters: BATTERY_COUNTER_CHARGE
  battery_counters: BATTERY_COUNTER_CAPACITY_PERCENT
  battery_counters: BATTERY_COUNTER_CURRENT
  battery_counters: BATTERY_COUNTER_VOLTAGE
  collect_power_rails: true
} } }
"""


@dataclass
class Traced:
    """The last state that a trace tells: joules by rail, and the battery's counters by their names."""

    rails: dict[str, float] = field(default_factory=dict)
    battery: dict[str, int] = field(default_factory=dict)


def read_trace(content: bytes) -> Traced:
    """Read a trace. Raises MeterError if it is none, or perfetto's package is not installed."""
    try:
        from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace
    except ImportError as error:
        raise MeterError(
            "perfetto's Python package, which reads traces, is missing; run: pip install 'crowdlearn[energy]'"
        ) from error
    trace: Any = Trace()
    try:
        trace.ParseFromString(content)
    except Exception as error:  # the type of what protobuf raises differs by its implementation
        raise MeterError(f"the phone's trace is damaged ({error}); measure again") from error
    names: dict[tuple[int, int], str] = {}
    traced = Traced()
    for packet in trace.packet:
        if packet.HasField("power_rails"):
            rails = packet.power_rails
            for each in rails.rail_descriptor:
                names[rails.session_uuid, each.index] = each.rail_name or f"rail {each.index}"
            for energy in rails.energy_data:
                name = names.get((rails.session_uuid, energy.index))
                if name is not None:  # a rail is described before it is counted
                    traced.rails[name] = energy.energy * MICROJOULE
        if packet.HasField("battery"):
            traced.battery |= {each.name: value for each, value in packet.battery.ListFields()}
    return traced


async def record(meter: AdbMeter) -> Traced:
    """Record a short trace on a meter's phone. Raises MeterError if the phone has no perfetto."""
    command = f"perfetto --txt -c - -o {TRACE}"
    result = await meter.phone.shell(command, stdin=CONFIG.encode())
    if result.exit_code:
        output = (result.stderr or result.stdout).decode(errors="replace").strip()
        raise MeterError(
            f"{meter.name}: perfetto does not run on the phone ({output[-100:]}); it comes with Android 10, "
            "elsewhere use another meter"
        )
    try:
        content = await meter.phone.pull(TRACE)
    except FleetError as error:
        raise MeterError(f"{meter.name}: the trace cannot be fetched ({error}); use another meter") from error
    await meter.phone.shell(f"rm -f {TRACE}")
    return read_trace(content)


class PerfettoRails(RailsMeter):
    """Rails as the phone's energy meter tells perfetto, without root."""

    name = "perfetto android.power rails"

    async def _rails(self) -> dict[str, float]:
        return (await record(self)).rails


class PerfettoBattery(GaugeMeter):
    """The battery's counters, in the maker's units and signs."""

    name = "perfetto android.power battery"

    async def _read(self, gauge: Gauge, output: str) -> Reading | Power:
        battery = (await record(self)).battery
        if not battery:
            raise MeterError(
                f"{self.name}: perfetto gets no readings of the battery on this phone; use another meter"
            )
        fields = {"status": "Discharging", "voltage_now": str(gauge.volts * 1e6)}
        for counter, name in (
            ("voltage_uv", "voltage_now"),
            ("current_ua", "current_now"),
            ("charge_counter_uah", "charge_counter"),
            ("capacity_percent", "capacity"),
        ):
            if counter in battery:
                fields[name] = str(round(battery[counter]))
        return self._state(from_sysfs(fields, self.maker), gauge)
