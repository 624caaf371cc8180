"""Faults: whatever a member refuses or fails at ends its generation, and the host gets the reason."""

from __future__ import annotations

import logging

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
from crowdlearn_device.member.effects import Effects
from crowdlearn_device.member.member import Member
from crowdlearn_device.protocol import wire_pb2 as pb

log = logging.getLogger("crowdlearn")

KINDS: tuple[tuple[type[DeviceError], pb.FaultKind], ...] = (
    (EnvelopeError, pb.FAULT_ENVELOPE),
    (ProgramError, pb.FAULT_PROGRAM),
    (StateError, pb.FAULT_STATE),
    (DataError, pb.FAULT_DATA),
    (WireError, pb.FAULT_WIRE),
    (DeviceError, pb.FAULT_DEVICE),
)


def fault(member: Member, raised: Exception) -> Effects:
    """End the generation, and send the reason. The host assigns anew from a boundary that every device
    holds.
    """
    error = _typed(raised)
    number = member.generation.number if member.generation else 0
    if member.fetching is not None:
        member.fetching.give_up()
    member.end_generation()
    kind = next(kind for kind_of, kind in KINDS if isinstance(error, kind_of))
    fatal = kind in (pb.FAULT_PROGRAM, pb.FAULT_DATA) or isinstance(error, PolicyError)
    yield pb.Frame(fault=pb.Fault(generation=number, kind=kind, reason=str(error)[:500], fatal=fatal))


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
