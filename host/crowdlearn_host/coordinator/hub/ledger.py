"""Bytes on the wire of one device in one direction, by purpose."""

from __future__ import annotations

PURPOSES = ("control", "activation", "error", "shuffle", "sharing", "recovery", "model", "norm")
CONTROL = PURPOSES.index("control")


class Ledger:
    """Bytes and messages of one device in one direction, by purpose; bytes are counted in `totals`, too."""

    __slots__ = ("bytes", "masked", "messages", "totals")

    def __init__(self, totals: list[int]) -> None:
        self.bytes, self.messages = [0] * len(PURPOSES), [0] * len(PURPOSES)
        self.totals = totals
        self.masked = 0
        """Bytes of the mask of each message."""

    def count(self, purpose: int, payload: int) -> None:
        """Count a message of so many bytes, and what WebSocket adds to it."""
        size = payload + self.masked + (2 if payload < 126 else 4 if payload < 1 << 16 else 10)
        self.bytes[purpose] += size
        self.messages[purpose] += 1
        self.totals[purpose] += size

    def add(self, purpose: int, size: int, messages: int) -> None:
        """Add what was counted before."""
        self.bytes[purpose] += size
        self.messages[purpose] += messages
        self.totals[purpose] += size
