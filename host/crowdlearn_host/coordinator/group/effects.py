"""The instructions of a group to its shell, to be done in this order; `Save` is on disk before the `Send`
behind it leaves. What it saves is the group as it is when the event has been taken in.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.state.piece_state import Neurons

from .restore_points import Place


@dataclass(frozen=True)
class Send:
    device: int
    frame: pb.Frame


@dataclass(frozen=True)
class SendGlobal:
    """An order to send a device the global model's values for these neurons of each layer."""

    device: int
    generation: int
    neurons: tuple[Neurons, ...]
    chosen: bool = False
    """True for those of the epoch that validation chose."""


@dataclass(frozen=True)
class SendSnapshot:
    """An order to send a device a stored snapshot, or with `keys_only` its first part without content."""

    device: int
    generation: int
    boundary: int
    piece: int
    keys_only: bool = False


@dataclass(frozen=True)
class Save:
    """An order to write `Group.to_json` to disk."""


@dataclass(frozen=True)
class Drop:
    """An order to close a device's connection; the group has let it go already."""

    device: int
    reason: str


@dataclass(frozen=True)
class Forget:
    """An order to remove snapshots older than this point: they are of no use any more."""

    generation: int
    boundary: int


@dataclass(frozen=True)
class Merge:
    """An order to check what a device shared in a round, and to keep it until the round is over."""

    device: int
    generation: int
    round: int
    neurons: tuple[Neurons, ...]
    update: bytes


@dataclass(frozen=True)
class Commit:
    """Everything shared in a round, which began at `place`, has arrived: it enters the global model with the
    `Save` behind it, or not at all.
    """

    generation: int
    place: Place


@dataclass(frozen=True)
class Contribute:
    """The group has come to the end of the round that began at `place`, and shares by a secure sum: its
    `pieces` are neurons by layer, by device.
    """

    generation: int
    place: Place
    pieces: dict[int, tuple[Neurons, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """An epoch is over, and all that was shared in it is committed."""

    epoch: int


@dataclass(frozen=True)
class Choose:
    """All epochs are checkpointed, and the group waits for `Chosen`."""


@dataclass(frozen=True)
class SendPatch:
    """An order to send a device the shared weights of these neurons of each layer; `whole`: they are all its
    state.
    """

    device: int
    generation: int
    neurons: tuple[Neurons, ...]
    whole: bool


@dataclass(frozen=True)
class Record:
    """Something the run's event log should tell."""

    event: str
    fields: dict[str, Any] = field(default_factory=dict)


Effect = (
    Send
    | SendGlobal
    | SendPatch
    | SendSnapshot
    | Save
    | Drop
    | Forget
    | Merge
    | Commit
    | Contribute
    | Checkpoint
    | Choose
    | Record
)

Effects = Iterable[Effect]
"""The effects of an event, or of a part of what it brings about, to be taken once. A function that yields
them does nothing until they are taken: `yield from` it.
"""
Decision = Generator[Effect, None, bool]
"""Effects, and then an answer: `if (yield from choose_cut(...))`."""


def send(device: int, **body: Any) -> Send:
    """Return the effect that sends a device a frame with this body."""
    return Send(device, pb.Frame(**body))


def record(event: str, **fields: Any) -> Record:
    """Return the effect that has the run's event log tell an event."""
    return Record(event, fields)
