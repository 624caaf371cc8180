"""Sizes of messages on the wire, in bytes: what planner, relay and devices must agree on."""

from __future__ import annotations

from collections.abc import Sequence

from . import wire_pb2 as pb
from .frames import ENVELOPE

TAG_BYTES = 16
"""Bytes by which sealing makes a message longer (ChaCha20-Poly1305)."""


def websocket_bytes(payload: int, masked: bool) -> int:
    """Return bytes of a WebSocket message of `payload` bytes in one frame; a client's frames are masked (RFC
    6455).
    """
    header = 2 if payload < 126 else 4 if payload < 1 << 16 else 10
    return header + payload + (4 if masked else 0)


def message_bytes(rows: int, shape: Sequence[int], dtype: pb.DType = pb.FLOAT32) -> int:
    """Return bytes on the wire of the sums or errors [rows, *shape] in one sealed message, as a device sends
    them.

    Built from the real messages with typical counters, so that nothing has to be kept in step by hand.
    """
    width = {pb.FLOAT32: 4, pb.FLOAT16: 2, pb.INT8: 1, pb.MASKED: 3}[dtype]
    count = rows
    for dim in shape:
        count *= dim
    tensor = pb.Tensor(
        dtype=dtype, shape=[rows, *shape], data=bytes(count * width), scale=float(dtype == pb.INT8)
    )
    sums = pb.Sums(step=1000, micro=1, edge=1, micros=2, rows=rows, values=tensor)
    return websocket_bytes(ENVELOPE.size + sums.ByteSize() + TAG_BYTES, masked=False)
