"""Claims of devices about a fault, held against what the host has observed."""

from __future__ import annotations

from crowdlearn_device.protocol import wire_pb2 as pb

from .forming import Forming


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
