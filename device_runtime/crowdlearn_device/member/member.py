"""The state of a device as a member of its group, as data: what it is, and what follows from it.

Handlers change it in place and yield effects; `handlers/table.py` says which function handles what.
docs/protocol.md tells the states, docs/architecture.md the idiom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.data.unit import Unit
from crowdlearn_device.errors import PolicyError
from crowdlearn_device.platform.battery import DeviceState
from crowdlearn_device.prediction.model_folder import keep_model
from crowdlearn_device.privacy.tap import Tap
from crowdlearn_device.program.executor import Executor, Programs
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.security.assignment_policy import (
    AssignmentPolicy,
    load_assignment_policy,
    tell_refusal,
)
from crowdlearn_device.security.daily_use import DailyUse
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.state.piece_state import PieceState

from .fetching import Fetching
from .generation import Generation
from .run import Run


@dataclass
class Member:
    """One device over one connection. `load_data` reads the device's samples when it first is dominator.
    `binding` is what this side sees of its connection to the host (proof.py); `state` is sent in Hello.
    """

    name: str
    home: Path
    identity: Identity
    samples: int
    load_data: Callable[[], Dataset]
    programs: Programs
    token: str = ""
    tap: Tap | None = None
    binding: bytes = b""
    state: DeviceState | None = None
    fetching: Fetching | None = None
    """The programs that are missing here, if this device gets them from the host."""
    hello: pb.Hello | None = None
    """The Hello that the host has not challenged yet."""
    run: Run | None = None
    generation: Generation | None = None
    finished: str | None = None
    """Why the run, or this device's part in it, is over."""
    relay: str = ""
    """The address to which the host redirects this device: HOST:PORT, HOST empty for the same."""
    again: float = 0.0
    """The pause, in seconds, after which this device is to come again, if there was no place for it."""
    weighs_charge: bool = False
    state_sent: pb.DeviceState = field(default_factory=pb.DeviceState)
    loaded: tuple[str, Executor] | None = None
    """The program that is loaded, by hash."""
    data: Dataset | None = None
    counted: DailyUse | None = None
    """The count of bytes and joules that this device shares with others of the same phone."""
    use: DailyUse = field(init=False)

    def __post_init__(self) -> None:
        self.use = DailyUse(self.home) if self.counted is None else self.counted

    @property
    def device(self) -> int:
        """Return the device's number in the run, -1 before Welcome."""
        return -1 if self.run is None else self.run.number

    @property
    def has_work(self) -> bool:
        """Return True if there is something to compute, or to send part by part."""
        return self.generation is not None and self.generation.has_work

    def program(self, sha256: str) -> tuple[Manifest, Executor]:
        """Return a program that was pushed to this device. One is loaded at a time: its arenas take
        memory.
        """
        manifest = self.programs.manifest(sha256)
        if self.loaded is None or self.loaded[0] != manifest.program:
            self.loaded = None
            self.loaded = manifest.program, self.programs.executor(manifest)
        return manifest, self.loaded[1]

    def keep_model(self, run: Run, sha256: str, weights: PieceState) -> None:
        """Write the group's model to HOME/models/RUN."""
        unit = Unit.of(self.data) if self.data is not None and len(self.data) else None
        keep_model(self.home / "models" / run.name, self.programs.files(sha256), weights, run.id, unit)

    def samples_here(self) -> Dataset:
        """Return the device's own samples."""
        if self.data is None:
            self.data = self.load_data()
        return self.data

    def end_generation(self) -> None:
        """Forget the generation, and have its weights out of memory before others come."""
        if self.generation is not None:
            self.generation.end()
        if self.loaded is not None:
            self.loaded[1].hold(())
        self.generation = None

    def check_policy(self, check: Callable[[AssignmentPolicy], None]) -> None:
        """Ask the owner's policy as it is now. Raises PolicyError, and keeps the reason for the owner."""
        try:
            policy = load_assignment_policy(self.home)
            if policy is not None:
                check(policy)
        except PolicyError as error:
            tell_refusal(self.home, "" if self.run is None else self.run.full_name, str(error))
            raise

    def check_use(self, policy: AssignmentPolicy) -> None:
        """Raise PolicyError if the bytes or the joules of today are used up."""
        policy.check_use(self.use.bytes)
        policy.check_energy(self.use.joules, metered=self.use.metered)

    def used_up(self) -> str:
        """Return why this device takes no further part today, "" if it may."""
        try:
            policy = load_assignment_policy(self.home)
            if policy is not None:
                self.check_use(policy)
        except PolicyError as error:
            return str(error)
        return ""
