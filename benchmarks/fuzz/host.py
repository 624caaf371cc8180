"""What may come to a host's port: bytes where a WebSocket stands, and a member's frames about its group."""

from __future__ import annotations

import asyncio

from crowdlearn.hosting import Device, Group, Joined, Received, Settings, handle
from crowdlearn_device.errors import DeviceError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_frame
from crowdlearn_device.transport.message_stream import MessageStream
from websockets.frames import Frame, Opcode

DEVICES = 4
LAYOUT = (((0, 4), (0, 4), (0, 3)), ((4, 4), (4, 6), (3, 3)))
"""Of two pieces, neurons by layer."""


class _Taken(asyncio.Transport):
    """A transport that takes what is written, and counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def close(self) -> None:
        return

    pause_reading = resume_reading = abort = close


def web_socket(data: bytes) -> None:
    """Bytes of a device's connection, cut where the first byte says."""

    async def feed() -> None:
        transport = _Taken()
        stream = MessageStream(transport, lambda message: None, client=False)
        cut = 1 + data[0] if data else 1
        for at in range(1, len(data), cut):
            stream.data_received(data[at : at + cut])
        await asyncio.sleep(0)
        stream.connection_lost(None)
        assert transport.written <= 64 * (1 + len(data))

    asyncio.run(feed())


def members(data: bytes) -> None:
    """Frames of members of a group that forms: a byte for who, two for how long, and the frame."""
    group = Group(Settings(LAYOUT, ("a" * 64, "b" * 64), 1, 4, 4, 1, 0.1, 0, 1, devices=DEVICES))
    for number in range(DEVICES):
        handle(group, Joined(Device(number, f"device-{number}", bytes([number]) * 32, 10)))
    at = 0
    while at + 3 <= len(data):
        number, length = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        content, at = data[at + 3 : at + 3 + length], at + 3 + length
        try:
            frame = decode_frame(content)
        except DeviceError:
            continue
        handle(group, Received(number % DEVICES, frame))


def _told(*frames: pb.Frame) -> bytes:
    sent = [frame.SerializeToString() for frame in frames]
    return b"".join(
        bytes([number % DEVICES]) + len(content).to_bytes(2, "big") + content
        for number, content in enumerate(sent)
    )


MEMBERS = (
    _told(*(pb.Frame(key_offer=pb.KeyOffer(generation=1, device=number)) for number in range(DEVICES))),
    _told(pb.Frame(ready=pb.Ready(generation=1)), pb.Frame(held=pb.Held(generation=1))),
    _told(pb.Frame(progress=pb.Progress(generation=1)), pb.Frame(shared=pb.Shared(generation=1))),
    _told(pb.Frame(fault=pb.Fault(generation=1, reason="x")), pb.Frame(leave=pb.Leave(reason="x"))),
    _told(pb.Frame(device_state=pb.DeviceState(thermal=3)), pb.Frame(pong=pb.Pong())),
)
SOCKETS = (
    b"\xff" + Frame(Opcode.BINARY, b"x" * 40).serialize(mask=True),
    b"\x01" + Frame(Opcode.PING, b"x").serialize(mask=True) + Frame(Opcode.CLOSE, b"").serialize(mask=True),
    b"\xff" + b"\x82\xff" + (1 << 21).to_bytes(8, "big") + bytes(200),
)
"""Seeds."""
