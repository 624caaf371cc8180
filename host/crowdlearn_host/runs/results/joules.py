"""The ledger of a run's energy: joules by device, piece and purpose, modelled from what each device did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crowdlearn_device.energy.readings import Provenance

from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.planner.problem.fleet import DeviceClass

COMPUTE = "compute"
RADIO = ("activation", "error", "shuffle", "sharing", "recovery", "model", "norm", "control")
BESIDE = ("model", "norm", "control")
"""Purposes that no plan foretells: keeping the model, clipping, programs and the protocol's own messages."""


@dataclass(frozen=True)
class Spent:
    """Joules that a device spent on a purpose; `piece` is the one it computed, -1 for the radio."""

    device: str
    piece: int
    purpose: str
    joules: float
    source: str
    provenance: Provenance = Provenance.MODELLED


def spent_joules(
    plan: Plan,
    events: Iterable[Mapping[str, Any]],
    progress: Iterable[Mapping[str, Any]],
    traffic: Iterable[Mapping[str, Any]],
) -> list[Spent]:
    """Return what devices spent whose class tells joules per MAC and byte.

    `events` are a run's events with `assigned` among them, `progress` its mini-batches with their `rows`,
    both by time; `traffic` the bytes by device, direction and purpose.
    """
    return _spent(plan, _rows_by_holder(events, progress), traffic)


class EnergyCount:
    """The ledger of a run while it goes on: `take` its events as they come, `spent` tells what there is.

    A resumed run begins with the events and mini-batches that it has.
    """

    def __init__(
        self,
        plan: Plan,
        events: Iterable[Mapping[str, Any]] = (),
        progress: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self._plan = plan
        self._holders: dict[Any, Sequence[str]] = {}
        self._metered = any(kind.power is not None for kind in plan.class_of.values())
        known = list(events) if self._metered else []
        self._rows = defaultdict(float, _rows_by_holder(known, progress if self._metered else ()))
        for event in known:
            self.take(str(event.get("event")), event)

    def take(self, event: str, fields: Mapping[str, Any]) -> None:
        """Count a mini-batch for those who hold pieces now."""
        if not self._metered:
            return
        if event == "assigned":
            self._holders[fields.get("group")] = fields["holders"]
        elif event == "progress":
            for piece, device in enumerate(self._holders.get(fields.get("group"), ())):
                self._rows[device, piece] += float(fields["rows"])

    def spent(self, traffic: Iterable[Mapping[str, Any]]) -> list[Spent]:
        """Return what devices spent until now."""
        return _spent(self._plan, self._rows, traffic)


def _spent(
    plan: Plan, rows: Mapping[tuple[str, int], float], traffic: Iterable[Mapping[str, Any]]
) -> list[Spent]:
    constants = {name: kind for name, kind in plan.class_of.items() if kind.power is not None}
    spent = [
        Spent(device, piece, COMPUTE, kind.power[0] * plan.pieces[piece].macs * count, _source(kind))
        for (device, piece), count in sorted(rows.items())
        if (kind := constants.get(device)) is not None and kind.power is not None
    ]
    radio: defaultdict[tuple[str, str], float] = defaultdict(float)
    for row in traffic:
        kind = constants.get(str(row["device"]))
        if kind is not None and kind.power is not None:
            price = kind.power[1 if row["direction"] == "up" else 2]
            radio[str(row["device"]), str(row["purpose"])] += price * float(row["bytes"])
    spent += [
        Spent(device, -1, purpose, joules, _source(constants[device]))
        for (device, purpose), joules in sorted(radio.items())
    ]
    return spent


def joules_by_device(spent: Iterable[Spent], without: Sequence[str] = ()) -> dict[str, float]:
    """Return joules of each device, but for some purposes."""
    totals: defaultdict[str, float] = defaultdict(float)
    for each in spent:
        if each.purpose not in without:
            totals[each.device] += each.joules
    return dict(totals)


def _rows_by_holder(
    events: Iterable[Mapping[str, Any]], progress: Iterable[Mapping[str, Any]]
) -> dict[tuple[str, int], float]:
    """Return samples that each device trained on with each piece: those of mini-batches while it held it."""
    assigned = [(float(e["time"]), e) for e in events if e.get("event") == "assigned"]
    rows: defaultdict[tuple[str, int], float] = defaultdict(float)
    for row in progress:
        if "rows" not in row:
            continue
        before = [e for when, e in assigned if when <= row["time"] and e.get("group") == row.get("group")]
        for piece, device in enumerate(before[-1]["holders"] if before else ()):
            rows[device, piece] += float(row["rows"])
    return dict(rows)


def _source(kind: DeviceClass) -> str:
    text = f"constants of class {kind.name} in the fleet file"
    if kind.energy_source:
        text += f", {kind.energy_provenance or 'of unknown provenance'}: {kind.energy_source}"
    return text
