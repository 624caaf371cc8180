"""Where a group stands: its devices, its points, its schedule.

What makes it simple is that everything which moves state is one thing, an assignment of pieces to devices
from a **point**: a generation and a boundary at which all pieces are held. A shuffle, a recovery and a
resumed run differ only in the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, Self

from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.schedule import count_mini_batches

from crowdlearn_host.errors import RunError

from .attendance import Attendance
from .effects import Effect, Forget, Record, Save, Send
from .forming import Forming
from .restore_points import Device, RestorePoint, Schedule, point_of, providers
from .rounds import is_fresh
from .seating import apart
from .settings import Settings
from .timing.pace import Pace

Phase = Literal["gathering", "forming", "running", "sharing", "paused", "done", "stopped"]


class GroupState:
    """A group's state, `to_json` being what a restarted server needs of it, and what follows from it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.effects: list[Effect] = []
        self.phase: Phase = "gathering"
        self.reason = ""
        self.devices: dict[int, Device] = {}
        self.attendance = Attendance()
        self.enough = False
        """True if training ends with the epoch that is under way: the host has seen that it does not help."""
        self.generation = 0
        self.boundary = 0
        self.schedule = Schedule()
        self.holders: tuple[int, ...] = ()
        self.restore_points: list[RestorePoint] = []
        self.snapshots: dict[tuple[int, int, int], frozenset[int]] = {}
        self._cut = settings.cuts[0]
        self._forming = Forming()
        self._heirs: tuple[int, ...] = ()
        self._kept: set[int] = set()
        self._held: dict[int, int] = {}
        self._shared: set[int] = set()
        self._lost_state: set[tuple[int, int]] = set()
        self._progressed = 0
        self._patient = True
        self.pace = Pace(settings.silence_seconds)

    @property
    def live(self) -> set[int]:
        """Return devices that are connected."""
        return self.attendance.live

    @property
    def _able(self) -> set[int]:
        return self.attendance.able

    def _apart(self, able: Sequence[int], dominator: int) -> list[int]:
        """Return those of the devices `able` that may hold pieces together: helpers have different owners."""
        names = {device.name: number for number, device in self.devices.items()}
        owned = enumerate(self.settings.owners)
        owners: dict[int, int | str] = {**self.settings.owned}
        owners |= {names[name]: owner for owner, each in owned for name in each if name in names}
        return apart(able, owners, dominator, self.holders[1:])

    @property
    def _layout(self) -> Layout:
        return self._cut.layout

    @property
    def _over(self) -> bool:
        """Return True after the last epoch, or after an epoch if it is enough."""
        between = self.schedule.epoch > 0 and not self.schedule.order
        return self.schedule.epoch >= self.settings.epochs or (self.enough and between)

    @property
    def _working(self) -> bool:
        return self.phase in ("forming", "running", "sharing")

    def to_json(self) -> dict[str, Any]:
        """Return everything a restarted server needs."""
        return {
            "devices": [{**asdict(d), "identity": d.identity.hex()} for d in self.devices.values()],
            "generation": self.generation,
            "points": [asdict(p) for p in self.restore_points],
            "snapshots": [[*key, sorted(heirs)] for key, heirs in self.snapshots.items()],
            "done": self.phase == "done",
        }

    @classmethod
    def from_json(cls, settings: Settings, data: dict[str, Any]) -> Self:
        """Return the group as it was saved, with no device connected. Raises RunError if the data is
        damaged.
        """
        group = cls(settings)
        try:
            for d in data["devices"]:
                device = Device(d["number"], d["name"], bytes.fromhex(d["identity"]), d["samples"])
                group.devices[device.number] = device
            group.generation = data["generation"]
            group.restore_points = [point_of(p) for p in data["points"]]
            group.snapshots = {(g, b, piece): frozenset(heirs) for g, b, piece, heirs in data["snapshots"]}
            if data["done"]:
                group.phase = "done"
            if group.restore_points:
                group._restore(group.restore_points[-1])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"the run's saved state is damaged ({error}); start a new run") from error
        return group

    def _restore(self, point: RestorePoint) -> None:
        """Stand where the point stood."""
        self.restore_points = self.restore_points[: self.restore_points.index(point) + 1]
        self.boundary, self.schedule = point.boundary, point.schedule
        self.holders = point.holders
        self._cut = next((cut for cut in self.settings.cuts if cut.layout == point.layout), self._cut)
        if self._progressed > self.boundary:
            self._record("rolled_back", boundary=self.boundary, after=self._progressed)
        self._progressed = self.boundary

    def _reach(self, boundary: int) -> None:
        """Add a restore point at a boundary that all pieces hold. Once its snapshots are all here, older
        points are forgotten.
        """
        self.boundary = boundary
        point = RestorePoint(self.generation, boundary, self._layout, self.holders, self.schedule)
        key = (point.generation, point.boundary)
        if all((*key, piece) in self.snapshots or self._alone for piece in range(len(self.holders))):
            self.restore_points = [point]
            self.snapshots = {k: heirs for k, heirs in self.snapshots.items() if k[:2] >= key}
            self.effects += [Save(), Forget(*key)]
            for device in sorted(self.live):
                self._send(device, committed=pb.Committed(generation=key[0], boundary=key[1]))
        else:
            self.restore_points.append(point)
            self.effects.append(Save())

    def _providers(self, point: RestorePoint) -> list[tuple[int, bool]] | None:
        return providers(point, self.snapshots, self.live, self._lost_state, self._heirs_needed)

    @property
    def _heirs_needed(self) -> int:
        """Return how many heirs can read a snapshot together."""
        return self.settings.heirs_needed if self.settings.heirs == "shared" else 1

    def _helping(
        self, point: RestorePoint, providing: Sequence[tuple[int, bool]]
    ) -> tuple[tuple[int, int], ...]:
        """Return the heirs that open a stored snapshot together with the one that provides it, and its
        piece.
        """
        found: list[tuple[int, int]] = []
        for piece, (provider, is_stored) in enumerate(providing):
            if is_stored:
                heirs = self.snapshots[point.generation, point.boundary, piece] & self.live - {provider}
                found += [(heir, piece) for heir in sorted(heirs)[: self._heirs_needed - 1]]
        return tuple(found)

    @property
    def _alone(self) -> bool:
        """Return True if no device but the holder is there to inherit anything."""
        return not self._heirs or (set(self._heirs) == set(self.holders) and len(self.holders) == 1)

    def _may_inherit(self, spares: Sequence[int]) -> tuple[int, ...]:
        """Return the devices that may read snapshots of a new generation."""
        if self.settings.heirs == "owner":
            return ()
        if self.settings.heirs == "shared":
            everyone = tuple(sorted({*self.holders, *spares}))
            return everyone if len(everyone) > self.settings.heirs_needed else ()
        everybody = sorted(self.holders) if self.settings.heirs == "all" else ()
        return tuple(spares or everybody)

    @property
    def _pass_end(self) -> int:
        samples = self.devices[self.schedule.dominator].samples
        batches = count_mini_batches(samples, self.settings.batch, self.settings.least_rows)
        return self.schedule.pass_boundary + batches

    @property
    def _fresh(self) -> bool:
        """Return True if a round begins."""
        return is_fresh(self.schedule, self.boundary)

    @property
    def _patched(self) -> bool:
        """Return True if the global model's weights replace the group's own at this point."""
        return self._fresh and self.schedule.round > 0 and not (self.settings.alone or self._forming.keepers)

    def _name(self, number: int) -> str:
        device = self.devices.get(number)
        return device.name if device else f"device {number}"

    def _send(self, device: int, **body: Any) -> None:
        self.effects.append(Send(device, pb.Frame(**body)))

    def _record(self, event: str, **fields: Any) -> None:
        self.effects.append(Record(event, fields))
