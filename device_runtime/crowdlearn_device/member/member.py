"""A device as a member of its group: the protocol's device side as a state machine without I/O of its own.

Frames go in through `receive`, come out in `outbox`; `work` does one piece of computation. docs/protocol.md
tells the states. Assign begins a generation (generation.py). Whatever is refused ends it here: the server
receives the reason and assigns anew from a boundary that every device holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import (
    DataError,
    DeviceError,
    EnvelopeError,
    FailedError,
    PolicyError,
    ProgramError,
    StateError,
    WireError,
)
from crowdlearn_device.platform.battery import DeviceState
from crowdlearn_device.prediction.model_folder import keep_model
from crowdlearn_device.privacy.tap import Tap
from crowdlearn_device.program.executor import Executor, Programs
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION
from crowdlearn_device.security.assignment_policy import (
    AssignmentPolicy,
    load_assignment_policy,
    tell_refusal,
)
from crowdlearn_device.security.daily_use import DailyUse
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.security.identity_log import IdentityLog
from crowdlearn_device.security.known_peers import RUN_ID_BYTES, KnownPeers, enter
from crowdlearn_device.security.proof import answer, new_nonce
from crowdlearn_device.state.on_disk import StateStore
from crowdlearn_device.state.piece_state import PieceState

from .generation import Generation
from .secure_sharing import SecureSharing

log = logging.getLogger("crowdlearn")

FAULTS: tuple[tuple[type[DeviceError], pb.FaultKind], ...] = (
    (EnvelopeError, pb.FAULT_ENVELOPE),
    (ProgramError, pb.FAULT_PROGRAM),
    (StateError, pb.FAULT_STATE),
    (DataError, pb.FAULT_DATA),
    (WireError, pb.FAULT_WIRE),
    (DeviceError, pb.FAULT_DEVICE),
)

LONGEST_PAUSE = 86400.0
"""Seconds for which a host may send a device away."""


class Member:
    """One device in one run. `load_data` reads the device's samples when it first is dominator."""

    def __init__(
        self,
        name: str,
        home: Path,
        identity: Identity,
        samples: int,
        load_data: Callable[[], Dataset],
        programs: Programs,
        token: str = "",
        tap: Tap | None = None,
        binding: bytes = b"",
        state: DeviceState | None = None,
    ) -> None:
        """Start without a group. `binding` is what this side sees of its connection to the host (proof.py);
        `state` is sent in Hello.
        """
        self.outbox: list[pb.Frame] = []
        self.finished: str | None = None
        self._home = home
        self.identity = identity
        self._use = DailyUse(home)
        self._load_data = load_data
        self.programs = programs
        self.tap = tap
        self._executor: tuple[str, Executor] | None = None
        self._data: Dataset | None = None
        self._generation: Generation | None = None
        self._weighs_charge, self._state_told = False, pb.DeviceState()
        self._run_name = ""
        self.run = ""
        """NAME/ID, which keys are derived from."""
        self.device = -1
        self.relay = ""
        """The address to which the host redirects this device: HOST:PORT, HOST empty for the same."""
        self.again = 0.0
        """The pause, in seconds, after which this device is to come again, if there was no place for it."""
        self._binding = binding
        self._hello: pb.Hello | None = pb.Hello(
            version=VERSION,
            device=name,
            identity=identity.public,
            samples=samples,
            token=token,
            nonce=new_nonce(),
            state=None if state is None else pb.DeviceState(**asdict(state)),
        )
        self._send(pb.Frame(hello=self._hello))

    def _send(self, frame: pb.Frame) -> None:
        self.outbox.append(frame)

    def receive(self, frame: pb.Frame) -> None:
        """Take a frame from the server. Whatever goes wrong becomes a Fault frame; nothing is raised."""
        try:
            self._receive(frame)
        except Exception as error:
            self._fault(_typed(error))

    @property
    def has_work(self) -> bool:
        """Return True if `work` would do something now."""
        return self._generation is not None and self._generation.has_work

    def work(self) -> bool:
        """Do one piece of computation; False if there is none to do. Whatever goes wrong becomes a Fault
        frame.
        """
        generation = self._generation
        if generation is None:
            return False
        try:
            return generation.work()
        except Exception as error:
            self._fault(_typed(error))
            return True

    def _fault(self, error: DeviceError) -> None:
        number = self._generation.number if self._generation else 0
        self._end_generation()
        kind = next(kind for kind_of, kind in FAULTS if isinstance(error, kind_of))
        fatal = kind in (pb.FAULT_PROGRAM, pb.FAULT_DATA) or isinstance(error, PolicyError)
        self._send(
            pb.Frame(fault=pb.Fault(generation=number, kind=kind, reason=str(error)[:500], fatal=fatal))
        )

    def _receive(self, frame: pb.Frame) -> None:
        kind = frame.WhichOneof("body")
        if kind == "challenge":
            self._prove(frame.challenge)
        elif kind == "welcome":
            self._welcome(frame.welcome)
        elif kind == "finish":
            self.finished = frame.finish.reason
            self._end_generation()
        elif kind == "ping":
            self._send(pb.Frame(pong=pb.Pong(nonce=frame.ping.nonce, waiting=not self.has_work)))
        elif self.device < 0:
            raise WireError(f"{kind} before welcome")
        elif kind == "assign":
            self._assign(frame.assign)
        elif kind == "committed":
            self.states.forget_before(frame.committed.generation, frame.committed.boundary)
        elif kind == "sum_step":
            self._sum(frame.sum_step)
        elif self._generation is not None:
            self._generation.receive(kind or "", frame)

    def _prove(self, challenge: pb.Challenge) -> None:
        """Answer the host's challenge, once a connection: no host gets two answers of the same hello."""
        if self._hello is None or self.device >= 0:
            raise WireError("a challenge where none was due")
        hello, self._hello = self._hello, None
        self._send(pb.Frame(proof=answer(self.identity, hello, challenge, self._binding)))

    def _welcome(self, welcome: pb.Welcome) -> None:
        if welcome.version != VERSION:
            raise WireError(
                f"the server has protocol version {welcome.version}, this device {VERSION}; update the older"
            )
        if self.device >= 0:
            raise WireError("welcome came twice on one connection")
        if welcome.relay:
            self.relay = welcome.relay
            return
        if welcome.again_seconds:
            if not 0 < welcome.again_seconds <= LONGEST_PAUSE:
                raise WireError(
                    f"a pause of {welcome.again_seconds} s; at most {LONGEST_PAUSE} s are allowed"
                )
            self.again = welcome.again_seconds
            return
        run = welcome.run
        if (
            not run
            or len(run) > 100
            or not all(c.isalnum() or c in "-_." for c in run)
            or run.startswith(".")
        ):
            raise WireError(f"run {run[:100]!r} is not a name")
        if len(welcome.id) != RUN_ID_BYTES:
            raise WireError(f"run {run} has an id of {len(welcome.id)} bytes; {RUN_ID_BYTES} were due")
        self._run_name, self.run, self.device = run, f"{run}/{welcome.id.hex()}", welcome.device
        enter(self._run_folder)

    @property
    def _run_folder(self) -> Path:
        return self._home / "runs" / self.run

    @cached_property
    def states(self) -> StateStore:
        """Return what this device holds on its disk of the run."""
        return StateStore(self._run_folder)

    @cached_property
    def _known_peers(self) -> KnownPeers:
        return KnownPeers(self._run_folder)

    @property
    def identities(self) -> Mapping[int, bytes]:
        """Return the devices of the run, by number."""
        return self._known_peers.identities

    def _assign(self, assign: pb.Assign) -> None:
        if self._generation is not None and assign.generation <= self._generation.number:
            raise WireError(f"generation {assign.generation} after {self._generation.number}")
        self._end_generation()
        self._check_policy(lambda policy: policy.check_use(self._use.bytes))
        self._check_policy(lambda policy: policy.check(assign, self.identity.public, self.identities))
        self.trust(assign.peers)
        if self.identities.get(self.device) != self.identity.public:
            raise WireError("the server assigns this device another's identity")
        self._generation = Generation(self, assign)
        self._weighs_charge = assign.training.weigh_charge

    def _check_policy(self, check: Callable[[AssignmentPolicy], None]) -> None:
        """Ask the owner's policy as it is now. Raises PolicyError, and keeps the reason for the owner."""
        try:
            policy = load_assignment_policy(self._home)
            if policy is not None:
                check(policy)
        except PolicyError as error:
            tell_refusal(self._home, self.run, str(error))
            raise

    @cached_property
    def _sums(self) -> SecureSharing:
        return SecureSharing(self.run, self.device, self.identity, self._run_folder)

    def _sum(self, step: pb.SumStep) -> None:
        """Take a step of a secure sum, which outlives generations from when its survivors are named."""
        kind, generation = step.WhichOneof("step"), self._generation
        if kind not in ("begin", "keys", "shares"):
            for answer in self._sums.unmask(step):
                self._send(pb.Frame(sum_step=answer))
        elif generation is None or (kind == "begin" and step.begin.generation != generation.number):
            return  # left over from before the assignment
        elif kind == "begin":
            peers = [owner.peer for owner in step.begin.owners]
            self._check_policy(lambda policy: policy.check_sum(peers, self.identity.public))
            self.trust(peers)
            self._send(pb.Frame(sum_step=self._sums.begin(step, self.identities, generation.summed_boundary)))
        else:
            generation.answer_sum(self._sums.mask(step, generation.number, generation.summed))

    def count(self, size: int) -> None:
        """Count the bytes of a message that was sent or received."""
        self._use.count(size)

    def used_up(self) -> str:
        """Return why this device takes no further part today, "" if it may."""
        try:
            policy = load_assignment_policy(self._home)
            if policy is not None:
                policy.check_use(self._use.bytes)
        except PolicyError as error:
            return str(error)
        return ""

    def trust_heirs(self, heirs: Sequence[pb.Peer]) -> list[int]:
        """Return the numbers of devices that may read snapshots from now on. Raises as `trust`, and
        PolicyError.
        """
        self._check_policy(lambda policy: policy.check_heirs(heirs))
        return self.trust(heirs)

    def _end_generation(self) -> None:
        """Forget it, and have its weights out of memory before others come."""
        if self._generation is not None:
            self._generation.end()
        if self._executor is not None:
            self._executor[1].hold(())
        self._generation = None

    def trust(self, peers: Iterable[pb.Peer]) -> list[int]:
        """Return the numbers of these devices. A device's key is trusted at first sight and then for the
        whole run.
        """
        trusted = self._known_peers.trust(peers)
        for met in self._log.note(self.run, {number: self.identities[number] for number in trusted}):
            if met.is_new and met.number != self.device:
                log.info("device %d of %s is new to this one: %s", met.number, self.run, met.fingerprint)
        return trusted

    @cached_property
    def _log(self) -> IdentityLog:
        return IdentityLog(self._home)

    def tell_state(self, state: DeviceState) -> None:
        """Tell the host how hot this device is, and its charge if the run weighs that; once a change."""
        if self._generation is None:
            return
        told = pb.DeviceState(thermal=state.thermal)
        if self._weighs_charge:
            told.percent, told.charging = state.percent, state.charging
        if told != self._state_told:
            self._state_told = told
            self._send(pb.Frame(device_state=told))

    def leave(self, reason: str) -> None:
        """Ask to go; `finished` is set once others have taken this device's pieces over."""
        self._send(pb.Frame(leave=pb.Leave(reason=reason)))

    def program(self, sha256: str) -> tuple[Manifest, Executor]:
        """Return a program that was pushed to this device. One is loaded at a time: its arenas take
        memory.
        """
        manifest = self.programs.manifest(sha256)
        if self._executor is None or self._executor[0] != manifest.program:
            self._executor = None
            self._executor = manifest.program, self.programs.executor(manifest)
        return manifest, self._executor[1]

    def keep(self, sha256: str, weights: PieceState) -> None:
        """Write the group's model to HOME/models/RUN."""
        folder, run = self._home / "models" / self._run_name, self.run.rpartition("/")[2]
        keep_model(folder, self.programs.files(sha256), weights, run)

    def data(self) -> Dataset:
        if self._data is None:
            self._data = self._load_data()
        return self._data


def _typed(error: Exception) -> DeviceError:
    """Return an error as one that the server receives: nothing may end a connection without a reason."""
    if isinstance(error, DeviceError):
        return error
    if isinstance(error, OSError):
        return FailedError(
            f"this device's storage failed ({error.strerror or error}); make room there, then resume the run"
        )
    if isinstance(error, MemoryError):
        return FailedError(f"this device's memory does not suffice ({error}); give it a smaller piece")
    log.error("not foreseen", exc_info=error)
    return FailedError(f"{type(error).__name__}: {error}; report it with the log of this device")
