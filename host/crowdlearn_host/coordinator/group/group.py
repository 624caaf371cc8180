"""The state of one group of devices in training, as data: what it is, and what follows from it.

Handlers change it in place, for a copy at every message would cost more than the message, and yield effects.
`handlers/table.py` says which function handles what; docs/protocol.md tells the states, and
docs/architecture.md the idiom.

What makes it simple is that everything which moves state is one thing, an assignment of pieces to devices
from a **point**: a generation and a boundary at which all pieces are held. A shuffle, a recovery and a
resumed run differ only in the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.protocol.schedule import count_mini_batches

from crowdlearn_host.errors import RunError
from crowdlearn_host.planner.problem.seating import Owners, beyond

from .attendance import Attendance
from .faults import Faults
from .forming import Forming
from .restore_points import Device, RestorePoint, RestorePoints, Schedule, point_of
from .rounds import is_fresh
from .settings import Cut, Settings
from .timing.deadlines import Watch
from .timing.pace import Pace

Phase = Literal["gathering", "forming", "running", "sharing", "paused", "choosing", "done", "stopped"]


@dataclass
class Reports:
    """The reports of devices since the last assignment: boundaries that holders have on disk (`held`), those
    that have `shared` in this round, and the dominator's newest boundary (`progressed`).
    """

    held: dict[int, int] = field(default_factory=dict)
    shared: set[int] = field(default_factory=set)
    progressed: int = 0


@dataclass
class Group:
    """A group's state; `to_json` is what a restarted server needs of it. Numbers of devices are the run's;
    nothing here knows a socket, or a clock but the `now` of ticks.
    """

    settings: Settings
    phase: Phase = "gathering"
    reason: str = ""
    """Why the group is paused, or stopped."""
    devices: dict[int, Device] = field(default_factory=dict)
    attendance: Attendance = field(default_factory=Attendance)
    generation: int = 0
    boundary: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    cut: Cut = field(init=False)
    holders: tuple[int, ...] = ()
    heirs: tuple[int, ...] = ()
    """Devices that may read the snapshots of this generation."""
    forming: Forming = field(default_factory=Forming)
    reports: Reports = field(default_factory=Reports)
    restore_points: RestorePoints = field(default_factory=RestorePoints)
    faults: Faults = field(default_factory=Faults)
    has_model: set[int] = field(default_factory=set)
    """Devices that keep the trained model."""
    enough: bool = False
    """True if training ends with the epoch that is under way: the host has seen that it does not help."""
    chosen: bool = False
    """True once training is over, and validation has chosen the epoch whose model devices keep."""
    held: bool = False
    """True if the group waits to begin until its first weights are drawn."""
    pace: Pace = field(init=False)
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.cut = self.settings.cuts[0]
        self.pace = Pace(self.settings.silence_seconds)
        self.watch = Watch(self.pace)

    @property
    def live(self) -> set[int]:
        """Return devices that are connected."""
        return self.attendance.live

    @property
    def able(self) -> set[int]:
        """Return devices that may be given a piece."""
        return self.attendance.able

    @property
    def layout(self) -> Layout:
        """Return the neurons of each piece, by layer."""
        return self.cut.layout

    @property
    def working(self) -> bool:
        """Return True if a generation is under way."""
        return self.phase in ("forming", "running", "sharing")

    @property
    def over(self) -> bool:
        """Return True after the last epoch, or that the budget of noise pays for; or after an epoch if it is
        enough.
        """
        between = self.schedule.epoch > 0 and not self.schedule.order
        return self.schedule.epoch >= self.affordable or (self.enough and between)

    @property
    def affordable(self) -> int:
        """Return the epochs that are trained, as far as the budget of noise pays for all devices."""
        return self.settings.affordable(self.samples)

    @property
    def samples(self) -> list[int]:
        """Return the numbers of samples of the devices that have some."""
        return [each.samples for each in self.devices.values() if each.samples]

    @property
    def spent(self) -> dict[str, Any]:
        """Return the epsilon of what has run until now, the pass under way as if it were over: the largest of
        all devices, and that of each by its number of samples. It is empty without noise.
        """
        if self.settings.budget is None:
            return {}
        begun = {*self.schedule.finished, *dict(self.schedule.done), self.schedule.dominator}
        each = {
            str(device.samples): self.settings.budget.spent(
                device.samples, self.schedule.epoch + (device.number in begun)
            )
            for device in sorted(self.devices.values(), key=lambda d: (d.samples, d.number in begun))
            if device.samples
        }
        return {"epsilon": max(each.values(), default=0.0), "epsilons": each}

    @property
    def gathered(self) -> bool:
        """Return True if enough devices are here to begin."""
        fit = self.settings.devices - len(self.attendance.unfit)
        fewest = len(self.settings.layout)
        return len(self.able) >= (max(fit, fewest) if self.attendance.patient else fewest)

    @property
    def pass_end(self) -> int:
        """Return the boundary at which the dominator's pass is over."""
        samples = self.devices[self.schedule.dominator].samples
        batches = count_mini_batches(samples, self.settings.batch, self.settings.least_rows)
        return self.schedule.pass_boundary + batches

    @property
    def fresh(self) -> bool:
        """Return True if a round begins."""
        return is_fresh(self.schedule, self.boundary)

    @property
    def patched(self) -> bool:
        """Return True if the global model's weights replace the group's own at this point."""
        return self.fresh and self.schedule.round > 0 and not (self.settings.alone or self.forming.keepers)

    @property
    def heirs_needed(self) -> int:
        """Return how many heirs can read a snapshot together."""
        return self.settings.heirs_needed if self.settings.heirs == "shared" else 1

    @property
    def without_heirs(self) -> bool:
        """Return True if no device but the holder is there to inherit anything."""
        return not self.heirs or (set(self.heirs) == set(self.holders) and len(self.holders) == 1)

    @property
    def dominating(self) -> list[int]:
        """Return devices that hold samples, and can afford the dominator's piece of some cut."""
        return [
            number
            for number, device in sorted(self.devices.items())
            if device.samples and any(not beyond(cut.takers, [number]) for cut in self.settings.cuts)
        ]

    @property
    def whose_turn(self) -> int | None:
        """Return the device that is or should be dominator: absent ones come last, None when the epoch has
        none left.
        """
        schedule, absent = self.schedule, self.attendance.absent
        if schedule.dominator >= 0 and schedule.dominator not in absent:
            return schedule.dominator
        waiting = [d for d in schedule.order if d not in schedule.finished]
        if self.settings.weigh_charge:
            waiting.sort(key=self.attendance.left, reverse=True)  # of equal ones the first of the order
        return next((d for d in waiting if d not in absent), None)

    def needs(self, number: int) -> bool:
        """Return whether the generation under way cannot go on without this device."""
        return number in self.holders or (self.phase == "forming" and number in self.forming.participants)

    def takes_snapshot(self, boundary: int) -> bool:
        """Return whether a piece can be at this boundary, and complete, in the pass that is under way."""
        first, every = self.schedule.pass_boundary, max(1, self.settings.snapshot_every)
        drained = boundary == self.pass_end or (boundary - first) % every == 0
        return self.boundary <= boundary <= self.pass_end and drained

    def may_inherit(self, spares: Sequence[int]) -> tuple[int, ...]:
        """Return the devices that may read snapshots, `spares` being those that hold no piece."""
        if self.settings.heirs == "owner":
            return ()
        if self.settings.heirs == "shared":
            everyone = tuple(sorted({*self.holders, *spares}))
            return everyone if len(everyone) > self.settings.heirs_needed else ()
        everybody = sorted(self.holders) if self.settings.heirs == "all" else ()
        return tuple(spares or everybody)

    @property
    def owners(self) -> Owners:
        """Return the owners of devices on shares, by number, as far as they are known."""
        if not self.settings.shares:
            return {}
        names = {device.name: number for number, device in self.devices.items()}
        owned = enumerate(self.settings.owners)
        owner_of = {names[name]: owner for owner, each in owned for name in each if name in names}
        return {**self.settings.owned, **owner_of}

    def name(self, number: int) -> str:
        """Return the name of a device."""
        device = self.devices.get(number)
        return device.name if device else f"device {number}"

    def stand_at(self, point: RestorePoint) -> None:
        """Take the boundary, schedule, holders and cut of a point; newer ones are forgotten."""
        self.restore_points.return_to(point)
        self.boundary, self.schedule, self.holders = point.boundary, point.schedule, point.holders
        self.cut = next((cut for cut in self.settings.cuts if cut.layout == point.layout), self.cut)

    def to_json(self) -> dict[str, Any]:
        """Return everything a restarted server needs."""
        points = self.restore_points
        return {
            "devices": [{**asdict(d), "identity": d.identity.hex()} for d in self.devices.values()],
            "generation": self.generation,
            "points": [asdict(p) for p in points.points],
            "snapshots": [[*key, sorted(heirs)] for key, heirs in points.snapshots.items()],
            "done": self.phase == "done",
        }

    @classmethod
    def from_json(cls, settings: Settings, data: dict[str, Any]) -> Self:
        """Return the group as it was saved, with no device connected. Raises RunError if the data is
        damaged.
        """
        group = cls(settings)
        points = group.restore_points
        try:
            for d in data["devices"]:
                device = Device(d["number"], d["name"], bytes.fromhex(d["identity"]), d["samples"])
                group.devices[device.number] = device
            group.generation = data["generation"]
            points.points = [point_of(p) for p in data["points"]]
            points.snapshots = {(g, b, piece): frozenset(heirs) for g, b, piece, heirs in data["snapshots"]}
            if data["done"]:
                group.phase = "done"
            if points.points:
                group.stand_at(points.points[-1])
                group.reports.progressed = group.boundary
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"the run's saved state is damaged ({error}); start a new run") from error
        return group
