"""Counting what the relay carries: bytes on the wire by device, direction and purpose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from crowdlearn_device.piece.routes import Layout, overlap
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.sizes import message_bytes
from crowdlearn_export.graph.neuron_graph import NeuronGraph

from .ledger import PURPOSES, Ledger

_SHARING = ("shared", "global_state", "patch", "sum_step")
_OF_KIND = {**dict.fromkeys(_SHARING, "sharing"), "snapshot": "recovery"}


def purpose_of(frame: pb.Frame) -> int:
    """Return what a frame is for, as a place in PURPOSES: an envelope tells it itself."""
    return PURPOSES.index(_OF_KIND.get(frame.WhichOneof("body") or "", "control"))


def exchanged_bytes(graph: NeuronGraph, layout: Layout, rows: int, dtype: pb.DType = pb.FLOAT32) -> int:
    """Return bytes on the wire, from devices, of all sums and errors of one micro-batch of `rows` samples."""
    return sum(times * message_bytes(rows, shape, dtype) for times, shape in _exchanged(graph, layout))


def exchanged_messages(graph: NeuronGraph, layout: Layout) -> int:
    """Return messages with sums and errors of one micro-batch, from devices."""
    return sum(times for times, _ in _exchanged(graph, layout))


def _exchanged(graph: NeuronGraph, layout: Layout) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Return what a micro-batch sends: how often, and the shape of a sample's sums."""
    for edge, taught in zip(graph.edges, graph.taught, strict=True):
        matched = edge.kind in ("identity", "depthwise")
        for source, target in product(range(len(layout)), repeat=2):
            has, wants = layout[source][edge.source], layout[target][edge.target]
            start, stop = overlap(has, wants) if matched else wants
            if source != target and has[1] > has[0] and stop > start:
                yield 1 + taught, (stop - start, *graph.layers[edge.target].sum_shape)


class TrafficLedger:
    """Bytes and messages since the run began. `up` is from a device to the host, `down` from the host to a
    device. Counting a message, and asking for the totals, costs the same however many devices there are.
    """

    def __init__(self) -> None:
        self._totals = {way: [0] * len(PURPOSES) for way in ("down", "up")}
        self._devices: dict[str, dict[str, Ledger]] = {}

    def of(self, device: str, direction: str) -> Ledger:
        """Return what a device sends or is sent."""
        ledgers = self._devices.get(device)
        if ledgers is None:
            ledgers = {way: Ledger(totals) for way, totals in self._totals.items()}
            self._devices[device] = ledgers
        return ledgers[direction]

    def by_purpose(self, direction: str = "up") -> dict[str, int]:
        """Return bytes by purpose in one direction; a relayed message goes once up and once down."""
        return dict(zip(PURPOSES, self._totals[direction], strict=True))

    @property
    def exchanged(self) -> int:
        """Return bytes of sums and errors, from devices."""
        sent = self.by_purpose()
        return sent["activation"] + sent["error"]

    def rows(self, devices: Iterable[str] | None = None) -> list[dict[str, str | int]]:
        """Return one row per device, direction and purpose, of these devices (None: of all)."""
        return [
            {"device": d, "direction": way, "purpose": p, "bytes": size, "messages": messages}
            for d in (sorted(self._devices) if devices is None else devices)
            for way, ledger in self._devices.get(d, {}).items()
            for p, size, messages in sorted(zip(PURPOSES, ledger.bytes, ledger.messages, strict=True))
            if messages
        ]

    def restore(self, rows: Sequence[Mapping[str, str | int]]) -> None:
        """Go on counting from rows that were kept."""
        for row in rows:
            ledger = self.of(str(row["device"]), str(row["direction"]))
            ledger.add(PURPOSES.index(str(row["purpose"])), int(row["bytes"]), int(row["messages"]))
