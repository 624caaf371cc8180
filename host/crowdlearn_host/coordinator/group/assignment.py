"""An assignment as each device is told it: who holds which piece, and whose state goes where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crowdlearn_device.piece.routes import Layout, overlap
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.state.piece_state import Neurons

from .restore_points import Device, RestorePoint, Schedule
from .settings import Settings


@dataclass(frozen=True)
class Assignment:
    """A generation. `providing` has by piece of the point which device provides it, and whether from a stored
    snapshot. With keepers no device holds a piece: they take all of them and keep them. `helping` are heirs
    that open a stored snapshot with its provider, and its piece.
    """

    settings: Settings
    programs: tuple[str, ...]
    layout: Layout
    generation: int
    schedule: Schedule
    boundary: int
    pass_boundary: int
    pass_end: int
    holders: tuple[int, ...]
    keepers: tuple[int, ...]
    heirs: tuple[int, ...]
    devices: tuple[Device, ...]
    point: RestorePoint | None
    providing: tuple[tuple[int, bool], ...]
    fresh: bool
    patched: bool
    helping: tuple[tuple[int, int], ...] = ()
    heirs_needed: int = 1

    def frame(self, number: int) -> pb.Assign:
        """Return the message for this device."""
        held = number in self.holders and not self.keepers
        assign = pb.Assign(
            generation=self.generation,
            epoch=self.schedule.epoch,
            pass_index=len(self.schedule.finished),
            boundary=self.boundary,
            pass_boundary=self.pass_boundary,
            pass_end=self.pass_end,
            piece=self.holders.index(number) if held else -1,
            pieces=self._pieces(),
            peers=[pb.Peer(device=d.number, identity=d.identity) for d in self.devices],
            training=self._training(),
            heirs=self.heirs,
            heirs_needed=self.heirs_needed,
            fresh=self.fresh,
            patched=self.patched,
            keep_program=self.settings.whole_program if self.keepers else "",
        )
        self._add_moves(assign, number)
        return assign

    def _pieces(self) -> list[pb.PieceSpec]:
        return [
            pb.PieceSpec(device=device, program=program, neurons=_ranges(neurons))
            for device, program, neurons in zip(self.holders, self.programs, self.layout, strict=True)
        ]

    def _training(self) -> pb.Training:
        settings, schedule = self.settings, self.schedule
        return pb.Training(
            learning_rate=settings.rate(schedule.epoch, schedule.shared, len(schedule.order) or 1),
            batch=settings.batch,
            micro_batch=settings.micro_batch,
            in_flight=settings.in_flight,
            seed=settings.seed,
            snapshot_every=settings.snapshot_every,
            wire=settings.wire_type,  # type: ignore[arg-type]
            rank=settings.theta < 1 and not settings.secure,
            warmup=settings.warmup,
            staleness=settings.staleness,
            least_rows=settings.least_rows,
            secret_order=settings.secret_order,
            label_epsilon=settings.label_epsilon,
            weigh_charge=settings.weigh_charge,
            shares=settings.shares,
            masked=settings.masked,
            maps=settings.maps,
            augment=settings.augment,
            outgoing=[pb.Mechanism(name=name) for name in settings.outgoing],
            clipping=self._clipping(),
        )

    def _clipping(self) -> pb.Clipping | None:
        """Return what steps of this dominator clip and add; None if they are plain."""
        budget, dominator = self.settings.budget, self.schedule.dominator
        samples = next((each.samples for each in self.devices if each.number == dominator), 0)
        if budget is None or not samples:
            return None
        return pb.Clipping(clip=self.settings.clip, noise=budget.noise_of(samples))

    def _add_moves(self, assign: pb.Assign, number: int) -> None:
        """Add what this device provides, to which devices it sends that, and what it waits for."""
        point = self.point
        if point is None:
            return
        assign.from_generation = point.generation
        for heir, piece in self.helping:
            if heir == number:
                assign.unsealings.add(piece=piece, device=self.providing[piece][0])
        for old, (provider, is_stored) in enumerate(self.providing):
            assign.provided.add(device=provider, neurons=_ranges(point.layout[old]))
            if provider != number:
                continue
            assign.provides.add(piece=old, from_snapshot=is_stored, neurons=_ranges(point.layout[old]))
            due = [(keeper, point.layout[old]) for keeper in self.keepers]
            for receiver, layers in due or zip(self.holders, self.layout, strict=True):
                for layer, (has, wants) in enumerate(zip(point.layout[old], layers, strict=True)):
                    start, stop = overlap(has, wants)
                    if stop > start:
                        neurons = pb.Range(start=start, stop=stop)
                        assign.transfers.add(device=receiver, piece=old, layer=layer, neurons=neurons)


def _ranges(neurons: Sequence[Neurons]) -> list[pb.Range]:
    return [pb.Range(start=a, stop=b) for a, b in neurons]
