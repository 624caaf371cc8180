"""Counting what the relay carries: bytes on the wire by device, direction and purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.envelope import TAG_BYTES

PURPOSES = ("control", "activation", "error", "shuffle", "sharing", "recovery")
_OF_KIND = {"shared": "sharing", "global_state": "sharing", "snapshot": "recovery"}


def purpose_of(frame: pb.Frame) -> str:
    """What a frame is for, in the words of the traffic table."""
    kind = frame.WhichOneof("body") or ""
    return PURPOSES[frame.envelope.purpose] if kind == "envelope" else _OF_KIND.get(kind, "control")


def websocket_bytes(payload: int, masked: bool) -> int:
    """Bytes of a WebSocket message of `payload` bytes in one frame; a client's frames are masked
    (RFC 6455).
    """
    header = 2 if payload < 126 else 4 if payload < 1 << 16 else 10
    return header + payload + (4 if masked else 0)


def message_bytes(rows: int, shape: Sequence[int], dtype: pb.DType = pb.FLOAT32) -> int:
    """Bytes on the wire of the sums or errors [rows, *shape] in one sealed message, as a device sends them.

    Built from the real messages with typical counters, so that nothing has to be kept in step by hand.
    """
    width = {pb.FLOAT32: 4, pb.FLOAT16: 2, pb.INT8: 1}[dtype]
    count = rows
    for dim in shape:
        count *= dim
    tensor = pb.Tensor(
        dtype=dtype, shape=[rows, *shape], data=bytes(count * width), scale=float(dtype == pb.INT8)
    )
    sums = pb.Sums(step=1000, micro=1, edge=1, micros=2, rows=rows, values=tensor)
    sealed = bytes(sums.ByteSize() + TAG_BYTES)
    envelope = pb.Envelope(
        generation=10, sender=1, receiver=2, sequence=1000, purpose=pb.PURPOSE_ACTIVATION, sealed=sealed
    )
    return websocket_bytes(pb.Frame(envelope=envelope).ByteSize(), masked=False)


class Traffic:
    """Bytes and messages since the run began. `up` is from a device to the host, `down` from the host to a
    device.
    """

    def __init__(self) -> None:
        self.bytes: Counter[tuple[str, str, str]] = Counter()
        self.messages: Counter[tuple[str, str, str]] = Counter()

    def count(self, device: str, direction: str, purpose: str, size: int) -> None:
        self.bytes[device, direction, purpose] += size
        self.messages[device, direction, purpose] += 1

    def by_purpose(self, direction: str = "up") -> dict[str, int]:
        """Bytes by purpose in one direction; a relayed message goes once up and once down."""
        totals = dict.fromkeys(PURPOSES, 0)
        for (_, way, purpose), size in self.bytes.items():
            if way == direction:
                totals[purpose] += size
        return totals

    def rows(self) -> list[dict[str, str | int]]:
        """One row per device, direction and purpose."""
        return [
            {"device": d, "direction": w, "purpose": p, "bytes": size, "messages": self.messages[d, w, p]}
            for (d, w, p), size in sorted(self.bytes.items())
        ]

    def restore(self, rows: Sequence[Mapping[str, str | int]]) -> None:
        for row in rows:
            key = str(row["device"]), str(row["direction"]), str(row["purpose"])
            self.bytes[key] += int(row["bytes"])
            self.messages[key] += int(row["messages"])
