"""One group of devices in training, as a state machine without I/O: who holds which piece, from which
boundary, and what next.

Events go in (`join`, `leave`, `receive`, `tick`); effects come out in order, and the shell carries them out
in that order: `Save` is on disk before the `Send` behind it leaves. docs/protocol.md tells the states. What
makes it simple is that everything which moves state is one thing, an assignment of pieces to devices from a
**point**: a generation and a boundary at which all pieces are held. A shuffle, a recovery and a resumed run
differ only in the point.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.schedule import dominator_order, mini_batches

from ..errors import RunError
from .assignment import Assignment
from .effects import (
    Checkpoint,
    Commit,
    Drop,
    Effect,
    Forget,
    Merge,
    Record,
    Save,
    Send,
    SendGlobal,
    SendPatch,
    SendSnapshot,
)
from .pace import Pace
from .points import Device, Point, Schedule, point_of, providers
from .rotation import next_holders
from .rounds import after_sharing, is_fresh, is_full, next_epoch, next_round
from .settings import Layout, Settings

Phase = Literal["gathering", "forming", "running", "sharing", "paused", "done", "stopped"]
MAX_FAULTS = 8
"""Faults in a row without a new boundary before the run stops with the last one's reason."""


class Group:
    """See the module. Numbers of devices are the run's; nothing here knows a socket or a clock but `now`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.effects: list[Effect] = []
        self.phase: Phase = "gathering"
        self.reason = ""
        self.devices: dict[int, Device] = {}
        self.live: set[int] = set()
        self.generation = 0
        self.boundary = 0
        self.schedule = Schedule()
        self.holders: tuple[int, ...] = ()
        self.points: list[Point] = []
        self.snapshots: dict[tuple[int, int, int], frozenset[int]] = {}
        self._cut = settings.cuts[0]
        self._from: Point | None = None
        self._providing: tuple[tuple[int, bool], ...] = ()
        self._heirs: tuple[int, ...] = ()
        self._keepers: tuple[int, ...] = ()
        self._kept: set[int] = set()
        self._keyed = False
        self._offers: dict[int, pb.KeyOffer] = {}
        self._ready: set[int] = set()
        self._held: dict[int, int] = {}
        self._shared: set[int] = set()
        self._lost_state: set[tuple[int, int]] = set()
        self._unfit: dict[int, str] = {}
        self._leaving: set[int] = set()
        self._gone_since: dict[int, float] = {}
        self._absent: set[int] = set()
        self._faults = 0
        self._progressed = 0
        self._waiting_since: float | None = None
        self._patient = True
        self._asked_in: tuple[object, ...] = ()
        self._waiting: set[int] = set()
        self.pace = Pace(settings.silence_seconds)

    @property
    def _layout(self) -> Layout:
        return self._cut.layout

    @property
    def _able(self) -> set[int]:
        """Devices that may be given a piece."""
        return self.live - self._leaving

    def to_json(self) -> dict[str, Any]:
        """Everything a restarted server needs."""
        return {
            "devices": [{**asdict(d), "identity": d.identity.hex()} for d in self.devices.values()],
            "generation": self.generation,
            "points": [asdict(p) for p in self.points],
            "snapshots": [[*key, sorted(heirs)] for key, heirs in self.snapshots.items()],
            "done": self.phase == "done",
        }

    @classmethod
    def from_json(cls, settings: Settings, data: dict[str, Any]) -> Group:
        """The group as it was saved, with nobody connected. Raises RunError where the data is damaged."""
        group = cls(settings)
        try:
            for d in data["devices"]:
                device = Device(d["number"], d["name"], bytes.fromhex(d["identity"]), d["samples"])
                group.devices[device.number] = device
            group.generation = data["generation"]
            group.points = [point_of(p) for p in data["points"]]
            group.snapshots = {(g, b, piece): frozenset(heirs) for g, b, piece, heirs in data["snapshots"]}
            if data["done"]:
                group.phase = "done"
            if group.points:
                group._restore(group.points[-1])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"the run's saved state is damaged ({error}); start a new run") from error
        return group

    def _restore(self, point: Point) -> None:
        """Stand where the point stood."""
        self.points = self.points[: self.points.index(point) + 1]
        self.boundary, self.schedule = point.boundary, point.schedule
        self.holders = point.holders
        self._cut = next((cut for cut in self.settings.cuts if cut.layout == point.layout), self._cut)
        if self._progressed > self.boundary:
            self._record("rolled_back", boundary=self.boundary, after=self._progressed)
        self._progressed = self.boundary

    def join(self, device: Device) -> None:
        """A device connected, for the first time or again."""
        number = device.number
        if number in self._unfit:
            self._send(number, finish=pb.Finish(reason=self._unfit[number]))
            return
        self.live.add(number)
        known = self.devices.get(number)
        self.devices[number] = device if known is None else replace(device, samples=known.samples)
        self._absent.discard(number)
        self._gone_since.pop(number, None)
        self._leaving.discard(number)
        self.pace.heard(number)
        self._record("joined", device=device.name)
        if self.phase == "done":
            self._send(number, finish=pb.Finish(reason="the run is over"))
        elif self.phase in ("gathering", "paused"):
            self._resume()
        elif self.phase == "running" and number not in self._heirs:
            self._name_heir(number)

    def leave(self, number: int, reason: str) -> None:
        """A device's connection ended."""
        if number not in self.live:
            return
        self.live.discard(number)
        self._leaving.discard(number)
        self.pace.gone(number)
        if self.phase in ("done", "stopped"):
            return
        self._record("left", device=self._name(number), reason=reason)
        if self.phase in ("forming", "running", "sharing") and self._needed(number):
            self._recover(f"{self._name(number)} left: {reason}")

    def relayed(self, sender: int) -> None:
        """An envelope of this device went through the relay."""
        self.pace.heard(sender)

    def tick(self, now: float) -> None:
        """Let time pass. Who is missing longer than the grace is not waited for; who is silent or stuck past
        its deadline is let go.
        """
        for number in self.devices:
            if number not in self._able:
                since = self._gone_since.setdefault(number, now)
                if now - since >= self.settings.grace_seconds and number not in self.live:
                    self._absent.add(number)
        if self.phase in ("gathering", "paused"):
            self._wait(now)
        else:
            self._waiting_since = None
        self._keep_pace(now)

    def _wait(self, now: float) -> None:
        """Go on with who is here once the grace is over."""
        if self._waiting_since is None or not self.live:
            self._waiting_since = now
        if now - self._waiting_since >= self.settings.grace_seconds:
            self._patient = False
            self._resume()

    def _keep_pace(self, now: float) -> None:
        stage = (self.phase, self.generation, self._progressed)
        self.pace.tick(now, stage, working=self.phase in ("forming", "running", "sharing"))
        asked = self.pace.to_ask(self.live)
        silent = self.pace.silent(self.live)
        for number in silent:
            self._drop(number, "silent past its deadline")
        if self.pace.overdue and not silent:
            self.pace.restart()
            if self._asked_in != stage:
                self._asked_in, self._waiting = stage, set()
                asked = sorted(self.live)
            elif stuck := self._stuck():
                for number in sorted(stuck):
                    self._drop(number, "did not finish its stage in time")
            else:
                self._strike("everybody waits for somebody: a message was lost")
        for number in asked:
            self._send(number, ping=pb.Ping(nonce=self.generation))

    def _drop(self, number: int, reason: str) -> None:
        self.effects.append(Drop(number, reason))
        self.leave(number, reason)

    def _stuck(self) -> set[int]:
        """Who holds the group up: who has not said what is due, or did not answer that it waits for
        others.
        """
        if self.phase == "forming":
            late = self._participants() - set(self._offers) or self._receivers - self._ready
        elif self.phase == "sharing":
            late = set(self.holders) - self._shared
        else:
            late = set(self.holders) - self._waiting
        return late & self.live

    def stop(self, reason: str) -> None:
        """End the run for everybody. A run that was stopped can be resumed."""
        if self.phase in ("done", "stopped"):
            return
        self.phase, self.reason = "stopped", reason
        self._record("stopped", reason=reason)
        self.effects.append(Save())
        for number in sorted(self.live):
            self._send(number, finish=pb.Finish(reason=reason))

    def stored(self, generation: int, boundary: int, piece: int, heirs: frozenset[int]) -> None:
        """A piece's snapshot is on the server's disk."""
        self.snapshots[generation, boundary, piece] = heirs

    def receive(self, number: int, frame: pb.Frame) -> None:
        """A frame of a connected device, other than envelopes and snapshots."""
        if number not in self.live:
            return
        kind = frame.WhichOneof("body")
        body = getattr(frame, kind or "hello")
        self.pace.heard(number)
        if kind == "leave":
            self._on_leave(number, body)
        elif kind in ("key_offer", "ready", "held", "progress", "shared", "fault"):
            if body.generation != self.generation and not (kind == "fault" and body.generation == 0):
                return
            getattr(self, f"_on_{kind}")(number, body)
        elif kind == "pong":
            if body.waiting:
                self._waiting.add(number)
        else:
            self._record("refused", device=self._name(number), reason=f"a device may not send {kind}")

    def _on_key_offer(self, number: int, offer: pb.KeyOffer) -> None:
        if self.phase != "forming" or offer.device != number or number in self._offers:
            return
        self._offers[number] = offer
        if not self._keyed and self._participants() <= set(self._offers):
            self._keyed = True
            keys = pb.Keys(generation=self.generation, offers=[self._offers[d] for d in sorted(self._offers)])
            for device in sorted(self._offers):
                self._send(device, keys=keys)
            if self._from is None and not self._patched:
                for piece, device in enumerate(self.holders):
                    self.effects.append(SendGlobal(device, self.generation, self._layout[piece]))
            for piece, (provider, is_stored) in enumerate(self._providing):
                if self._from is not None and is_stored:
                    point = self._from
                    self.effects.append(SendSnapshot(provider, point.generation, point.boundary, piece))
            if self._patched:
                for piece, device in enumerate(self.holders):
                    self.effects.append(SendPatch(device, self.generation, self._layout[piece]))

    def _on_ready(self, number: int, _: pb.Ready) -> None:
        if self.phase != "forming" or number not in self._receivers:
            return
        self._ready.add(number)
        if self._ready != self._receivers:
            return
        if self._keepers:
            self._kept |= self._receivers
            self._record("kept", devices=[self._name(d) for d in self._keepers])
            self._resume()
            return
        self._reach(self.boundary)
        if self.schedule.sharing:
            self._ask_to_share()
            return
        self.phase = "running"
        for device in self.holders:
            self._send(device, go=pb.Go(generation=self.generation))
        self._let_go()
        for device in sorted(self._able - set(self._heirs) - set(self.holders)):
            self._name_heir(device)

    def _on_leave(self, number: int, leave: pb.Leave) -> None:
        """A device asks to go: others take over from its own state, then it may."""
        if number not in self.live or number in self._leaving:
            return
        self._record("leaving", device=self._name(number), reason=leave.reason[:200])
        self._leaving.add(number)
        self._absent.add(number)
        if self.phase in ("forming", "running", "sharing") and self._needed(number):
            self._recover(f"{self._name(number)} leaves: {leave.reason[:200]}")
        if self.phase not in ("forming", "sharing"):
            self._let_go()

    def _let_go(self) -> None:
        """Send those home who asked for it."""
        for number in sorted(self._leaving & self.live):
            self._send(number, finish=pb.Finish(reason="left as it asked"))

    def _name_heir(self, number: int) -> None:
        """From now on snapshots are readable by this device too."""
        self._heirs = (*self._heirs, number)
        heirs = [pb.Peer(device=d, identity=self.devices[d].identity) for d in self._heirs]
        for holder in self.holders:
            self._send(holder, heirs=pb.Heirs(generation=self.generation, heirs=heirs))

    def _on_progress(self, number: int, progress: pb.Progress) -> None:
        if self.phase == "running" and number == self.schedule.dominator:
            self._progressed = progress.boundary
            self._record(
                "progress",
                epoch=self.schedule.epoch,
                boundary=progress.boundary,
                rows=progress.rows,
                loss=progress.loss,
                correct=progress.correct,
            )

    def _on_held(self, number: int, held: pb.Held) -> None:
        if self.phase != "running" or number not in self.holders or held.boundary > self._pass_end:
            return
        self._held[number] = held.boundary
        self.pace.worked(number, self.holders.index(number), held.busy_seconds)
        boundary = min(self._held.get(device, 0) for device in self.holders)
        if boundary <= self.boundary:
            return
        self._faults = 0
        dominator = self.schedule.dominator
        self.schedule = self.schedule.with_done(dominator, boundary - self.schedule.pass_boundary)
        if boundary < self._pass_end:
            self._reach(boundary)
            self._swap_slow()
            return
        self._record("pass", epoch=self.schedule.epoch, device=self._name(dominator), boundary=boundary)
        finished = (*self.schedule.finished, dominator)
        self.schedule = replace(self.schedule, finished=finished, dominator=-1)
        self._reach(boundary)
        self._next_pass()

    def _on_shared(self, number: int, shared: pb.Shared) -> None:
        if self.phase != "sharing" or number not in self.holders or number in self._shared:
            return
        if shared.update:
            piece = self._layout[self.holders.index(number)]
            self.effects.append(Merge(number, self.generation, self.schedule.round, piece, shared.update))
        if not shared.last:
            return
        self._shared.add(number)
        if self._shared != set(self.holders):
            return
        self.effects.append(Commit(self.generation, self.schedule.place))
        self._record("shared", epoch=self.schedule.epoch, round=self.schedule.round, boundary=self.boundary)
        self.schedule = next_round(self.schedule, self.boundary)
        if self._whose_turn() is None:
            self._end_epoch()
        self.points = after_sharing(self.settings, self.points, self.schedule)
        self.effects.append(Save())
        self._next_pass()

    def _end_epoch(self) -> None:
        """Nobody is left to dominate, and all is shared."""
        for number in sorted(set(self.schedule.order) - set(self.schedule.finished)):
            self._record("skipped", device=self._name(number), epoch=self.schedule.epoch)
        self.effects.append(Checkpoint(self.schedule.epoch))
        self._record("epoch", epoch=self.schedule.epoch, boundary=self.boundary)
        self.schedule = next_epoch(self.schedule)

    def _swap_slow(self) -> None:
        """Give a slow follower's piece to a spare, at a boundary that everybody holds."""
        spares = sorted(self._able - set(self.holders) - self.pace.slow)
        slow = [d for d in self.holders[1:] if d in self.pace.slow]
        if not slow or not spares:
            return
        for device in slow[: len(spares)]:
            self._record("swapped", device=self._name(device), reason=self.pace.why(device))
        replacing = dict(zip(slow, spares, strict=False))
        self._assign(tuple(replacing.get(device, device) for device in self.holders))

    def _on_fault(self, number: int, fault: pb.Fault) -> None:
        name = self._name(number)
        self._record("fault", device=name, kind=pb.FaultKind.Name(fault.kind), reason=fault.reason[:500])
        if fault.kind == pb.FAULT_STATE and self._from is not None:
            self._lost_state.add((number, self._from.generation))
        if fault.fatal and self.phase == "forming" and self.generation <= 1:
            self.stop(f"{name}: {fault.reason}")
            return
        needed = self._needed(number)
        if fault.fatal:
            self._unfit[number] = fault.reason[:500]
            self.live.discard(number)
            self._send(number, finish=pb.Finish(reason=fault.reason[:500]))
        if needed:
            self._strike(f"{name}: {fault.reason[:500]}")

    def _strike(self, why: str) -> None:
        """Begin anew from the last point, or give up where that has not helped so often."""
        self._faults += 1
        if self._faults >= MAX_FAULTS:
            self.stop(why)
        elif self.phase in ("forming", "running", "sharing"):
            self._recover(why)

    @property
    def _pass_end(self) -> int:
        samples = self.devices[self.schedule.dominator].samples
        return self.schedule.pass_boundary + len(mini_batches(samples, self.settings.batch))

    @property
    def _fresh(self) -> bool:
        """Whether a round begins."""
        return is_fresh(self.schedule, self.boundary)

    @property
    def _patched(self) -> bool:
        """Whether the global model's weights replace the group's own at this point."""
        return self._fresh and self.schedule.round > 0 and not (self.settings.alone or self._keepers)

    def _needed(self, number: int) -> bool:
        return number in self.holders or (self.phase == "forming" and number in self._participants())

    def _participants(self) -> set[int]:
        """Devices whose keys the generation under way needs."""
        return {*self._receivers, *(device for device, _ in self._providing)}

    @property
    def _receivers(self) -> set[int]:
        """Devices that wait for state before they are ready."""
        return set(self._keepers or self.holders)

    def _recover(self, why: str) -> None:
        self._record("recovering", why=why, boundary=self.boundary)
        self._resume()

    def _resume(self) -> None:
        """Go on from the newest point that the connected devices can restore, or say what is missing."""
        if self.phase in ("done", "stopped"):
            return
        if not self.points and not self._gathered:
            self.phase = "gathering"
            return
        if self.points:
            restorable = [p for p in self.points if self._providers(p) is not None]
            if restorable:
                self._restore(restorable[-1])
            elif self.points[0].boundary == 0:
                # Nothing is trained yet: the server's own model is the state.
                self.points = [replace(self.points[0], generation=0)]
                self._restore(self.points[0])
            else:
                absent = sorted({d for d in self.points[-1].holders if d not in self.live})
                self._pause(f"pieces are held by devices that are gone: {', '.join(map(self._name, absent))}")
                return
        dominator = self.schedule.dominator
        if dominator < 0 and not self.schedule.sharing:
            self._next_pass()
        elif not self.schedule.sharing and dominator not in self._able:
            if dominator in self._absent:
                self._record("deferred", device=self._name(dominator))
                self.schedule = replace(self.schedule, dominator=-1)
                self._next_pass()
            else:
                self._pause(f"dominator {self._name(dominator)} is gone; its samples are nowhere else")
        else:
            self._refill()

    @property
    def _gathered(self) -> bool:
        """Whether enough devices are here to begin."""
        wanted = max(self.settings.devices, len(self.settings.layout))
        return len(self._able) >= (wanted if self._patient else len(self.settings.layout))

    def _refill(self) -> None:
        """The same pieces at the same devices, and others where these are gone."""
        spares = sorted(self._able - set(self.holders), key=lambda d: (d in self.pace.slow, d))
        holders = [d if d in self._able else (spares.pop(0) if spares else -1) for d in self.holders]
        if -1 not in holders:
            self._assign(tuple(holders))
        elif self._choose_cut():
            self._assign(self._rotate())

    def _choose_cut(self) -> bool:
        """Take the division for who is here; without one, pause. One into fewer pieces has to wait for the
        grace to pass.
        """
        count = len(self._able)
        fits = next((cut for cut in self.settings.cuts if len(cut) <= count), None)
        wanted = self.settings.cuts[0]
        if fits is None or (self._patient and fits != wanted and len(fits) != len(self._cut)):
            self._pause(f"{len(wanted)} pieces need as many devices, {count} are here")
            return False
        if fits != self._cut:
            self._record("resliced", pieces=len(fits))
            self._cut = fits
        return True

    def _pause(self, why: str) -> None:
        if self.phase != "paused" or self.reason != why:
            self._record("paused", why=why)
        self.phase, self.reason = "paused", why

    def _whose_turn(self) -> int | None:
        """The device that is or should be dominator: absent ones come last, None when the epoch has nobody
        left.
        """
        if self.schedule.dominator >= 0 and self.schedule.dominator not in self._absent:
            return self.schedule.dominator
        waiting = [d for d in self.schedule.order if d not in self.schedule.finished]
        return next((d for d in waiting if d not in self._absent), None)

    def _next_pass(self) -> None:
        """Draw the next dominator without replacement; share when a round is over; end after the last
        epoch.
        """
        if self.schedule.epoch >= self.settings.epochs:
            self._end()
            return
        if not self.schedule.order:
            members = sorted(self.devices)
            order = dominator_order(members, seed=self.settings.seed, epoch=self.schedule.epoch)
            self.schedule = replace(self.schedule, order=tuple(order))
        turn = self._whose_turn()
        if (turn is None or is_full(self.schedule, self.settings.every)) and not self._fresh:
            self.schedule = replace(self.schedule, sharing=True)
            self.points[-1] = replace(self.points[-1], schedule=self.schedule)
            self.effects.append(Save())
            if self.phase == "running" and set(self.holders) <= self._able:
                self._ask_to_share()
            else:
                self._resume()
        elif turn is None and self._able:
            self._end_epoch()
            self.points = after_sharing(self.settings, self.points, self.schedule)
            self.effects.append(Save())
            self._next_pass()
        elif turn is None:
            self._pause("nobody is here")
        elif turn not in self._able:
            self._pause(f"it is the turn of {self._name(turn)}, which is not here")
        elif self._choose_cut():
            began = self.boundary - self.schedule.steps_done(turn)
            self.schedule = replace(self.schedule, dominator=turn, pass_boundary=began)
            self._assign(self._rotate())

    def _end(self) -> None:
        """Every device takes the model, where they are to keep it; then the run is over."""
        if self.settings.whole:
            if self.live - self._kept:
                self._assign(self.holders, keepers=tuple(sorted(self.live)))
                return
            if away := set(self.devices) - self._kept - self._absent:
                self._pause(f"without the model: {', '.join(map(self._name, sorted(away)))}")
                return
        self.phase = "done"
        self._record("done", boundary=self.boundary)
        self.effects.append(Save())
        for number in sorted(self.live):
            self._send(number, finish=pb.Finish(reason="the run is over"))

    def _rotate(self) -> tuple[int, ...]:
        return next_holders(
            self.settings, self.schedule, self.holders, len(self._layout), self._able, self.pace.slow
        )

    def _providers(self, point: Point) -> list[tuple[int, bool]] | None:
        return providers(point, self.snapshots, self.live, self._lost_state)

    def _assign(self, holders: tuple[int, ...], keepers: tuple[int, ...] = ()) -> None:
        """A new generation: these devices hold the pieces, from the newest point on. With keepers nobody
        does: they take all pieces of the point and keep them.
        """
        settings, schedule = self.settings, self.schedule
        point = self.points[-1] if self.points else None
        self.generation += 1
        self.phase = "forming"
        self.holders, self._keepers = holders, keepers
        self._from = point if point and point.generation else None
        self._providing = tuple(self._providers(self._from) or ()) if self._from else ()
        self._patient = True
        self._keyed = False
        self._offers, self._ready, self._held, self._shared = {}, set(), {}, set()
        self.effects.append(Save())
        spares = sorted(self._able - set(holders))
        heirs = self._heirs = () if keepers else tuple(spares or sorted(holders))
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
            point=self._from,
            providing=self._providing,
            fresh=self._fresh,
            patched=self._patched,
        )
        for number in sorted(self.live):
            self._send(number, assign=assignment.frame(number))

    def _ask_to_share(self) -> None:
        self.phase = "sharing"
        self._shared = set()
        for device in self.holders:
            share = pb.Share(
                generation=self.generation,
                round=self.schedule.round,
                theta=self.settings.theta,
                values=self.settings.values,  # type: ignore[arg-type]
            )
            self._send(device, share=share)

    def _reach(self, boundary: int) -> None:
        """All pieces hold a boundary: a point. Once its snapshots are all here, older points are
        forgotten.
        """
        self.boundary = boundary
        point = Point(self.generation, boundary, self._layout, self.holders, self.schedule)
        key = (point.generation, point.boundary)
        if all((*key, piece) in self.snapshots or self._alone for piece in range(len(self.holders))):
            self.points = [point]
            self.snapshots = {k: heirs for k, heirs in self.snapshots.items() if k[:2] >= key}
            self.effects += [Save(), Forget(*key)]
            for device in sorted(self.live):
                self._send(device, committed=pb.Committed(generation=key[0], boundary=key[1]))
        else:
            self.points.append(point)
            self.effects.append(Save())

    @property
    def _alone(self) -> bool:
        """Whether no device but the holder is there to inherit anything."""
        return set(self._heirs) == set(self.holders) and len(self.holders) == 1

    def _name(self, number: int) -> str:
        device = self.devices.get(number)
        return device.name if device else f"device {number}"

    def _send(self, device: int, **body: Any) -> None:
        self.effects.append(Send(device, pb.Frame(**body)))

    def _record(self, event: str, **fields: Any) -> None:
        self.effects.append(Record(event, fields))
