"""Bytes that a pass on shares sends, counted on the messages themselves, with typical counters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from crowdlearn_device.privacy.dp.draws import most_drawn
from crowdlearn_device.privacy.shares.checks import check_of
from crowdlearn_device.privacy.shares.linear_map import linear_map
from crowdlearn_device.privacy.shares.replicated import HELPERS, KEY_BYTES
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import ENVELOPE
from crowdlearn_device.protocol.schedule import mini_batches
from crowdlearn_device.protocol.sizes import TAG_BYTES, websocket_bytes
from crowdlearn_device.state.piece_state import kinds_of
from crowdlearn_export.graph.neuron_graph import FLOAT, NeuronGraph
from crowdlearn_export.graph.shape import array_specs

from crowdlearn_host.planner.helpers import third

STEP, BITS = 1000, 20
"""Counters of a typical message."""
ANSWERS = 2
"""Helpers that answer a product; the third one sends what checks them."""


Held = Sequence[Mapping[int, int]]
"""The neurons of helper layers that each triple holds, by layer."""


@dataclass(frozen=True)
class Sent:
    """Bytes of messages: of sums and errors by purpose, and of these what the dominator sends."""

    activation: float = 0.0
    error: float = 0.0
    by_dominator: float = 0.0

    @property
    def by_helpers(self) -> float:
        """Return bytes that all three helpers send."""
        return self.activation + self.error - self.by_dominator

    def __add__(self, other: Sent) -> Sent:
        return Sent(
            self.activation + other.activation,
            self.error + other.error,
            self.by_dominator + other.by_dominator,
        )

    def times(self, count: float) -> Sent:
        """Return so many of the same."""
        return Sent(count * self.activation, count * self.error, count * self.by_dominator)


@dataclass(frozen=True)
class _Line:
    """Copies of one message."""

    errors: bool
    dominator: bool
    copies: int
    size: int


def pass_bytes(
    graph: NeuronGraph,
    samples: int,
    batch: int,
    slots: Sequence[str],
    *,
    ranked: bool,
    held: Held,
    private: bool = False,
) -> Sent:
    """Return what one pass over `samples` sends. With noise, `private`, each mini-batch has room for every
    draw.
    """
    sizes = [len(rows) for rows in mini_batches(samples, batch, graph.least_rows)]
    if private:
        sizes = [most_drawn(batch)] * len(sizes)
    total = _sum(line for of in held for line in _beginning(graph, slots, of, ranked=ranked))
    for rows in set(sizes):
        total += mini_batch_bytes(graph, rows, held, private=private).times(sizes.count(rows))
    return total


def mini_batch_bytes(graph: NeuronGraph, rows: int, held: Held, *, private: bool = False) -> Sent:
    """Return what a mini-batch of so many samples sends; the graph has helper layers."""
    return _sum(
        line
        for of in held
        for layer, neurons in of.items()
        for line in _of_map(graph, layer, neurons, rows, private=private)
    )


def _of_map(graph: NeuronGraph, layer: int, neurons: int, rows: int, *, private: bool) -> Iterator[_Line]:
    number, edge = next((k, e) for k, e in enumerate(graph.edges) if e.source == layer)
    source, target = graph.layers[layer], graph.layers[edge.target]
    targets = neurons if edge.kind == "depthwise" else target.neurons
    fields: Any = {} if edge.kind == "dense" else edge.attributes
    check = check_of(linear_map(edge.kind, fields, source.output_shape))
    entered, left = (rows, neurons, *source.output_shape), (rows, targets, *target.sum_shape)
    weights = next(spec for spec in array_specs(graph) if spec.layer == layer)
    back = graph.taught[graph.edges.index(graph.incoming(layer)[0])]

    def message(shape: Sequence[int], floats: int, **more: Any) -> int:
        return _size(pb.SharedArray(kind=pb.SHARED_SUMS, step=STEP, edge=number, shape=shape, **more), floats)

    def seen(forward: bool) -> tuple[int, ...]:
        return check.weights_shape(entered, targets, forward=forward)

    bits = {"weight_bits": BITS} if private else {"bits": BITS, "weight_bits": BITS}
    facts = pb.SharedArray(kind=pb.SHARED_FACTS, step=STEP, edge=number, facts=(1.0, 1.0, 1.0))
    yield _Line(False, False, HELPERS, _size(facts, 0))
    for errors, shared, answer in ((False, entered, left), (True, left, entered)):
        if private and errors:  # clipped ones, for gradients; those that go further back are beside them
            yield _Line(True, True, ANSWERS, message(left, prod(left)))
            yield _Line(True, True, 1, message(left, 0))
        if back or not (private and errors):
            yield _Line(errors, True, ANSWERS, message(shared, prod(shared), **bits))
            yield _Line(errors, True, 1, message(shared, 0, **bits))
        if back or not errors:
            yield _Line(errors, False, ANSWERS, message(answer, prod(answer)))
            yield _Line(errors, False, 1, message(seen(not errors), prod(seen(not errors))))
    shape = (neurons, *weights.shape)
    if private:
        yield _Line(True, False, HELPERS, message(shape, prod(shape)))
        yield _Line(True, True, HELPERS, message(shape, prod(shape)))
        return
    yield _Line(True, False, HELPERS * (HELPERS - 1), message(shape, prod(shape)))
    shown = (HELPERS, *check.gradient_shape(entered))
    yield _Line(True, False, HELPERS, message(shown, prod(shown)))


def _beginning(
    graph: NeuronGraph, slots: Sequence[str], of: Mapping[int, int], *, ranked: bool
) -> Iterator[_Line]:
    """Return what a generation begins with in a triple: keys, and each helper's third of the maps for both
    others.
    """
    keys = pb.SharedArray(kind=pb.SHARED_KEYS, data=bytes(HELPERS * KEY_BYTES))
    yield _Line(False, True, HELPERS, _size(keys, 0))
    for spec in array_specs(graph):
        if spec.layer not in of:
            continue
        for kind in kinds_of(slots, rank=ranked):
            for helper in range(HELPERS):
                shape = (third(of[spec.layer], helper), *spec.shape)
                message = pb.SharedArray(kind=pb.SHARED_WEIGHTS, shape=shape, name=f"{kind}/{spec.name}")
                yield _Line(False, False, HELPERS - 1, _size(message, prod(shape)))


def _size(message: pb.SharedArray, floats: int) -> int:
    """Return bytes on the wire of a message with so many ring elements or floats."""
    size = message.ByteSize()
    if floats:  # the field's number, the varint of its length, and its bytes
        size += 1 + -(-(FLOAT * floats).bit_length() // 7) + FLOAT * floats
    return websocket_bytes(ENVELOPE.size + size + TAG_BYTES, masked=False)


def _sum(lines: Iterable[_Line]) -> Sent:
    total = Sent()
    for line in lines:
        size = float(line.copies * line.size)
        total += Sent(
            0.0 if line.errors else size, size if line.errors else 0.0, size if line.dominator else 0.0
        )
    return total
