"""Points: boundaries at which every piece was held, from which everything that moves state begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from crowdlearn_device.piece.routes import Layout

Place = tuple[int, int]
"""An epoch, and how many of its passes had been shared when a round began."""


@dataclass(frozen=True)
class Device:
    """A device that belongs to the group, whether it is connected or not."""

    number: int
    name: str
    identity: bytes
    samples: int


@dataclass(frozen=True)
class Schedule:
    """The position of the run: `done` mini-batches by device of this epoch, `dominator` -1 between passes.

    `pass_boundary` is where the dominator's pass began, or would have begun had nothing come between. What is
    trained between two sharings is a round: number `round` of the run began at `round_boundary`, when
    `shared` of the epoch's passes were shared already; when it is over the group shares (`sharing`).
    """

    epoch: int = 0
    order: tuple[int, ...] = ()
    done: tuple[tuple[int, int], ...] = ()
    finished: tuple[int, ...] = ()
    dominator: int = -1
    pass_boundary: int = 0
    sharing: bool = False
    shared: int = 0
    round: int = 0
    round_boundary: int = 0

    @property
    def place(self) -> Place:
        """Return how far a group is, to compare it with others."""
        return self.epoch, self.shared

    def steps_done(self, device: int) -> int:
        return dict(self.done).get(device, 0)

    def with_done(self, device: int, steps: int) -> Schedule:
        return replace(self, done=tuple(sorted({**dict(self.done), device: steps}.items())))


@dataclass(frozen=True)
class RestorePoint:
    """A boundary at which every piece of a layout was held, and the schedule as it stood there.

    In generation 0 the server's model is the state, and needs no holder: before the first mini-batch, and
    where sharing has just renewed every weight.
    """

    generation: int
    boundary: int
    layout: Layout
    holders: tuple[int, ...]
    schedule: Schedule


def point_of(data: dict[str, Any]) -> RestorePoint:
    """Return the point that `dataclasses.asdict` made `data` of, and JSON kept."""
    layout = tuple(tuple((a, b) for a, b in piece) for piece in data["layout"])
    s = data["schedule"]
    done = tuple((device, steps) for device, steps in s["done"])
    schedule = Schedule(
        **{**s, "order": tuple(s["order"]), "done": done, "finished": tuple(s["finished"])},
    )
    return RestorePoint(data["generation"], data["boundary"], layout, tuple(data["holders"]), schedule)


def providers(
    point: RestorePoint,
    snapshots: Mapping[tuple[int, int, int], frozenset[int]],
    live: Set[int],
    lost: Set[tuple[int, int]],
    needed: int = 1,
) -> list[tuple[int, bool]] | None:
    """Return the device that can provide each piece as it was at the point, and whether from a stored
    snapshot; None if none can.

    `snapshots` has the devices that can read the one of a generation, boundary and piece; `lost` which
    devices no longer have the state of which generation. As many heirs as are `needed` read one together.
    """
    found: list[tuple[int, bool]] = []
    for piece, holder in enumerate(point.holders if point.generation else ()):
        heirs = snapshots.get((point.generation, point.boundary, piece), frozenset()) & live
        heirs -= {device for device, generation in lost if generation == point.generation}
        if holder in live and (holder, point.generation) not in lost:
            found.append((holder, False))
        elif len(heirs) >= needed:
            found.append((min(heirs), True))
        else:
            return None
    return found


@dataclass
class RestorePoints:
    """The points that a group can return to, newest last. `snapshots` on the server's disk has the heirs that
    can read the one of a generation, boundary and piece; `lost` which devices no longer have the state of
    which generation.
    """

    points: list[RestorePoint] = field(default_factory=list)
    snapshots: dict[tuple[int, int, int], frozenset[int]] = field(default_factory=dict)
    lost: set[tuple[int, int]] = field(default_factory=set)

    def return_to(self, point: RestorePoint) -> None:
        """Forget all points newer than this one."""
        self.points = self.points[: self.points.index(point) + 1]

    def has_snapshots(self, point: RestorePoint) -> bool:
        """Return whether a snapshot of every piece at a point is on the server's disk."""
        key = (point.generation, point.boundary)
        return all((*key, piece) in self.snapshots for piece in range(len(point.holders)))

    def keep_only(self, point: RestorePoint) -> None:
        """Forget all other points, and snapshots of older ones."""
        key = (point.generation, point.boundary)
        self.points = [point]
        self.snapshots = {k: heirs for k, heirs in self.snapshots.items() if k[:2] >= key}

    def reschedule(self, schedule: Schedule) -> None:
        """Have the newest point go on by another schedule."""
        self.points[-1] = replace(self.points[-1], schedule=schedule)

    def providers(self, point: RestorePoint, live: Set[int], needed: int) -> list[tuple[int, bool]] | None:
        """Return `providers` of a point, of the devices that are connected."""
        return providers(point, self.snapshots, live, self.lost, needed)

    def helping(
        self, point: RestorePoint, providing: Sequence[tuple[int, bool]], live: Set[int], needed: int
    ) -> tuple[tuple[int, int], ...]:
        """Return the heirs that open a stored snapshot together with the one that provides it, and its
        piece.
        """
        found: list[tuple[int, int]] = []
        for piece, (provider, is_stored) in enumerate(providing):
            if is_stored:
                heirs = self.snapshots[point.generation, point.boundary, piece] & live - {provider}
                found += [(heir, piece) for heir in sorted(heirs)[: needed - 1]]
        return tuple(found)
