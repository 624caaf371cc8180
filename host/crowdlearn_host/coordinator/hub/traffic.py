"""Counting what the relay carries: bytes on the wire by device, direction and purpose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

from crowdlearn_device.piece.routes import overlap
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.sizes import message_bytes
from crowdlearn_export.graph.neuron_graph import NeuronGraph

Layout = Sequence[Sequence[tuple[int, int]]]
PURPOSES = ("control", "activation", "error", "shuffle", "sharing", "recovery", "model")
_OF_KIND = {"shared": "sharing", "global_state": "sharing", "patch": "sharing", "snapshot": "recovery"}


def purpose_of(frame: pb.Frame) -> str:
    """What a frame is for, in the words of the traffic table."""
    kind = frame.WhichOneof("body") or ""
    return PURPOSES[frame.envelope.purpose] if kind == "envelope" else _OF_KIND.get(kind, "control")


def exchanged_bytes(graph: NeuronGraph, layout: Layout, rows: int, dtype: pb.DType = pb.FLOAT32) -> int:
    """Bytes on the wire, from devices, of all sums and errors of one micro-batch of `rows` samples."""
    total = 0
    for edge, taught in zip(graph.edges, graph.taught, strict=True):
        matched = edge.kind in ("identity", "depthwise")
        for source, target in product(range(len(layout)), repeat=2):
            has, wants = layout[source][edge.source], layout[target][edge.target]
            start, stop = overlap(has, wants) if matched else wants
            if source != target and has[1] > has[0] and stop > start:
                shape = (stop - start, *graph.layers[edge.target].sum_shape)
                total += (1 + taught) * message_bytes(rows, shape, dtype)
    return total


class Traffic:
    """Bytes and messages since the run began. `up` is from a device to the host, `down` from the host to a
    device.
    """

    def __init__(self) -> None:
        self._totals: defaultdict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])

    def count(self, device: str, direction: str, purpose: str, size: int) -> None:
        total = self._totals[device, direction, purpose]
        total[0] += size
        total[1] += 1

    def by_purpose(self, direction: str = "up") -> dict[str, int]:
        """Bytes by purpose in one direction; a relayed message goes once up and once down."""
        totals = dict.fromkeys(PURPOSES, 0)
        for (_, way, purpose), (size, _) in self._totals.items():
            if way == direction:
                totals[purpose] += size
        return totals

    @property
    def exchanged(self) -> int:
        """Bytes of sums and errors, from devices."""
        sent = self.by_purpose()
        return sent["activation"] + sent["error"]

    def rows(self) -> list[dict[str, str | int]]:
        """One row per device, direction and purpose."""
        return [
            {"device": d, "direction": w, "purpose": p, "bytes": size, "messages": messages}
            for (d, w, p), (size, messages) in sorted(self._totals.items())
        ]

    def restore(self, rows: Sequence[Mapping[str, str | int]]) -> None:
        """Go on counting from rows that were kept."""
        for row in rows:
            total = self._totals[str(row["device"]), str(row["direction"]), str(row["purpose"])]
            total[0] += int(row["bytes"])
            total[1] += int(row["messages"])
