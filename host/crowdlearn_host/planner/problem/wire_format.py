"""The wire format that planning reckons with, measured on real messages."""

from __future__ import annotations

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.sizes import message_bytes

from .costs import WireFormat

DTYPES = {"float32": (pb.FLOAT32, 4), "float16": (pb.FLOAT16, 2), "int8": (pb.INT8, 1)}
ROWS, NEURONS = 8, 100


def wire_format(dtype: str) -> WireFormat:
    """Return bytes of a float in `dtype` (float32, float16, int8), and of everything around a message of
    sums.
    """
    kind, size = DTYPES[dtype]
    return WireFormat(size, message_bytes(ROWS, (NEURONS,), kind) - ROWS * NEURONS * size)
