"""What a group does next from where it stands: pass upon pass, round upon round, and on from the newest point
where something went wrong.
"""

from __future__ import annotations

from dataclasses import replace

from crowdlearn_device.protocol import wire_pb2 as pb

from .assignment import Assignment
from .effects import Checkpoint, Contribute, Save
from .forming import Forming
from .group_state import GroupState
from .rotation import next_holders, turn_order
from .rounds import after_sharing, is_full, next_epoch
from .seating import beyond, led


class Decisions(GroupState):
    """The decisions of a group; those that move state end in a new assignment."""

    def _recover(self, why: str) -> None:
        self._record("recovering", why=why, boundary=self.boundary)
        self._resume()

    def _resume(self) -> None:
        """Go on from the newest point that the connected devices can restore, or say what is missing."""
        if self.phase in ("done", "stopped"):
            return
        if not self.restore_points and not self._gathered:
            self.phase = "gathering"
            return
        if self.restore_points:
            restorable = [p for p in self.restore_points if self._providers(p) is not None]
            if restorable:
                self._restore(restorable[-1])
            elif self.restore_points[0].boundary == 0:
                # Nothing is trained yet: the server's own model is the state.
                self.restore_points = [replace(self.restore_points[0], generation=0)]
                self._restore(self.restore_points[0])
            else:
                absent = sorted({d for d in self.restore_points[-1].holders if d not in self.live})
                self._pause(f"pieces are held by devices that are gone: {', '.join(map(self._name, absent))}")
                return
        dominator = self.schedule.dominator
        if dominator < 0 and not self.schedule.sharing:
            self._next_pass()
        elif not self.schedule.sharing and dominator not in self._able:
            if dominator in self.attendance.absent:
                self._record("deferred", device=self._name(dominator))
                self.schedule = replace(self.schedule, dominator=-1)
                self._next_pass()
            else:
                self._pause(f"dominator {self._name(dominator)} is gone; its samples are nowhere else")
        else:
            self._refill()

    @property
    def _gathered(self) -> bool:
        """Return True if enough devices are here to begin."""
        fit = self.settings.devices - len(self.attendance.unfit)
        wanted = max(fit, len(self.settings.layout))
        return len(self._able) >= (wanted if self._patient else len(self.settings.layout))

    def _refill(self) -> None:
        """Assign the same pieces to the same devices, and to others where these are gone."""
        spares = sorted(self._able - set(self.holders), key=lambda d: (d in self.pace.slow, d))
        dominator, own = self.schedule.dominator, [d for d in self.holders if d in self._able]
        here = self._apart([*spares, *own], dominator)
        holders = led(self._cut.takers, self.holders, here, dominator)
        if holders is not None:
            self._assign(holders)
        elif self._choose_cut(dominator):
            self._seat()

    @property
    def _dominating(self) -> list[int]:
        """Return devices that hold samples, and can afford the dominator's piece of some cut."""
        return [
            number
            for number, device in sorted(self.devices.items())
            if device.samples and any(not beyond(cut.takers, [number]) for cut in self.settings.cuts)
        ]

    def _choose_cut(self, dominator: int) -> bool:
        """Take the division that the devices here can afford under this dominator; without one, pause. One
        into fewer pieces has to wait for the grace to pass.
        """
        able = self._apart(sorted(self._able), dominator)
        count, meeting = len(able), len(self._able) - len(able)
        enough = [cut for cut in self.settings.cuts if len(cut) <= count]
        fits = next((c for c in enough if led(c.takers, [-1] * len(c), able, dominator)), None)
        wanted = self.settings.cuts[0]
        if fits is None and enough:
            here = ", ".join(map(self._name, able))
            self._pause(f"the devices that are here cannot afford the pieces within the plan's caps: {here}")
            return False
        if fits is None or (self._patient and fits != wanted and len(fits) != len(self._cut)):
            gone = sorted(set(self.devices) - self._able)
            names = f"; missing: {', '.join(map(self._name, gone))}" if gone else ""
            if meeting:
                names = f", and {meeting} more whose owners (privacy.owners) have another among them{names}"
            self._pause(f"{len(wanted)} pieces need as many devices, {count} are here{names}")
            return False
        if fits != self._cut:
            self._record("resliced", pieces=len(fits))
            self._cut = fits
        return True

    def _seat(self) -> None:
        """Assign the pieces of the chosen cut for the pass."""
        holders = next_holders(
            self.settings,
            self.schedule,
            self.holders,
            self._cut.takers,
            len(self._layout),
            set(self._apart(sorted(self._able), self.schedule.dominator)),
            self.pace.slow,
        )
        if holders is not None:
            self._assign(holders)

    def _pause(self, why: str) -> None:
        if self.phase != "paused" or self.reason != why:
            self._record("paused", why=why, grace=self.settings.grace_seconds)
        self.phase, self.reason = "paused", why

    def _whose_turn(self) -> int | None:
        """Return the device that is or should be dominator: absent ones come last, None when the epoch has
        none left.
        """
        if self.schedule.dominator >= 0 and self.schedule.dominator not in self.attendance.absent:
            return self.schedule.dominator
        waiting = [d for d in self.schedule.order if d not in self.schedule.finished]
        if self.settings.weigh_charge:
            waiting.sort(key=self.attendance.left, reverse=True)  # of equal ones the first of the order
        return next((d for d in waiting if d not in self.attendance.absent), None)

    def _next_pass(self) -> None:
        """Draw the next dominator without replacement; share when a round is over; end after the last
        epoch.
        """
        if self._over:
            self._end()
            return
        if not self.schedule.order:
            order = turn_order(self.settings, self._dominating, self.schedule.epoch)
            if not order:
                self._pause("no device that is here holds samples and can afford the dominator's piece")
                return
            self.schedule = replace(self.schedule, order=order)
        turn = self._whose_turn()
        if (turn is None or is_full(self.schedule, self.settings.every)) and not self._fresh:
            self.schedule = replace(self.schedule, sharing=True)
            self.restore_points[-1] = replace(self.restore_points[-1], schedule=self.schedule)
            self.effects.append(Save())
            if self.phase == "running" and set(self.holders) <= self._able:
                self._ask_to_share()
            else:
                self._resume()
        elif turn is None and self._able:
            self._end_epoch()
            self.restore_points = after_sharing(
                self.settings, self.restore_points, self.schedule, over=self._over
            )
            self._next_pass()
        elif turn is None:
            self._pause("no device is here")
        elif turn not in self._able:
            self._pause(f"it is the turn of {self._name(turn)}, which is not here")
        elif self._choose_cut(turn):
            began = self.boundary - self.schedule.steps_done(turn)
            self.schedule = replace(self.schedule, dominator=turn, pass_boundary=began)
            self._seat()

    def _ask_to_share(self) -> None:
        self.phase = "sharing"
        self._shared = set()
        if self.settings.secure:
            pieces = dict(zip(self.holders, self._layout, strict=True))
            self.effects.append(Contribute(self.generation, self.schedule.place, pieces))
            return
        for device in self.holders:
            share = pb.Share(
                generation=self.generation,
                round=self.schedule.round,
                theta=self.settings.theta,
                values=self.settings.shared_type,  # type: ignore[arg-type]
            )
            self._send(device, share=share)

    def _end_epoch(self) -> None:
        """End the epoch once all devices have been dominator and all is shared: on disk first, then the model
        is checkpointed.
        """
        for number in sorted(set(self.schedule.order) - set(self.schedule.finished)):
            self._record("skipped", device=self._name(number), epoch=self.schedule.epoch)
        self.effects += [Save(), Checkpoint(self.schedule.epoch)]
        self._record("epoch", epoch=self.schedule.epoch, boundary=self.boundary)
        self.schedule = next_epoch(self.schedule)

    def _end(self) -> None:
        """Have every device take the model, if they are to keep it; then the run is over."""
        if self.settings.whole_program:
            if self.live - self._kept:
                self._assign(self.holders, keepers=tuple(sorted(self.live)))
                return
            if away := set(self.devices) - self._kept - self.attendance.absent:
                self._pause(f"without the model: {', '.join(map(self._name, sorted(away)))}")
                return
        self.phase = "done"
        self._record("done", boundary=self.boundary)
        self.effects.append(Save())
        for number in sorted(self.live):
            self._send(number, finish=pb.Finish(reason="the run is over"))

    def _assign(self, holders: tuple[int, ...], keepers: tuple[int, ...] = ()) -> None:
        """Begin a new generation: these devices hold the pieces, from the newest point on. With keepers no
        device does: they take all pieces of the point and keep them.
        """
        if over := beyond(self._cut.takers, holders):
            told = ", ".join(f"piece {piece} on {self._name(device)}" for piece, device in over)
            self._pause(f"over the plan's caps: {told}")
            return
        settings, schedule = self.settings, self.schedule
        point = self.restore_points[-1] if self.restore_points else None
        self.generation += 1
        self.phase = "forming"
        self.holders = holders
        source = point if point and point.generation else None
        providing = tuple(self._providers(source) or ()) if source else ()
        helping = self._helping(source, providing) if source else ()
        self._forming = Forming(holders, keepers, source, providing, helping)
        self._patient = True
        self._held, self._shared = {}, set()
        self.effects.append(Save())
        spares = sorted(self._able - set(holders))
        heirs = self._heirs = () if keepers else self._may_inherit(spares)
        self._record(
            "assigned",
            generation=self.generation,
            epoch=schedule.epoch,
            boundary=self.boundary,
            dominator=self._name(schedule.dominator) if schedule.dominator >= 0 else "",
            holders=[self._name(d) for d in holders],
            spares=[self._name(d) for d in spares],
        )
        passing = schedule.dominator >= 0
        assignment = Assignment(
            settings=settings,
            programs=self._cut.programs,
            layout=self._layout,
            generation=self.generation,
            schedule=schedule,
            boundary=self.boundary,
            pass_boundary=schedule.pass_boundary if passing else self.boundary,
            pass_end=self._pass_end if passing else self.boundary,
            holders=holders,
            keepers=keepers,
            heirs=heirs,
            devices=tuple(self.devices.values()),
            point=source,
            providing=providing,
            helping=helping,
            heirs_needed=self._heirs_needed,
            fresh=self._fresh,
            patched=self._patched,
        )
        for number in sorted(self.live):
            self._send(number, assign=assignment.frame(number))
