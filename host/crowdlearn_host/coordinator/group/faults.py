"""Faults of a group's devices: how many there were, and claims held against what the host has observed."""

from __future__ import annotations

from dataclasses import dataclass, field

from crowdlearn_device.protocol import wire_pb2 as pb

from .forming import Forming

MAX_FAULTS = 8
"""Faults in a row without a new boundary before the run stops with the last one's reason."""
MAX_FAULTS_OF_DEVICE = 4
"""Faults of one device since the last common boundary, after which it takes no part any more."""


@dataclass
class Faults:
    """The faults since the last common boundary: all `in_a_row`, and how many `of` each device. `ran` has the
    devices that have come to a boundary, by the program that they ran.
    """

    in_a_row: int = 0
    of: dict[int, int] = field(default_factory=dict)
    ran: dict[str, set[int]] = field(default_factory=dict)

    def count(self, device: int) -> int:
        """Count a fault of a device; return how many it has had."""
        self.of[device] = self.of.get(device, 0) + 1
        return self.of[device]

    def forgive(self) -> None:
        """Begin to count anew, at a new common boundary."""
        self.in_a_row = 0
        self.of.clear()

    def worked(self, device: int, program: str) -> None:
        """Note that a device came to a boundary with a program."""
        self.ran.setdefault(program, set()).add(device)

    def runs_elsewhere(self, program: str, device: int) -> bool:
        """Return whether another device has come to a boundary with a program."""
        return bool(self.ran.get(program, set()) - {device})


def contradiction(
    fault: pb.Fault, number: int, *, dominator: int, forming: Forming | None, runs_elsewhere: bool
) -> str:
    """Return why a claim of device `number` about the generation under way cannot be true; "" if it can be.

    `forming` is the generation if it has not begun to work. `runs_elsewhere` tells that another device has
    come to a boundary with the same program.
    """
    if fault.generation == 0:
        return ""
    match fault.kind:
        case pb.FAULT_DATA if number != dominator:
            return "only the dominator reads its samples"
        case pb.FAULT_PROGRAM if runs_elsewhere:
            return "another device runs the same program"
        case pb.FAULT_ENVELOPE if forming is not None and not forming.keyed:
            stored = any(stored and device == number for device, stored in forming.providing)
            return "" if stored else "no keys were exchanged, so nothing sealed came"
    return ""
