"""The messages of a pass that have not left: those for one receiver that wait together travel as one."""

from __future__ import annotations

from dataclasses import dataclass, field

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.joint import JOINT_BYTES, MOST_MORE

from .roles.base import Deliver


@dataclass(slots=True)
class Letter:
    """Messages for the holder of a piece that are sealed together, in their order."""

    piece: int
    purpose: pb.Purpose
    express: bool
    contents: list[bytes] = field(default_factory=list)
    bytes: int = 0

    def takes(self, message: Deliver) -> bool:
        """Return whether a message for the same holder and lane may join."""
        small = self.bytes + len(message.content) <= JOINT_BYTES and len(self.contents) <= MOST_MORE
        return small and self.purpose == message.purpose


class Outbox:
    """Messages in the order in which they were given. None overtakes another for its receiver and lane."""

    def __init__(self) -> None:
        self._letters: list[Letter] = []
        self._open: dict[tuple[int, bool], Letter] = {}
        """The last letter for each receiver and lane."""
        self.bytes = 0

    def put(self, message: Deliver) -> None:
        """Add a message, to the last one for its receiver and lane if it may join that."""
        place = message.piece, message.express
        letter = self._open.get(place)
        if letter is None or not letter.takes(message):
            letter = self._open[place] = Letter(message.piece, message.purpose, message.express)
            self._letters.append(letter)
        letter.contents.append(message.content)
        letter.bytes += len(message.content)
        self.bytes += len(message.content)

    def take(self) -> list[Letter]:
        """Return all letters; the outbox is empty then."""
        letters, self._letters, self.bytes = self._letters, [], 0
        self._open.clear()
        return letters
