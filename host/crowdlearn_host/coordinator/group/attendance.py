"""The devices of a group that are here, and the wait for those that are not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

FULL = 100
"""Percent."""


@dataclass
class Attendance:
    """Devices that are connected (`live`); of these the ones that asked to go (`leaving`); devices that the
    group does not wait for any more (`absent`); and those that cannot take part, with the reason (`unfit`).
    `thermal` is Android's status by device, `charge` percent that are left.
    """

    live: set[int] = field(default_factory=set)
    leaving: set[int] = field(default_factory=set)
    absent: set[int] = field(default_factory=set)
    unfit: dict[int, str] = field(default_factory=dict)
    gone_since: dict[int, float] = field(default_factory=dict)
    thermal: dict[int, int] = field(default_factory=dict)
    charge: dict[int, int] = field(default_factory=dict)
    patient: bool = True
    """True while the group waits for devices that are missing."""
    waiting_since: float | None = None

    def left(self, number: int) -> int:
        """Return the charge that a device has left, in percent: all while it is charged, or if it reports
        none.
        """
        return self.charge.get(number, FULL)

    @property
    def able(self) -> set[int]:
        """Return devices that may be given a piece."""
        return self.live - self.leaving

    def came(self, number: int) -> None:
        """Note that a device connected, for the first time or again."""
        self.live.add(number)
        self.leaving.discard(number)
        self.absent.discard(number)
        self.gone_since.pop(number, None)

    def went(self, number: int) -> None:
        """Note that a device's connection ended."""
        self.live.discard(number)
        self.leaving.discard(number)

    def asks_to_go(self, number: int) -> None:
        """Note that a device will leave once others have what it holds."""
        self.leaving.add(number)
        self.absent.add(number)

    def refuse(self, number: int, reason: str) -> None:
        """Let a device go that cannot take part."""
        self.unfit[number] = reason
        self.live.discard(number)
        self.absent.add(number)

    def tick(self, devices: Iterable[int], now: float, grace: float) -> None:
        """Mark devices as absent that have been missing longer than the grace, in seconds."""
        for number in set(devices) - self.able:
            since = self.gone_since.setdefault(number, now)
            if now - since >= grace and number not in self.live:
                self.absent.add(number)

    def wait(self, now: float, grace: float) -> bool:
        """Note that the group waits for devices; return whether it has for longer than the grace, in seconds,
        and goes on with those that are here.
        """
        if self.waiting_since is None or not self.live:
            self.waiting_since = now
        if now - self.waiting_since < grace:
            return False
        self.patient = False
        return True
