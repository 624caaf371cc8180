"""One group of devices in training, as a state machine without I/O.

Events go in (`join`, `leave`, `receive`, `tick`); effects come out in order, and the shell carries them out
in that order: `Save` is on disk before the `Send` behind it leaves. What it saves is the group as it is when
the event has been taken in. docs/protocol.md tells the states.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from crowdlearn_device.platform.heat import STATUSES
from crowdlearn_device.protocol import wire_pb2 as pb

from .attendance import FULL
from .claims import contradiction
from .decisions import Decisions
from .effects import Commit, Drop, Merge, Save, SendGlobal, SendPatch, SendSnapshot
from .restore_points import Device, Place
from .rounds import after_sharing, next_round
from .seating import led
from .settings import Settings
from .timing.deadlines import Watch

MAX_FAULTS = 8
MAX_FAULTS_OF_DEVICE = 4
"""Faults of one device since the last common boundary, after which it takes no part any more."""
"""Faults in a row without a new boundary before the run stops with the last one's reason."""


class Group(Decisions):
    """The handling of all that happens to a group. Numbers of devices are the run's; nothing here knows a
    socket or a clock but `now`.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._faults = 0
        self._faults_of: dict[int, int] = {}
        self._ran: dict[str, set[int]] = {}
        """Devices that have come to a boundary, by the program that they ran."""
        self._waiting_since: float | None = None
        self._watch = Watch(self.pace)

    def join(self, device: Device) -> None:
        """Take in a device that connected, for the first time or again."""
        number = device.number
        if number in self.attendance.unfit:
            self._send(number, finish=pb.Finish(reason=self.attendance.unfit[number]))
            return
        self.attendance.came(number)
        known = self.devices.get(number)
        self.devices[number] = device if known is None else replace(device, samples=known.samples)
        self.pace.heard(number)
        self._record("joined", device=device.name)
        if self.phase == "done":
            self._send(number, finish=pb.Finish(reason="the run is over"))
        elif self.phase in ("gathering", "paused"):
            self._resume()
        elif self.phase == "running" and number not in self._heirs:
            self._name_heir(number)

    def leave(self, number: int, reason: str) -> None:
        """Go on without a device whose connection ended."""
        if number not in self.live:
            return
        self.attendance.went(number)
        self.pace.gone(number)
        if self.phase in ("done", "stopped"):
            return
        self._record("left", device=self._name(number), reason=reason)
        if self._working and self._needed(number):
            self._recover(f"{self._name(number)} left: {reason}")

    def relayed(self, sender: int) -> None:
        """Note that an envelope of this device went through the relay."""
        self.pace.heard(sender)

    def tick(self, now: float) -> None:
        """Let time pass. Who is missing longer than the grace is not waited for; who is silent or stuck past
        its deadline is let go.
        """
        self.attendance.tick(self.devices, now, self.settings.grace_seconds)
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
        seen = self._watch.look(now, stage, self.live, self._late, working=self._working)
        for number in seen.silent:
            self._drop(number, "silent past its deadline")
        for number in seen.stuck:
            self._drop(number, "did not finish its stage in time")
        if seen.lost:
            self._strike("all devices are waiting: a message was lost")
        for number in seen.ask:
            self._send(number, ping=pb.Ping(nonce=self.generation))

    def _drop(self, number: int, reason: str) -> None:
        self.effects.append(Drop(number, reason))
        self.leave(number, reason)

    def _late(self, waiting: Set[int]) -> set[int]:
        """Return the devices that have not sent what is due, and do not wait for others."""
        if self.phase == "forming":
            return self._forming.late
        return set(self.holders) - (self._shared if self.phase == "sharing" else waiting)

    def stop(self, reason: str) -> None:
        """End the run for all devices. A run that was stopped can be resumed."""
        if self.phase in ("done", "stopped"):
            return
        self.phase, self.reason = "stopped", reason
        self._record("stopped", reason=reason)
        self.effects.append(Save())
        for number in sorted(self.live):
            self._send(number, finish=pb.Finish(reason=reason))

    def takes_snapshot(self, boundary: int) -> bool:
        """Return whether a piece can be at this boundary, and complete, in the pass that is under way."""
        first, every = self.schedule.pass_boundary, max(1, self.settings.snapshot_every)
        drained = boundary == self._pass_end or (boundary - first) % every == 0
        return self.boundary <= boundary <= self._pass_end and drained

    def stored(self, generation: int, boundary: int, piece: int, heirs: frozenset[int]) -> None:
        """Note that a piece's snapshot is on the server's disk."""
        self.snapshots[generation, boundary, piece] = heirs

    def receive(self, number: int, frame: pb.Frame) -> None:
        """Act on a frame of a connected device, other than envelopes and snapshots."""
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
        elif kind == "device_state":
            self._on_device_state(number, body)
        elif kind == "pong":
            if body.waiting:
                self._watch.waits(number)
        else:
            self._record("refused", device=self._name(number), reason=f"a device may not send {kind}")

    def _on_device_state(self, number: int, state: pb.DeviceState) -> None:
        if state.thermal >= len(STATUSES) or state.percent > FULL:
            self._record("refused", device=self._name(number), reason="a state that no device can be in")
            return
        attendance = self.attendance
        attendance.charge[number] = FULL if state.charging else state.percent
        before, attendance.thermal[number] = attendance.thermal.get(number, 0), state.thermal
        if state.thermal and state.thermal != before:
            self._record("throttled", device=self._name(number), status=STATUSES[state.thermal])
        elif before and not state.thermal:
            self._record("cooled", device=self._name(number))

    def _on_key_offer(self, number: int, offer: pb.KeyOffer) -> None:
        forming = self._forming
        if self.phase != "forming" or offer.device != number or number in forming.offers:
            return
        self._forming = forming.offered(offer)
        if self._forming.keyed and not forming.keyed:
            self._exchange()

    def _exchange(self) -> None:
        """Send every device the others' keys, and those that wait for it the server's part of the state."""
        offers = self._forming.offers
        keys = pb.Keys(generation=self.generation, offers=[offers[d] for d in sorted(offers)])
        for device in sorted(offers):
            self._send(device, keys=keys)
        point = self._forming.point
        if point is None and not self._patched:
            for device, neurons in self._forming.due(self._layout):
                self.effects.append(SendGlobal(device, self.generation, neurons))
        for piece, (provider, is_stored) in enumerate(self._forming.providing):
            if point is not None and is_stored:
                self.effects.append(SendSnapshot(provider, point.generation, point.boundary, piece))
        for heir, piece in self._forming.helping if point is not None else ():
            self.effects.append(
                SendSnapshot(heir, point.generation, point.boundary, piece, keys_only=True)  # type: ignore[union-attr]
            )
        if self._patched:
            for piece, device in enumerate(self.holders):
                self.effects.append(
                    SendPatch(device, self.generation, self._layout[piece], whole=point is None)
                )

    def _on_ready(self, number: int, _: pb.Ready) -> None:
        if self.phase != "forming" or number not in self._forming.receivers:
            return
        self._forming = self._forming.with_ready(number)
        if not self._forming.complete:
            return
        if keepers := self._forming.keepers:
            self._kept |= set(keepers)
            self._record("kept", devices=[self._name(d) for d in keepers])
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
        """Let a device go: others take over from its own state first."""
        if number not in self.live or number in self.attendance.leaving:
            return
        self._record("leaving", device=self._name(number), reason=leave.reason[:200])
        self.attendance.asks_to_go(number)
        if self._working and self._needed(number):
            self._recover(f"{self._name(number)} leaves: {leave.reason[:200]}")
        if self.phase not in ("forming", "sharing"):
            self._let_go()

    def _let_go(self) -> None:
        """Send those home who asked for it."""
        for number in sorted(self.attendance.leaving & self.live):
            self._send(number, finish=pb.Finish(reason="left as it asked"))

    def _name_heir(self, number: int) -> None:
        """Make snapshots readable by this device, too, from now on. Its number is its own for good: holders
        keep its identity.
        """
        if self.settings.heirs == "owner":
            return
        if self.settings.heirs == "shared":
            heirs_now = self._may_inherit(sorted(self._able - set(self.holders)))
        else:
            heirs_now = (*self._heirs, number)
        if not heirs_now:
            return
        self.effects.append(Save())
        self._heirs = heirs_now
        heirs = [pb.Peer(device=d, identity=self.devices[d].identity) for d in self._heirs]
        for holder in self.holders:
            self._send(holder, heirs=pb.Heirs(generation=self.generation, heirs=heirs))

    def _on_progress(self, number: int, progress: pb.Progress) -> None:
        if progress.rows < 1:
            self._record("refused", device=self._name(number), reason="progress of no samples")
        elif self.phase == "running" and number == self.schedule.dominator:
            self._progressed = progress.boundary
            self._record(
                "progress",
                epoch=self.schedule.epoch,
                boundary=progress.boundary,
                rows=progress.rows,
                **_reported(progress),
                **({"pass_done": True} if progress.pass_done else {}),
            )

    def _on_held(self, number: int, held: pb.Held) -> None:
        if self.phase != "running" or number not in self.holders or held.boundary > self._pass_end:
            return
        self._held[number] = held.boundary
        piece = self.holders.index(number)
        self.pace.worked(number, piece, held.busy_seconds)
        self._ran.setdefault(self._cut.programs[piece], set()).add(number)
        boundary = min(self._held.get(device, 0) for device in self.holders)
        if boundary <= self.boundary:
            return
        self._faults = 0
        self._faults_of.clear()
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
        if self.settings.secure:
            self._record("refused", device=self._name(number), reason="weights that are not under masks")
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
        self._end_round()

    def owe(self, devices: Set[int]) -> None:
        """Note which of the group's devices owe an answer to a secure sum; the others wait."""
        if self.phase == "sharing":
            self._shared = set(self.holders) - devices
            if not devices & set(self.holders):
                self.pace.restart()

    def summed(self, place: Place) -> None:
        """End the round that began at `place`: its secure sum is over."""
        if self.phase == "sharing" and self.schedule.place == place:
            self._end_round()

    def _end_round(self) -> None:
        self.effects.append(Save())
        self._record("shared", epoch=self.schedule.epoch, round=self.schedule.round, boundary=self.boundary)
        self.schedule = next_round(self.schedule, self.boundary)
        if self._whose_turn() is None:
            self._end_epoch()
        self.restore_points = after_sharing(
            self.settings, self.restore_points, self.schedule, over=self._over
        )
        self._next_pass()

    def _swap_slow(self) -> None:
        """Give a slow follower's piece to a spare, at a boundary that every device holds."""
        spares = sorted(self._able - set(self.holders) - self.pace.slow)
        slow = [d for d in self.holders[1:] if d in self.pace.slow]
        if not slow or not spares:
            return
        leaving = slow[: len(spares)]
        able = [*spares, *(device for device in self.holders if device not in leaving)]
        able = self._apart(able, self.schedule.dominator)
        holders = led(self._cut.takers, self.holders, able, self.schedule.dominator)
        if holders is None:
            return
        for device in leaving:
            self._record("swapped", device=self._name(device), reason=self.pace.why(device))
        self._assign(holders)

    def _on_fault(self, number: int, fault: pb.Fault) -> None:
        name = self._name(number)
        untrue = contradiction(
            fault,
            number,
            dominator=self.schedule.dominator,
            forming=self._forming if self.phase == "forming" else None,
            runs_elsewhere=self._runs_elsewhere(number),
        )
        told = {"contradicted": untrue} if untrue else {}
        self._record(
            "fault", device=name, kind=pb.FaultKind.Name(fault.kind), reason=fault.reason[:500], **told
        )
        if fault.kind == pb.FAULT_STATE and self._forming.point is not None:
            self._lost_state.add((number, self._forming.point.generation))
        self._faults_of[number] = self._faults_of.get(number, 0) + 1
        fatal, reason = fault.fatal, fault.reason[:500]
        others_can = len(self._able - {number}) >= min(len(cut) for cut in self.settings.cuts)
        if self._faults_of[number] >= MAX_FAULTS_OF_DEVICE and others_can:
            fatal, reason = True, f"it has faulted {self._faults_of[number]} times, at last: {reason}"
        elif untrue and others_can:
            fatal, reason = True, f"{reason} (which is not so: {untrue})"
        if fatal and self.phase == "forming" and self.generation <= 1 and not others_can:
            self.stop(f"{name}: {reason}")
            return
        needed = self._needed(number)
        if fatal:
            self.attendance.refuse(number, reason)
            self._record("let_go", device=name, reason=reason)
            self._send(number, finish=pb.Finish(reason=reason))
            self._faults = 0  # what is left of them are others'
        if needed:
            self._strike(f"{name}: {reason}")

    def _runs_elsewhere(self, number: int) -> bool:
        """Return whether another device has come to a boundary with the program of this device's piece."""
        if number not in self.holders:
            return False
        program = self._cut.programs[self.holders.index(number)]
        return bool(self._ran.get(program, set()) - {number})

    def _strike(self, why: str) -> None:
        """Begin anew from the last point, or give up where that has not helped so often."""
        self._faults += 1
        if self._faults >= MAX_FAULTS:
            self.stop(why)
        elif self._working:
            self._recover(why)

    def _needed(self, number: int) -> bool:
        return number in self.holders or (self.phase == "forming" and number in self._forming.participants)


def _reported(progress: pb.Progress) -> dict[str, float | int]:
    """Return a dominator's report: empty, or loss and hits of its rows, or of `reported` samples."""
    if not progress.HasField("metrics") or progress.metrics.rows < 1:
        return {}
    told = progress.metrics
    of = {} if told.rows == progress.rows else {"reported": told.rows}
    return {"loss": told.loss, "correct": told.correct, **of}
