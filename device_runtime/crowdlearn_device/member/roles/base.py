"""A role: the part that a device plays in a pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.privacy.mechanisms.outgoing import Outgoing
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.state.piece_state import PieceState


@dataclass(slots=True)
class Deliver:
    """A message for the holder of a piece alone."""

    piece: int
    purpose: pb.Purpose
    content: bytes
    express: bool = False


@dataclass(slots=True)
class Applied:
    """A mini-batch is applied; the generation's number is not in `progress` yet."""

    progress: pb.Progress


@dataclass(slots=True)
class Drained:
    """No mini-batch is under way at this boundary. `busy` are the seconds of computing since the last one."""

    boundary: int
    state: PieceState
    busy: float


Result = Deliver | Applied | Drained
Results = Iterable[Result]
"""The results of a step, in their order, to be taken once, as effects are."""


@dataclass(frozen=True)
class Assigned:
    """An assignment with all that its piece works by. `secret` is the device's own: order and rounding of a
    dominator come from it if the run requires that. `common_key` returns the key, 32 bytes, that this device
    has in common with the holder of a piece alone.
    """

    assign: pb.Assign
    manifest: Manifest
    executor: Executor
    layout: Layout
    state: PieceState
    common_key: Callable[[int], bytes]
    outgoing: Outgoing
    secret: int = 0


class Role(ABC):
    """The part of one device in one pass. All methods raise DeviceError if the assignment or a message is
    refused.
    """

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Return True if `run` would do something now."""

    @property
    @abstractmethod
    def boundary(self) -> int:
        """Return the mini-batches that are applied."""

    @abstractmethod
    def state(self) -> PieceState:
        """Return the device's own piece at a drained boundary."""

    @abstractmethod
    def go(self, data: Callable[[], Dataset], device: int) -> Results:
        """Begin; the dominator's `device` feeds its data."""

    @abstractmethod
    def receive(self, partner: int, purpose: pb.Purpose, content: bytes) -> Results:
        """Take the opened message of a partner piece: these bytes have not been checked before."""

    @abstractmethod
    def run(self) -> Results:
        """Do one piece of computation, if it is `ready`."""
