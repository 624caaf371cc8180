"""Bytes around the numbers of a piece's state and of what it shares, measured on real messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.protocol.sizes import TAG_BYTES, websocket_bytes
from crowdlearn_device.sharing.selection import CHUNK_WEIGHTS
from crowdlearn_device.sharing.update import Update, encode_update
from crowdlearn_device.sharing.update_values import ValueType
from crowdlearn_device.state.piece_state import DIGEST_BYTES, VALUE, ArrayHead, Header, PieceState, kinds_of
from crowdlearn_export.graph.neuron_graph import FLOAT, NeuronGraph
from crowdlearn_export.graph.shape import array_specs

KEY_BYTES = 32


@dataclass(frozen=True)
class StateOverhead:
    """Bytes beside the floats: `moved` and `stored` by bundle, of a piece present there that moves to another
    device, or whose snapshot is stored; `snapshot` of each, `heir` for each heir of it, and `update` of each
    piece's upload.
    """

    moved: tuple[float, ...] = ()
    stored: tuple[float, ...] = ()
    snapshot: float = 0.0
    heir: float = 0.0
    update: float = 0.0


def state_overhead(
    graph: NeuronGraph, members: Sequence[Sequence[int]], *, slots: Sequence[str], ranked: bool
) -> StateOverhead:
    """Measure it for a network whose bundles have these layers."""
    kinds = kinds_of(slots, rank=ranked)
    arrays: defaultdict[int, dict[str, Floats]] = defaultdict(dict)
    for spec in array_specs(graph):
        for kind in kinds if spec.trained else (VALUE,):
            arrays[spec.layer][f"{kind}/{spec.name}"] = np.zeros((1, *spec.shape), spec.dtype)
    moved = [sum(_moved(arrays[layer]) for layer in layers) for layers in members]
    stored = [sum(_stored(layer, arrays[layer]) for layer in layers) for layers in members]
    place = pb.Snapshot(generation=10, boundary=1000, piece=1, sender=1, parts=2, part=1)
    place.ephemeral, place.sealed = bytes(KEY_BYTES), bytes(TAG_BYTES)
    alone = pb.Frame(snapshot=place).ByteSize()
    place.keys.add(device=1, sealed=bytes(KEY_BYTES + TAG_BYTES))
    heir = pb.Frame(snapshot=place).ByteSize() - alone
    layers = sum(len(each) for each in members)
    ranges = len(Header(((1000, 1001),) * layers, ()).to_bytes())
    snapshot = websocket_bytes(alone, masked=False) + DIGEST_BYTES + ranges
    update = _update(np.zeros(1, np.float32)) - FLOAT + _frame(pb.Shared(generation=10, last=True))
    return StateOverhead(tuple(moved), tuple(stored), snapshot, heir, update)


def _moved(arrays: dict[str, Floats]) -> int:
    state = PieceState(((0, 1),), {0: arrays})
    size = sum(part.ByteSize() for part in state.parts(0, (0, 1)))
    envelope = pb.Envelope(
        generation=10,
        sender=1,
        receiver=2,
        sequence=10,
        purpose=pb.PURPOSE_SHUFFLE,
        sealed=bytes(size + TAG_BYTES),
    )
    frame = pb.Frame(envelope=envelope).ByteSize()
    return websocket_bytes(frame, masked=False) - sum(array.nbytes for array in arrays.values())


def _stored(layer: int, arrays: dict[str, Floats]) -> int:
    neurons = ((0, 1),) * (layer + 1)
    named = tuple(ArrayHead(layer, name, (100, *array.shape[1:])) for name, array in arrays.items())
    empty = len(Header(neurons, ()).to_bytes())
    neurons = ((0, 100),) * (layer + 1)
    return len(Header(neurons, named).to_bytes()) - empty if named else 0


def _update(weights: Floats) -> int:
    at = np.arange(len(weights), dtype=np.uint32)
    encoded = encode_update(Update(1, 1, at, weights), ValueType.FLOAT32)
    return _frame(pb.Shared(generation=10, update=encoded))


def _frame(shared: pb.Shared) -> int:
    return websocket_bytes(pb.Frame(shared=shared).ByteSize(), masked=False)


def value_bytes(values: str, weights: Floats) -> float:
    """Return bytes of a shared weight in `values` (float32, float16, int8). Weights begin like float32
    [N], and training moves them about as far as they differ: there are more exponents among them then.
    """
    kind = ValueType[values.upper()]
    if len(weights):
        moved = np.random.default_rng(0).normal(scale=float(weights.std()), size=len(weights))
        weights = (weights + moved).astype(np.float32)

    def size(part: Floats) -> int:
        return len(encode_update(Update(1, 1, np.arange(len(part), dtype=np.uint32), part), kind))

    if not len(weights):
        return kind.bits / 8
    starts = range(0, len(weights), CHUNK_WEIGHTS)
    sizes = sum(size(weights[start : start + CHUNK_WEIGHTS]) for start in starts)
    return (sizes - len(starts) * size(weights[:0])) / len(weights)
