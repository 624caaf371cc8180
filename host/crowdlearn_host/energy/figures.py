"""Figures of an experiment: medians over the rounds that were kept, each with where it comes from.

A figure that cannot be trusted is None: nothing was metered, or what work took beyond idling is smaller than
the meter can tell.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from crowdlearn_device.energy.readings import RESOLUTIONS, Provenance

from crowdlearn_host.devices.constants import Constants

from .experiment import Kind, Window
from .subject import Program, Subject

MEGABYTE = 1e6
PLANNED = "counted by the plan"
COLUMNS = {
    "macs": "macs source",
    "bytes": "macs source",
    "ms": "time provenance",
    "spread %": "time provenance",
    "gflops": "time provenance",
    "peak %": "peak source",
    "memory": "time provenance",
    "celsius": "time provenance",
    "joules": "provenance",
    "compute joules": "provenance",
    "radio joules": "provenance",
    "joules a mini-batch": "provenance",
    "joules a MB": "provenance",
    "joules spread %": "provenance",
    "idle watts": "provenance",
}
"""Columns that hold numbers, each with the column that tells where its numbers come from. MACs, bytes and
joules are of a sample; ms, memory and joules a mini-batch of a step.
"""
PEAK = "assumed: a fused multiply-add of 128 bits a cycle and core, at the clocks that the phone reports"


class Figures:
    """The figures of one device, from its windows."""

    def __init__(
        self,
        subject: Subject,
        windows: Sequence[Window],
        programs: Sequence[Program],
        notes: Sequence[str] = (),
    ) -> None:
        self.subject, self.notes = subject, tuple(notes)
        self.kept = [window for window in windows if not window.dropped]
        self.dropped = Counter(window.dropped for window in windows if window.dropped)
        self.failure = next((window.why for window in windows if window.dropped == "failed"), "")
        self._programs = {program.name: program for program in programs}
        self.idle_watts = _median(
            [w.used.watts for w in self.kept if w.kind is Kind.IDLE and w.used is not None]
        )
        self.constants = self._constants()

    @property
    def source(self) -> str:
        """Return the meter and what it covers, or why there is none."""
        if self.subject.meter is None:
            fields = dict.fromkeys(self.subject.unread.values())
            return f"no meter: {'; '.join(fields) or 'the device has none'}"
        used = next((w.used for w in self.kept if w.used is not None), None)
        if used is None:
            why = next((w.why for w in self.kept if w.why), self.failure or "no round was kept")
            return f"{self.subject.meter.name}: {why}"
        return f"{used.source}, {used.covers}, beyond idle"

    @property
    def provenance(self) -> Provenance | None:
        """Return the provenance of the energy, if there is any."""
        return next((w.used.provenance for w in self.kept if w.used is not None), None)

    @property
    def rail_watts(self) -> dict[str, float] | None:
        """Return median watts of the rails for computing, the radio and the rest while steps ran, idle
        included; None if the meter knows no rails.
        """
        found = [
            [joules / w.used.seconds for joules in w.parts]
            for w in self.kept
            if w.kind is Kind.STEPS and w.parts is not None and w.used is not None
        ]
        if not found:
            return None
        compute, radio, rest = zip(*found, strict=True)
        by_name = {"compute": compute, "radio": radio, "rest": rest}
        return {name: statistics.median(watts) for name, watts in by_name.items()}

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each program and wire type, and one for each stage of a program."""
        rows = []
        for program in self._programs.values():
            windows = [w for w in self.kept if w.program == program.name and w.timed is not None]
            if windows:
                rows += self._program_rows(program, windows)
        return rows

    def _program_rows(self, program: Program, windows: Sequence[Window]) -> list[dict[str, Any]]:
        timed = [window.timed for window in windows if window.timed is not None]
        times = [each.seconds / each.steps for each in timed]
        step = statistics.median(times)
        metered = [w for w in windows if w.used is not None]
        energies = [value for w in metered if (value := self._net_joules(w)) is not None]
        trusted = self.idle_watts is not None and bool(energies) and len(energies) == len(metered)
        compute = statistics.median(energies) / program.batch if trusted else None
        row = self._empty(program) | {
            "ms": 1e3 * step,
            "spread %": _spread(times),
            "gflops": 2 * program.macs * program.batch / step / 1e9,
            "memory": max(each.memory for each in timed) or None,
            "celsius": _median([w.celsius for w in windows if w.celsius is not None]),
            "compute joules": compute,
            "joules": compute,
            "joules a mini-batch": None if compute is None else compute * program.batch,
            "joules spread %": _spread(energies) if trusted else None,
            "idle watts": self.idle_watts,
            "rounds": len(windows),
            "dropped": sum(self.dropped.values()),
        }
        if self.subject.peak_gflops:
            row["peak %"] = 100 * row["gflops"] / self.subject.peak_gflops
        if compute is None and self.subject.meter is not None and self.provenance is not None:
            why = next((w.why for w in windows if w.why), "too little energy for it; measure for longer")
            row["source"] += f": {why}"
        rows = [self._on_wire(row, wire, moved) for wire, moved in program.traffic.items()] or [row]
        for name in timed[0].stages:
            seconds = statistics.median(each.stages[name] / each.steps for each in timed)
            rows.append(self._empty(program) | {"stage": name, "ms": 1e3 * seconds, "macs": None})
        return rows

    def _empty(self, program: Program) -> dict[str, Any]:
        energy = self.provenance
        return {
            "device": self.subject.name,
            "model": self.subject.model,
            "program": program.name,
            "stage": "",
            "wire": "",
            **dict.fromkeys(COLUMNS),
            "macs": round(program.macs),
            "bytes": 0,
            "macs source": PLANNED,
            "peak source": PEAK,
            "provenance": str(energy or self.subject.time_provenance),
            "source": self.source,
            "time provenance": str(self.subject.time_provenance),
            "time source": self.subject.time_source,
        }

    def _on_wire(self, row: Mapping[str, Any], wire: str, moved: tuple[float, float]) -> dict[str, Any]:
        """Return the row with what a sample moves on a wire, and the joules of that."""
        sent, received = moved
        each = self.constants
        on_wire = {**row, "wire": wire, "bytes": round(sent + received)}
        if each.joules_per_byte_sent is None or each.joules_per_byte_received is None:
            return {**on_wire, "joules": None, "joules a mini-batch": None}
        radio = each.joules_per_byte_sent * sent + each.joules_per_byte_received * received
        on_wire |= {"radio joules": radio, "joules a MB": radio / (sent + received) * MEGABYTE}
        compute = row["compute joules"]
        whole = None if compute is None else compute + radio
        batch = self._programs[row["program"]].batch
        return {**on_wire, "joules": whole, "joules a mini-batch": None if whole is None else whole * batch}

    def _net_joules(self, window: Window) -> float | None:
        """Return joules of a step beyond idling; None if the meter cannot tell them."""
        if window.timed is None or (net := self._beyond_idle(window)) is None:
            return None
        return net / window.timed.steps

    def _beyond_idle(self, window: Window) -> float | None:
        if window.used is None or self.idle_watts is None:
            return None
        net = window.used.joules - self.idle_watts * window.used.seconds
        return net if net >= RESOLUTIONS * window.used.resolution else None

    def _constants(self) -> Constants:
        """Return the constants that fit the windows best."""
        macs, joules = [], []
        for window in self.kept:
            if window.timed is not None and window.program in self._programs:
                net = self._beyond_idle(window)
                program = self._programs[window.program]
                if net is not None and program.eager is None:
                    macs.append(program.macs * window.timed.batch * window.timed.steps)
                    joules.append(net)
        squares = sum(each**2 for each in macs)
        per_mac = sum(a * b for a, b in zip(macs, joules, strict=True)) / squares if squares else None
        sent, received = self._per_byte(Kind.SEND), self._per_byte(Kind.RECEIVE)
        why = "" if per_mac and sent and received else self._missing(per_mac, sent, received)
        provenance = str(self.provenance or "")
        return Constants(self.idle_watts, per_mac, sent, received, provenance, self.source, why)

    def _missing(self, *values: float | None) -> str:
        names = ("J/MAC", "J/byte sent", "J/byte received")
        lack = ", ".join(name for name, value in zip(names, values, strict=True) if value is None)
        if self.subject.meter is None or self.provenance is None:
            return f"{lack}: {self.source}"
        if not self.subject.has_radio and values[0] is not None:
            return f"{lack}: bytes did not go by radio; reach the phone by adb over Wi-Fi"
        return f"{lack}: too little energy for the meter's resolution; measure for longer"

    def _per_byte(self, kind: Kind) -> float | None:
        """Return median of joules for a byte beyond idling."""
        found = [(self._beyond_idle(w), w.moved) for w in self.kept if w.kind is kind and w.moved]
        if not found or any(net is None for net, _ in found):
            return None
        return statistics.median(net / moved for net, moved in found if net is not None)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as CSV, with a header."""
    if not rows:
        return ""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _spread(values: Sequence[float]) -> float:
    """Return the range in percent of the median."""
    middle = statistics.median(values)
    return round(100 * (max(values) - min(values)) / middle, 1) if middle else 0.0
