"""The first words of a device, and the proof that its identity is its own, before anything is known of it."""

from __future__ import annotations

import asyncio

from crowdlearn_device.errors import EnvelopeError, WireError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_frame
from crowdlearn_device.security.proof import Question

from crowdlearn_host.errors import FleetError, SilentDevice

from .arrival import Arrival

HELLO_SECONDS = 60.0


async def heard(arrival: Arrival, what: str) -> pb.Frame:
    """Return the next frame of a device that is not admitted yet. Raises FleetError if it is none, and
    SilentDevice if nothing comes.
    """
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            return decode_frame(_binary(await arrival.recv()))
    except WireError as error:
        raise FleetError(f"a device did not send {what}: {error}") from error
    except TimeoutError as error:
        raise SilentDevice(f"no {what} within {HELLO_SECONDS:.0f} s; is the network slow?") from error


async def check_proof(arrival: Arrival, hello: pb.Hello, binding: bytes) -> int:
    """Return the bytes of a device's proof that its identity is its own. Raises FleetError if it gives
    none.
    """
    question = Question(hello, binding)
    await arrival.send(pb.Frame(challenge=question.challenge).SerializeToString())
    frame = await heard(arrival, "proof")
    try:
        proven = frame.HasField("proof") and question.is_answered(frame.proof)
    except EnvelopeError:
        proven = False
    if not proven:
        raise FleetError(f"{hello.device[:50]!r} does not prove that its identity is its own; is it copied?")
    return frame.ByteSize()


def _binary(data: bytes | str) -> bytes:
    if isinstance(data, str):
        raise WireError("text where a binary frame was due")
    return data
