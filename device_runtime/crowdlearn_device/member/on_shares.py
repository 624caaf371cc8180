"""A pass on shares: the dominator with every non-linearity, and three helpers with the linear maps between.

The network has a layer before each shared map that only helpers own, a third each. What the dominator's piece
sends them is shared among all three, and what they answer comes back to the piece as if they had sent sums or
errors. Each helper works with the whole map; of its weights, a third is its own to keep.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from secrets import token_bytes

import numpy as np

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.inbox import Message
from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.piece.weights import Weights
from crowdlearn_device.privacy.shares.fixed_point import WeightFacts
from crowdlearn_device.privacy.shares.linear_map import linear_map
from crowdlearn_device.privacy.shares.replicated import (
    ACTIVATIONS,
    ERRORS,
    HELPERS,
    KEY_BYTES,
    Place,
    own_keys,
    role_of,
)
from crowdlearn_device.privacy.shares.ring import Ring, RingProducts
from crowdlearn_device.privacy.shares.triple import Helper, Received, Shared, Sharer, joined
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array, Floats, decode_message
from crowdlearn_device.protocol.schedule import Pass
from crowdlearn_device.state.piece_state import PieceState

from .piece_pass import Assigned, PiecePass

LARGEST = 64 << 20
"""Bytes of an array that a message may hold."""
ANSWERS = 2
"""Roles that answer; the role of this number does not."""
MOST_BITS = 60
"""Fractional bits of what anybody shares."""


@dataclass(frozen=True)
class SharedMap:
    """A linear map on shares: edge `number` of the network, the identity edge `entry` into its layer, and the
    layer. `back` tells whether errors of what enters it are wanted.
    """

    number: int
    entry: int
    layer: int
    back: bool


def shared_maps(manifest: Manifest, layout: Layout) -> dict[int, SharedMap]:
    """Return the maps of a network's helper layers by edge.

    Raises WireError if the pieces are not a dominator's and three helpers', or a map is none of ours.
    """
    if len(layout) != 1 + HELPERS:
        raise WireError(f"{len(layout)} pieces on shares; a dominator's and three helpers' are due")
    found = {}
    for layer, (start, stop) in enumerate(layout[0]):
        if stop > start:
            continue
        into = [e for e, edge in enumerate(manifest.edges) if edge.target == layer]
        out = [e for e, edge in enumerate(manifest.edges) if edge.source == layer]
        if len(into) != 1 or len(out) != 1 or not manifest.edges[into[0]].matched:
            raise WireError(f"layer {layer} is no helpers' layer: it passes on one edge to one edge")
        if manifest.layers[manifest.edges[out[0]].target].sum_shape or manifest.edges[out[0]].matched:
            raise WireError(f"the map behind layer {layer} is a convolution; phones share dense maps only")
        found[out[0]] = SharedMap(out[0], into[0], layer, manifest.edges[into[0]].taught)
    if not found:
        raise WireError("no layer is the helpers'")
    return found


class DominatorOnShares(PiecePass):
    """The dominator's piece, whose messages to helpers are shared."""

    def __init__(self, assigned: Assigned) -> None:
        training, layout = assigned.assign.training, assigned.layout
        self._maps = shared_maps(assigned.manifest, layout)
        if training.micro_batch < training.batch or training.staleness:
            raise WireError("slices on shares take whole mini-batches, one after the other")
        super().__init__(assigned)
        self._layout = layout
        self._keys = token_bytes(KEY_BYTES), token_bytes(KEY_BYTES), token_bytes(KEY_BYTES)
        dense = linear_map("dense", {}, ())
        self._sharers = {e: Sharer(e, dense, self._keys, f"edge {e}") for e in self._maps}
        self._by_entry = {of.entry: of for of in self._maps.values()}
        self._facts: dict[tuple[int, int], dict[int, WeightFacts]] = {}
        """By mini-batch and edge, what each helper says of its weights."""
        self._parts: dict[tuple[int, int], dict[int, Floats]] = {}
        self._waiting: dict[tuple[int, int], Floats] = {}
        """Activations whose weights' facts have not all come."""
        self._sent: dict[tuple[int, int, int], tuple[Shared, int]] = {}
        self._answers: dict[tuple[int, int, int], dict[int, Ring]] = {}

    def go(self, data: Callable[[], Dataset], device: int) -> None:
        """Begin: give each helper its keys, then feed."""
        super().go(data, device)
        for position in range(HELPERS):
            keys = b"".join(own_keys(self._keys, position))
            self._tell_helper(position, pb.SharedArray(kind=pb.SHARED_KEYS, data=keys))

    def _tell_helper(self, position: int, message: pb.SharedArray) -> None:
        purpose = pb.PURPOSE_ERROR if message.kind == pb.SHARED_ERRORS else pb.PURPOSE_ACTIVATION
        self._around.deliver(position + 1, purpose, message.SerializeToString(), express=False)

    def _send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            values = np.array(message.values, np.float32)
            if message.purpose == pb.PURPOSE_ERROR:
                if message.partner == 1:  # all three get the same errors
                    shared = self._sharers[message.edge].errors(
                        message.step, values, self._agreed(message.step, message.edge)
                    )
                    self._share(shared, pb.SHARED_ERRORS, message.rows)
                continue
            of = self._by_entry[message.edge]
            parts = self._parts.setdefault((message.step, of.number), {})
            parts[message.partner] = values
            if len(parts) == self._partners(of):
                whole = np.concatenate([parts[partner] for partner in sorted(parts)], axis=1)
                del self._parts[message.step, of.number]
                self._waiting[message.step, of.number] = whole
                self._share_waiting(message.step, of.number)

    def _partners(self, of: SharedMap) -> int:
        return sum(stop > start for start, stop in (piece[of.layer] for piece in self._layout))

    def _share_waiting(self, step: int, edge: int) -> None:
        if (step, edge) in self._waiting and len(self._facts.get((step, edge), {})) == HELPERS:
            values = self._waiting.pop((step, edge))
            shared = self._sharers[edge].activations(step, values, self._agreed(step, edge))
            self._share(shared, pb.SHARED_ACTIVATIONS, len(values))

    def _agreed(self, step: int, edge: int) -> WeightFacts:
        """Return what all helpers say of their weights. Raises WireError naming one that deviates."""
        said = self._facts[step, edge]
        for position, facts in said.items():
            others = [other for p, other in said.items() if p != position]
            if others[0] == others[1] != facts:
                raise WireError(
                    f"piece {position + 1} has other weights than both other helpers: a part of a gradient "
                    "was wrong"
                )
        if len(set(said.values())) != 1:
            raise WireError("all three helpers have weights of their own: a part of a gradient was wrong")
        return said[0]

    def _share(self, shared: Shared, kind: pb.SharedKind, rows: int) -> None:
        self._sent[shared.place.step, shared.place.edge, shared.place.kind] = shared, rows
        for position in range(HELPERS):
            received = Received.at(position, shared)
            self._tell_helper(
                position,
                pb.SharedArray(
                    kind=kind,
                    step=shared.place.step,
                    edge=shared.place.edge,
                    shape=shared.shape,
                    data=b"" if received.third is None else received.third.astype("<u4").tobytes(),
                    bits=shared.bits,
                    weight_bits=shared.weight_bits,
                ),
            )

    def receive(self, partner: int, purpose: pb.Purpose, content: bytes) -> None:
        """Take facts and answers of a helper, whatever these bytes are."""
        message, position = decode_message(pb.SharedArray, content), partner - 1
        of = self._maps.get(message.edge)
        if of is None or not 0 <= position < HELPERS:
            raise WireError(f"piece {partner} speaks of edge {message.edge}, which is not on shares")
        if message.kind == pb.SHARED_FACTS:
            self._take_facts(position, message)
            return
        kinds = {pb.SHARED_SUMS: ACTIVATIONS, pb.SHARED_BACK: ERRORS}
        place = message.step, message.edge, kinds.get(message.kind, -1)
        sent = self._sent.get(place)
        if sent is None or role_of(position, message.step) == ANSWERS:
            raise WireError(f"piece {partner} answers what it was not asked at step {message.step}")
        shared, rows = sent
        answers = self._answers.setdefault(place, {})
        if position in answers:
            raise WireError(f"piece {partner} answers twice at step {message.step}")
        last = self._layout[0][self._edges[message.edge].target][1]
        sums = (shared.shape[0], last)
        entered = self._sharers[message.edge].entered
        answers[position] = _ring(message, sums if message.kind == pb.SHARED_SUMS else entered)
        if len(answers) == ANSWERS:
            del self._sent[place], self._answers[place]
            first, second = answers.values()
            self._answered(of, message, joined((first, second), shared), rows)

    def _take_facts(self, position: int, message: pb.SharedArray) -> None:
        said = self._facts.setdefault((message.step, message.edge), {})
        if position in said or len(message.facts) != 3 or not np.isfinite(message.facts).all():
            raise WireError(f"piece {position + 1} sends facts twice, or not three")
        if not self._piece.boundary <= message.step <= self._piece.boundary + 1:
            raise WireError(f"piece {position + 1} sends facts of step {message.step}")
        said[position] = WeightFacts(*message.facts)
        self._share_waiting(message.step, message.edge)

    def _answered(self, of: SharedMap, message: pb.SharedArray, values: Floats, rows: int) -> None:
        """Let the piece have the product, as if the owners of the layer's neurons had sent their parts."""
        first = True
        for partner, piece in enumerate(self._layout):
            start, stop = piece[of.layer]
            if stop == start:
                continue
            if message.kind == pb.SHARED_SUMS:
                purpose, edge = pb.PURPOSE_ACTIVATION, of.number
                part = values if first else np.zeros_like(values)
            else:
                purpose, edge, part = pb.PURPOSE_ERROR, of.entry, values[:, start:stop]
            first = False
            self._piece.receive(Message(partner, purpose, message.step, 0, 1, len(values), edge, part))

    def _updated(self) -> None:
        done = self._piece.boundary
        self._facts = {place: said for place, said in self._facts.items() if place[0] >= done}
        super()._updated()


class HelperOnShares:
    """A helper's part in a pass: shares in, answers out, and the same new weights as the other two."""

    def __init__(self, assigned: Assigned) -> None:
        assign, manifest, layout = assigned.assign, assigned.manifest, assigned.layout
        training = assign.training
        self._maps = shared_maps(manifest, layout)
        self._position = assign.piece - 1
        if not 0 <= self._position < HELPERS:
            raise WireError(f"piece {assign.piece} is no helper's")
        self._manifest, self._layout, self._around = manifest, layout, assigned.around
        self._own = layout[assign.piece]
        self._state = assigned.state
        self._rate = training.learning_rate
        self._pass = Pass(assign.pass_boundary, assign.pass_end, max(1, training.snapshot_every))
        self._boundary = assign.boundary
        layers = {of.layer for of in self._maps.values()}
        self._name = {array.layer: array.name for array in manifest.arrays if array.layer in layers}
        self._arrived: dict[str, dict[int, Floats]] = {}
        """Parts of the arrays, by name and piece."""
        self._weights: Weights | None = None
        self._helpers: dict[int, Helper] | None = None
        self._jobs: deque[pb.SharedArray] = deque()
        self._gradients: dict[int, dict[int, Ring]] = {}
        self._done: dict[str, Floats] = {}
        self._rows: dict[int, int] = {}
        """Samples whose activations are here and whose errors are not, by edge."""
        self._busy, self._gone = 0.0, False

    @property
    def ready(self) -> bool:
        """True if something can be computed now."""
        return bool(self._jobs) and self._helpers is not None and self._weights is not None

    def state(self) -> PieceState:
        """Return the own third at a drained boundary."""
        if self._weights is None:
            return self._state
        whole = self._weights.state()
        layers = {
            layer: {key: np.array(x[slice(*self._own[layer])]) for key, x in arrays.items()}
            for layer, arrays in whole.layers.items()
            if self._own[layer][1] > self._own[layer][0]
        }
        return PieceState(tuple(self._own), layers)

    def go(self, data: Callable[[], Dataset], device: int) -> None:
        """Begin: let both other helpers have this one's part of the weights."""
        if self._gone:
            raise WireError("go came twice")
        self._gone = True
        for arrays in self._state.layers.values():
            for name, values in arrays.items():
                told = pb.SharedArray(
                    kind=pb.SHARED_WEIGHTS,
                    shape=values.shape,
                    data=np.ascontiguousarray(values, "<f4").tobytes(),
                    name=name,
                )
                for position in range(HELPERS):
                    if position != self._position:
                        self._deliver(position + 1, pb.PURPOSE_ACTIVATION, told)
                self._keep_part(name, self._position + 1, np.array(values, np.float32))
        self._complete()

    def _deliver(self, piece: int, purpose: pb.Purpose, message: pb.SharedArray) -> None:
        self._around.deliver(piece, purpose, message.SerializeToString(), express=False)

    def receive(self, partner: int, purpose: pb.Purpose, content: bytes) -> None:
        """Take what the dominator or another helper sent, whatever these bytes are."""
        message = decode_message(pb.SharedArray, content)
        from_dominator = (pb.SHARED_KEYS, pb.SHARED_ACTIVATIONS, pb.SHARED_ERRORS)
        if (message.kind in from_dominator) != (partner == 0):
            raise WireError(f"piece {partner} sends kind {message.kind}, which is not its to send")
        if message.kind == pb.SHARED_KEYS:
            self._take_keys(message)
        elif message.kind == pb.SHARED_WEIGHTS:
            self._take_weights(partner, message)
        elif message.kind == pb.SHARED_GRADIENT:
            self._take_gradient(partner, message)
        elif message.kind in from_dominator and message.edge in self._maps:
            self._jobs.append(message)
        else:
            raise WireError(f"a helper takes no kind {message.kind} of edge {message.edge}")

    def _take_keys(self, message: pb.SharedArray) -> None:
        if self._helpers is not None or len(message.data) != 2 * KEY_BYTES:
            raise WireError("keys came twice, or are not two")
        own = message.data[:KEY_BYTES], message.data[KEY_BYTES:]
        dense, products = linear_map("dense", {}, ()), RingProducts()
        self._helpers = {e: Helper(e, dense, self._position, own, products) for e in self._maps}
        self._tell_facts()

    def _take_weights(self, partner: int, message: pb.SharedArray) -> None:
        name, layers = message.name.partition("/")[2], {v: k for k, v in self._name.items()}
        if name not in layers or partner in self._arrived.get(message.name, {}):
            raise WireError(f"piece {partner} sends weights {message.name[:80]!r}, which are not due")
        start, stop = self._layout[partner][layers[name]]
        shape = tuple(message.shape)
        if not shape or shape[0] != stop - start or 4 * int(np.prod(shape)) != len(message.data):
            raise WireError(f"piece {partner} sends weights {name} of shape {shape}")
        values = np.frombuffer(message.data, "<f4").reshape(shape)
        if not np.isfinite(values).all():
            raise WireError(f"piece {partner} sends weights {name} that are not finite")
        self._keep_part(message.name, partner, np.array(values, np.float32))
        self._complete()

    def _keep_part(self, name: str, piece: int, values: Floats) -> None:
        self._arrived.setdefault(name, {})[piece] = values

    def _complete(self) -> None:
        """Put the maps together once all parts are here."""
        layers = {v: k for k, v in self._name.items()}
        wanted = [f"{kind}/{name}" for kind in self._kinds() for name in layers]
        holders = {name: self._holders(layers[name.partition("/")[2]]) for name in wanted}
        if self._weights is not None or not self._gone:
            return
        if any(self._arrived.get(name, {}).keys() != pieces for name, pieces in holders.items()):
            return
        whole: dict[int, dict[str, Floats]] = {}
        for name, pieces in holders.items():
            parts = [self._arrived[name][piece] for piece in sorted(pieces)]
            whole.setdefault(layers[name.partition("/")[2]], {})[name] = np.concatenate(parts)
        self._arrived.clear()
        neurons = tuple((0, layer.neurons) for layer in self._manifest.layers)
        self._weights = Weights(PieceState(neurons, whole), self._manifest, self._rate, self._boundary)
        self._tell_facts()

    def _kinds(self) -> list[str]:
        return sorted({key.partition("/")[0] for arrays in self._state.layers.values() for key in arrays})

    def _holders(self, layer: int) -> set[int]:
        return {p for p, piece in enumerate(self._layout) if piece[layer][1] > piece[layer][0]}

    def _tell_facts(self) -> None:
        """Take the weights that a mini-batch begins with, and tell the dominator what is public of them."""
        if self._weights is None or self._helpers is None:
            return
        values = self._weights.state().layers
        for edge, helper in self._helpers.items():
            layer = self._maps[edge].layer
            helper.take_weights(values[layer][f"value/{self._name[layer]}"])
            facts = helper.facts
            told = pb.SharedArray(
                kind=pb.SHARED_FACTS,
                step=self._boundary,
                edge=edge,
                facts=(facts.largest, facts.output_norm, facts.input_norm),
            )
            self._deliver(0, pb.PURPOSE_ACTIVATION, told)

    def run(self) -> bool:
        """Compute one answer; False if there is nothing to do."""
        if not self.ready:
            return False
        began = time.perf_counter()
        message = self._jobs.popleft()
        assert self._helpers is not None
        helper, of = self._helpers[message.edge], self._maps[message.edge]
        if message.step != self._boundary:
            raise WireError(
                f"the dominator shares step {message.step} while this helper is at {self._boundary}"
            )
        forward = message.kind == pb.SHARED_ACTIVATIONS
        layer = of.layer if forward else self._manifest.edges[message.edge].target
        neurons = self._manifest.layers[layer].neurons
        shape = tuple(message.shape)
        if len(shape) < 2 or shape[1] != neurons or not 1 <= shape[0] <= self._manifest.max_batch:
            raise WireError(f"the dominator shares an array of shape {shape} on edge {message.edge}")
        if max(abs(message.bits), abs(message.weight_bits)) > MOST_BITS:
            raise WireError(f"the dominator shares an array of {message.bits} fractional bits")
        if forward:
            self._rows[message.edge] = shape[0]
        elif self._rows.pop(message.edge, 0) != shape[0]:
            raise WireError(f"the dominator shares errors of {shape[0]} samples, and no such activations")
        place = Place(message.step, message.edge, ACTIVATIONS if forward else ERRORS)
        third = _ring(message, shape) if role_of(self._position, message.step) else None
        received = Received(place, third, shape, message.bits, message.weight_bits)
        if forward or of.back:
            answer = helper.forward(received) if forward else helper.backward(received)
            self._answer(message, answer, forward=forward)
        else:
            helper.keep(received)
        if not forward:
            part = helper.gradient(message.step)
            told = pb.SharedArray(
                kind=pb.SHARED_GRADIENT,
                step=message.step,
                edge=message.edge,
                shape=part.shape,
                data=part.astype("<u4").tobytes(),
            )
            for position in range(HELPERS):
                if position != self._position:
                    self._deliver(position + 1, pb.PURPOSE_ERROR, told)
            self._gradients.setdefault(message.edge, {})[self._position] = part
            self._open(message.edge)
        self._busy += time.perf_counter() - began
        return True

    def _answer(self, message: pb.SharedArray, answer: Ring | None, *, forward: bool) -> None:
        if answer is None:
            return
        told = pb.SharedArray(
            kind=pb.SHARED_SUMS if forward else pb.SHARED_BACK,
            step=message.step,
            edge=message.edge,
            shape=answer.shape,
            data=answer.astype("<u4").tobytes(),
        )
        self._deliver(0, pb.PURPOSE_ACTIVATION if forward else pb.PURPOSE_ERROR, told)

    def _take_gradient(self, partner: int, message: pb.SharedArray) -> None:
        of = self._maps.get(message.edge)
        parts = self._gradients.setdefault(message.edge, {})
        # Another helper may be ahead by what it has opened, never by a mini-batch: it needs this one's part.
        if of is None or message.step != self._boundary or partner - 1 in parts or partner == 0:
            raise WireError(f"piece {partner} sends a part of a gradient that is not due at {message.step}")
        array = next(a for a in self._manifest.arrays if a.layer == of.layer)
        shape = (self._manifest.layers[of.layer].neurons, *array.shape)
        parts[partner - 1] = _ring(message, shape)
        self._open(message.edge)

    def _open(self, edge: int) -> None:
        """Take the gradient of a map once its three parts are here; after the last map's, new weights."""
        parts = self._gradients.get(edge, {})
        if len(parts) < HELPERS or self._helpers is None or self._weights is None:
            return
        opened = self._helpers[edge].opened(tuple(parts[p] for p in range(HELPERS)))
        del self._gradients[edge]
        self._done[self._name[self._maps[edge].layer]] = opened
        if len(self._done) == len(self._maps):
            self._weights.update(self._done, ahead=False)
            self._done, self._boundary = {}, self._boundary + 1
            if self._pass.drained(self._boundary):
                self._around.hold(self._boundary, self.state(), self._busy)
                self._busy = 0.0
            if self._boundary < self._pass.end:
                self._tell_facts()


def _ring(message: pb.SharedArray, shape: tuple[int, ...]) -> Array:
    """Return a message's ring elements. Raises WireError if they are not of this shape."""
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if tuple(message.shape) != shape or len(message.data) != size or size > LARGEST:
        raise WireError(f"ring elements of shape {tuple(message.shape)} where {shape} are due")
    return np.frombuffer(message.data, "<u4").astype(np.uint32, copy=False).reshape(shape)
