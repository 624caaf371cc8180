"""A pass of a helper on shares: shares in, answers out, and the same new weights as the other two."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.weights import Weights
from crowdlearn_device.privacy.shares.replicated import (
    ACTIVATIONS,
    ERRORS,
    HELPERS,
    KEY_BYTES,
    Place,
    role_of,
)
from crowdlearn_device.privacy.shares.ring import Ring, RingProducts
from crowdlearn_device.privacy.shares.triple import Helper, Received
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats, decode_message
from crowdlearn_device.protocol.schedule import Pass
from crowdlearn_device.state.piece_state import PieceState

from .base import Assigned, Deliver, Drained, Results, Role
from .on_shares import (
    ANSWERS,
    check_clipping,
    helper_piece,
    message_of,
    place_of,
    ring_of,
    shared_maps,
)

MOST_BITS = 60
"""Fractional bits of shared arrays."""


class HelperOnShares(Role):
    """A helper's part in a pass: shares in, answers out, and the same new weights as the other two."""

    FROM_DOMINATOR: tuple[pb.SharedKind, ...] = (pb.SHARED_KEYS, pb.SHARED_ACTIVATIONS, pb.SHARED_ERRORS)
    FROM_HELPERS: tuple[pb.SharedKind, ...] = (pb.SHARED_WEIGHTS, pb.SHARED_GRADIENT)

    def __init__(self, assigned: Assigned) -> None:
        assign, manifest, layout = assigned.assign, assigned.manifest, assigned.layout
        training = assign.training
        triple, self._position = place_of(assign.piece)
        if not 1 <= assign.piece < len(layout):
            raise WireError(f"piece {assign.piece} is no helper's")
        maps = shared_maps(manifest, layout, training.maps)
        self._maps = {number: of for number, of in maps.items() if of.triple == triple}
        self._pieces = tuple(helper_piece(triple, position) for position in range(HELPERS))
        self._manifest, self._layout = manifest, layout
        self._own = layout[assign.piece]
        self._state = assigned.state
        self._rate, self._warmup = training.learning_rate, training.warmup
        check_clipping(manifest)
        self._pass = Pass(assign.pass_boundary, assign.pass_end, max(1, training.snapshot_every))
        self._boundary = assign.boundary
        layers = {of.layer for of in self._maps.values()}
        self._name = {array.layer: array.name for array in manifest.arrays if array.layer in layers}
        self._arrived: dict[str, dict[int, Floats]] = {}
        """Parts of the arrays, by name and piece."""
        self._weights: Weights | None = None
        self._helpers: dict[int, Helper] | None = None
        self._jobs: deque[pb.SharedArray] = deque()
        """Arrays whose answers others wait for; they come before gradients, which are not needed at once."""
        self._due: deque[int] = deque()
        """Edges whose gradients can be computed."""
        self._gradients: dict[int, dict[int, Ring]] = {}
        self._done: dict[str, Floats] = {}
        self._rows: dict[int, int] = {}
        """Samples whose activations are here and whose errors are not, by edge."""
        self._check_key = b""
        self._busy, self._gone = 0.0, False

    @property
    def ready(self) -> bool:
        """Return True if something can be computed now."""
        return bool(self._jobs or self._due) and self._helpers is not None and self._weights is not None

    @property
    def boundary(self) -> int:
        """Return the mini-batches that are applied."""
        return self._boundary

    def state(self) -> PieceState:
        """Return the own third at a drained boundary."""
        if self._weights is None:
            return self._state
        whole = self._weights.state()
        layers = {
            of.layer: {
                key: np.array(x[of.within(self._own[of.layer])]) for key, x in whole.layers[of.layer].items()
            }
            for of in self._maps.values()
        }
        return PieceState(tuple(self._own), layers)

    @property
    def _others(self) -> list[int]:
        """Return the pieces of the triple's other helpers."""
        return [piece for piece in self._pieces if piece != self._pieces[self._position]]

    def go(self, data: Callable[[], Dataset], device: int) -> Results:
        """Begin: let both other helpers have this one's part of the weights."""
        if self._gone:
            raise WireError("go came twice")
        self._gone = True
        for arrays in self._state.layers.values():
            for name, values in arrays.items():
                message = pb.SharedArray(
                    kind=pb.SHARED_WEIGHTS,
                    shape=values.shape,
                    data=np.ascontiguousarray(values, "<f4").tobytes(),
                    name=name,
                )
                for piece in self._others:
                    yield deliver(piece, pb.PURPOSE_ACTIVATION, message)
                self._keep_part(name, self._pieces[self._position], np.array(values, np.float32))
        yield from self._complete()

    def receive(self, partner: int, purpose: pb.Purpose, content: bytes) -> Results:
        """Take what the dominator or another helper sent, whatever these bytes are."""
        message = decode_message(pb.SharedArray, content)
        if partner and partner not in self._others:
            raise WireError(f"piece {partner} is none of this helper's triple")
        if message.kind not in (self.FROM_HELPERS if partner else self.FROM_DOMINATOR):
            raise WireError(f"piece {partner} sends kind {message.kind}, which is not its to send")
        if message.kind == pb.SHARED_KEYS:
            yield from self._take_keys(message)
        elif message.kind == pb.SHARED_WEIGHTS:
            yield from self._take_weights(partner, message)
        elif message.kind == pb.SHARED_GRADIENT:
            yield from self._take_gradient(partner, message)
        elif message.edge in self._maps:
            self._jobs.append(message)
        else:
            raise WireError(f"piece {partner} names edge {message.edge}, which is not on shares")

    def _take_keys(self, message: pb.SharedArray) -> Results:
        if self._helpers is not None or len(message.data) != 3 * KEY_BYTES:
            raise WireError("keys came twice, or are not three")
        before, after, self._check_key = (message.data[k * KEY_BYTES : (k + 1) * KEY_BYTES] for k in range(3))
        own = before, after
        products = RingProducts()
        self._helpers = {
            e: Helper(e, of.linear, self._position, own, products) for e, of in self._maps.items()
        }
        yield from self._tell_facts()

    def _take_weights(self, partner: int, message: pb.SharedArray) -> Results:
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
        yield from self._complete()

    def _keep_part(self, name: str, piece: int, values: Floats) -> None:
        self._arrived.setdefault(name, {})[piece] = values

    def _complete(self) -> Results:
        """Put the maps together once all parts are here."""
        layers = {v: k for k, v in self._name.items()}
        wanted = [f"{kind}/{name}" for kind in self._kinds() for name in layers]
        if self._weights is not None or not self._gone:
            return
        if any(len(self._arrived.get(name, {})) < HELPERS for name in wanted):
            return
        whole: dict[int, dict[str, Floats]] = {}
        for name in wanted:
            parts = [self._arrived[name][piece] for piece in self._pieces]
            whole.setdefault(layers[name.partition("/")[2]], {})[name] = np.concatenate(parts)
        self._arrived.clear()
        held = {of.layer: (of.start, of.stop) for of in self._maps.values()}
        neurons = tuple(held.get(layer, (0, 0)) for layer in range(len(self._manifest.layers)))
        state = PieceState(neurons, whole)
        self._weights = Weights(state, self._manifest, self._rate, self._boundary, self._warmup)
        yield from self._tell_facts()

    def _kinds(self) -> list[str]:
        return sorted({key.partition("/")[0] for arrays in self._state.layers.values() for key in arrays})

    def _tell_facts(self) -> Results:
        """Take the weights that a mini-batch begins with, and tell the dominator what is public of them."""
        if self._weights is None or self._helpers is None:
            return
        values = self._weights.state().layers
        for edge, helper in self._helpers.items():
            layer = self._maps[edge].layer
            helper.take_weights(values[layer][f"value/{self._name[layer]}"])
            facts = helper.facts
            message = pb.SharedArray(
                kind=pb.SHARED_FACTS,
                step=self._boundary,
                edge=edge,
                facts=(facts.largest, facts.output_norm, facts.input_norm),
            )
            yield deliver(0, pb.PURPOSE_ACTIVATION, message)

    def run(self) -> Results:
        """Compute one answer, or a gradient if none is waited for."""
        if not self.ready:
            return
        began = time.perf_counter()
        if self._jobs:
            yield from self._take_shares(self._jobs.popleft())
        else:
            yield from self._give_gradient(self._due.popleft())
        self._busy += time.perf_counter() - began

    def _take_shares(self, message: pb.SharedArray) -> Results:
        """Keep shared activations or errors, and answer if an answer is wanted."""
        assert self._helpers is not None
        helper, of = self._helpers[message.edge], self._maps[message.edge]
        if message.step != self._boundary:
            raise WireError(
                f"the dominator shares step {message.step} while this helper is at {self._boundary}"
            )
        forward = message.kind == pb.SHARED_ACTIVATIONS
        shape, due = tuple(message.shape), of.entered if forward else of.left
        if shape[1:] != due or not 1 <= shape[0] <= self._manifest.max_batch:
            raise WireError(f"the dominator shares an array of shape {shape} on edge {message.edge}")
        if max(abs(message.bits), abs(message.weight_bits)) > MOST_BITS:
            raise WireError(f"the dominator shares an array of {message.bits} fractional bits")
        if forward:
            if message.edge in self._due:
                raise WireError(f"the dominator shares edge {message.edge} twice in step {message.step}")
            self._rows[message.edge] = shape[0]
        elif self._rows.get(message.edge) != shape[0]:
            raise WireError(f"the dominator shares errors of {shape[0]} samples, and no such activations")
        place = Place(message.step, message.edge, ACTIVATIONS if forward else ERRORS)
        third = ring_of(message, shape) if role_of(self._position, message.step) else None
        received = Received(place, third, shape, message.bits, message.weight_bits)
        if forward or of.back:
            answer = helper.forward(received) if forward else helper.backward(received)
            if answer is None:
                answer = helper.weights_seen(received, self._check_key)
            yield self._answer(message, answer, forward=forward)
        else:
            helper.keep(received)
        if not forward:
            self._ends(message)

    def _ends(self, message: pb.SharedArray) -> None:
        """Have the gradient of a map computed whose errors are here."""
        del self._rows[message.edge]
        self._due.append(message.edge)

    def _give_gradient(self, edge: int) -> Results:
        """Let both other helpers have this one's part of a map's gradient."""
        assert self._helpers is not None
        part = self._helpers[edge].gradient(self._boundary)
        message = message_of(pb.SHARED_GRADIENT, self._boundary, edge, part)
        for piece in self._others:
            yield deliver(piece, pb.PURPOSE_ERROR, message)
        self._gradients.setdefault(edge, {})[self._position] = part
        yield from self._open(edge)

    def _answer(self, message: pb.SharedArray, answer: Ring, *, forward: bool) -> Deliver:
        """Return a part of a product or, in the role that has none, what the other two are checked by."""
        checks = role_of(self._position, message.step) == ANSWERS
        of_sums = pb.SHARED_CHECK_SUMS if checks else pb.SHARED_SUMS
        of_errors = pb.SHARED_CHECK_BACK if checks else pb.SHARED_BACK
        reply = message_of(of_sums if forward else of_errors, message.step, message.edge, answer)
        return deliver(0, pb.PURPOSE_ACTIVATION if forward else pb.PURPOSE_ERROR, reply)

    def _take_gradient(self, partner: int, message: pb.SharedArray) -> Results:
        of = self._maps.get(message.edge)
        parts, position = self._gradients.setdefault(message.edge, {}), place_of(partner)[1]
        # Another helper may be ahead by what it has opened, never by a mini-batch: it needs this one's part.
        if of is None or message.step != self._boundary or position in parts:
            raise WireError(f"piece {partner} sends a part of a gradient that is not due at {message.step}")
        parts[position] = ring_of(message, of.weights)
        yield from self._open(message.edge)

    def _open(self, edge: int) -> Results:
        """Take the gradient of a map once its three parts are here; after the last map's, new weights."""
        parts = self._gradients.get(edge, {})
        if len(parts) < HELPERS or self._helpers is None or self._weights is None:
            return
        whole = tuple(parts[p] for p in range(HELPERS))
        shown = self._helpers[edge].parts_seen(whole, self._check_key, self._boundary)
        message = message_of(pb.SHARED_CHECK_GRADIENT, self._boundary, edge, shown)
        yield deliver(0, pb.PURPOSE_ERROR, message)
        del self._gradients[edge]
        yield from self._take_whole(edge, self._helpers[edge].opened(whole))

    def _take_whole(self, edge: int, gradient: Floats) -> Results:
        """Take a map's whole gradient; after the last map's, new weights."""
        assert self._weights is not None
        self._done[self._name[self._maps[edge].layer]] = gradient
        if len(self._done) == len(self._maps):
            self._weights.update(self._done, ahead=False)
            self._done, self._boundary = {}, self._boundary + 1
            if self._pass.drained(self._boundary):
                yield Drained(self._boundary, self.state(), self._busy)
                self._busy = 0.0
            if self._boundary < self._pass.end:
                yield from self._tell_facts()


def deliver(piece: int, purpose: pb.Purpose, message: pb.SharedArray) -> Deliver:
    """Return a message on its way to the holder of a piece."""
    return Deliver(piece, purpose, message.SerializeToString())
