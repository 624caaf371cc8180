"""A pass of the dominator on shares: it keeps every non-linearity, and checks what helpers answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from secrets import token_bytes

import numpy as np

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.inbox import Message
from crowdlearn_device.privacy.shares.fixed_point import WeightFacts
from crowdlearn_device.privacy.shares.replicated import (
    ACTIVATIONS,
    ERRORS,
    HELPERS,
    KEY_BYTES,
    Keys,
    own_keys,
    role_of,
)
from crowdlearn_device.privacy.shares.ring import Ring
from crowdlearn_device.privacy.shares.triple import Received, Shared, Sharer, joined
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats, decode_message
from crowdlearn_device.state.piece_state import PieceState

from .base import Assigned, Deliver, Results, Role
from .checking import Checking
from .on_shares import ANSWERS, SharedMap, check_clipping, helper_piece, place_of, ring_of, shared_maps
from .work import Work

KINDS = {
    pb.SHARED_SUMS: (ACTIVATIONS, False),
    pb.SHARED_BACK: (ERRORS, False),
    pb.SHARED_CHECK_SUMS: (ACTIVATIONS, True),
    pb.SHARED_CHECK_BACK: (ERRORS, True),
}
"""The kind of what was shared, and whether it is a check, by kind of an answer."""
BACKWARD = (pb.SHARED_ERRORS, pb.SHARED_CLIPPED, pb.SHARED_NOISY)


class DominatorOnShares(Role):
    """The dominator's piece, whose messages to helpers are shared. Each triple has keys of its own."""

    OF_GRADIENTS: pb.SharedKind = pb.SHARED_CHECK_GRADIENT
    """The kind of a helper's messages on gradients."""

    def __init__(self, assigned: Assigned) -> None:
        training, layout = assigned.assign.training, assigned.layout
        self._maps = shared_maps(assigned.manifest, layout, training.maps)
        if training.micro_batch < training.batch or training.staleness:
            raise WireError("slices on shares take whole mini-batches, one after the other")
        check_clipping(assigned.manifest)
        self.work = Work(assigned)
        self._layout = layout
        self._keys = tuple(fresh_keys() for _ in range(place_of(len(layout))[0]))
        self._checking = Checking(self._keys, self._maps)
        self._sharers = {
            number: Sharer(number, of.linear, self._keys[of.triple], of.name)
            for number, of in self._maps.items()
        }
        self._by_edge = {(of.triple, edge): of for of in self._maps.values() for edge in (of.entry, of.edge)}
        self._facts: dict[tuple[int, int], dict[int, WeightFacts]] = {}
        """The facts of each helper's weights, by mini-batch and map."""
        self._parts: dict[tuple[int, int, int], dict[int, Floats]] = {}
        self._waiting: dict[tuple[int, int], Floats] = {}
        """Activations whose weights' facts have not all come."""
        self._sent: dict[tuple[int, int, int], tuple[Shared, int]] = {}
        self._answers: dict[tuple[int, int, int], dict[int, Ring]] = {}
        """The answers of each helper, by mini-batch, map and kind: parts of a product, or a check of it."""
        self._held_back = False

    @property
    def boundary(self) -> int:
        return self.work.piece.boundary

    def state(self) -> PieceState:
        return self.work.piece.state()

    def go(self, data: Callable[[], Dataset], device: int) -> Results:
        """Begin: give each helper its keys, then feed."""
        self.work.go(data, device)
        for triple, keys in enumerate(self._keys):
            for position in range(HELPERS):
                content = b"".join((*own_keys(keys, position), self._checking.keys[triple][position]))
                piece = helper_piece(triple, position)
                yield for_helper(piece, pb.SharedArray(kind=pb.SHARED_KEYS, data=content))

    @property
    def ready(self) -> bool:
        """Return True if a stage can run now: none can before the last mini-batch's gradients are checked."""
        return not self._held_back and self.work.ready

    def run(self) -> Results:
        step = None if self._held_back else self.work.step()
        if step is None:
            return
        yield from self._send(step.messages)
        yield from self._after()
        if step.updated:
            yield from self._updated()

    def _after(self) -> Results:
        """Do what a stage that ran makes possible, beside its messages: here, nothing."""
        return ()

    def _send(self, messages: Sequence[Message]) -> Results:
        for message in messages:
            values = np.array(message.values, np.float32)
            errors = message.purpose == pb.PURPOSE_ERROR
            of = self._by_edge[place_of(message.partner)[0], message.edge]
            place = message.step, of.number, ERRORS if errors else ACTIVATIONS
            parts = self._parts.setdefault(place, {})
            parts[message.partner] = values
            if len(parts) < HELPERS:
                continue
            del self._parts[place]
            each = [parts[partner] for partner in sorted(parts)]
            # Of a map from each neuron to each, all three helpers' neurons get the same errors.
            whole = each[0] if errors and not of.matched else np.concatenate(each, axis=1)
            if errors:
                yield from self._share_errors(message.step, of, whole)
            else:
                self._waiting[message.step, of.number] = whole
                yield from self._share_waiting(message.step, of.number)

    def _share_waiting(self, step: int, number: int) -> Results:
        if (step, number) in self._waiting and len(self._facts.get((step, number), {})) == HELPERS:
            yield from self._share_activations(step, number, self._waiting.pop((step, number)))

    def _share_activations(self, step: int, number: int, values: Floats) -> Results:
        shared = self._sharers[number].activations(step, values, self._agreed(step, number))
        self._checking.share(shared)
        yield from self._share(shared, pb.SHARED_ACTIVATIONS, len(values))

    def _share_errors(self, step: int, of: SharedMap, errors: Floats) -> Results:
        shared = self._sharers[of.number].errors(step, errors, self._agreed(step, of.number))
        self._checking.share(shared)
        yield from self._share(shared, pb.SHARED_ERRORS, len(errors))

    def _agreed(self, step: int, number: int) -> WeightFacts:
        """Return the facts of the weights in which all helpers agree. Raises WireError naming one that
        deviates.
        """
        known = self._facts[step, number]
        for position, facts in known.items():
            others = [other for p, other in known.items() if p != position]
            if others[0] == others[1] != facts:
                raise WireError(
                    f"piece {self._maps[number].piece(position)} has other weights than both other helpers: "
                    "a part of a gradient was wrong"
                )
        if len(set(known.values())) != 1:
            raise WireError("all three helpers have weights of their own: a part of a gradient was wrong")
        return known[0]

    def _share(self, shared: Shared, kind: pb.SharedKind, rows: int) -> Results:
        kind_of, of = shared.place.kind, self._maps[shared.place.edge]
        if kind_of == ACTIVATIONS or (kind_of == ERRORS and of.back):
            self._sent[shared.place.step, shared.place.edge, kind_of] = shared, rows
        for position in range(HELPERS):
            received = Received.at(position, shared)
            yield for_helper(
                of.piece(position),
                pb.SharedArray(
                    kind=kind,
                    step=shared.place.step,
                    edge=shared.place.edge,
                    shape=shared.shape,
                    data=b"" if received.third is None else received.third.astype("<u4").tobytes(),
                    bits=received.bits,
                    weight_bits=shared.weight_bits,
                ),
            )

    def receive(self, partner: int, purpose: pb.Purpose, content: bytes) -> Results:
        """Take facts and answers of a helper, whatever these bytes are."""
        message, (triple, position) = decode_message(pb.SharedArray, content), place_of(partner)
        of = self._maps.get(message.edge)
        if of is None or of.triple != triple:
            raise WireError(f"piece {partner} names edge {message.edge}, which is not its triple's")
        if message.kind == pb.SHARED_FACTS:
            yield from self._take_facts(of, position, message)
            return
        if message.kind == self.OF_GRADIENTS:
            yield from self._take_gradient(of, position, message)
            return
        kind, checks = KINDS.get(message.kind, (-1, False))
        place = message.step, message.edge, kind
        sent = self._sent.get(place)
        if sent is None or (role_of(position, message.step) == ANSWERS) != checks:
            raise WireError(f"piece {partner} sends an answer that is not due at step {message.step}")
        shared, rows = sent
        answers = self._answers.setdefault(place, {})
        if position in answers:
            raise WireError(f"piece {partner} answers twice at step {message.step}")
        product = (len(shared.secret), *(of.left if kind == ACTIVATIONS else of.entered))
        answers[position] = ring_of(message, self._checking.shape(shared) if checks else product)
        if len(answers) == HELPERS:
            del self._sent[place], self._answers[place]
            self._checking.product(shared, answers)
            first, second = (x for p, x in answers.items() if role_of(p, message.step) != ANSWERS)
            self._answered(of, kind, message, joined((first, second), shared)[:rows])

    def _take_gradient(self, of: SharedMap, position: int, message: pb.SharedArray) -> Results:
        """Check a gradient that all three have opened, by a helper's message."""
        self._checking.take_gradient(of, position, message)
        yield from self._checked()

    def _take_facts(self, of: SharedMap, position: int, message: pb.SharedArray) -> Results:
        facts = self._facts.setdefault((message.step, message.edge), {})
        if position in facts or len(message.facts) != 3 or not np.isfinite(message.facts).all():
            raise WireError(f"piece {of.piece(position)} sends facts twice, or not three")
        if not self._awaits_facts(position, message):
            raise WireError(f"piece {of.piece(position)} sends facts of step {message.step}")
        facts[position] = WeightFacts(*message.facts)
        yield from self._share_waiting(message.step, message.edge)

    def _awaits_facts(self, position: int, message: pb.SharedArray) -> bool:
        return self.boundary <= message.step <= self.boundary + 1

    def _answered(self, of: SharedMap, kind: int, message: pb.SharedArray, values: Floats) -> None:
        """Let the piece have the product, as if the owners of the layer's neurons had sent their parts."""
        for position in range(HELPERS):
            piece = of.piece(position)
            own = of.within(self._layout[piece][of.layer])
            if kind == ACTIVATIONS:
                purpose, edge = pb.PURPOSE_ACTIVATION, of.edge
                whole = np.zeros_like(values) if position else values
                part = values[:, own] if of.matched else whole
            else:
                purpose, edge, part = pb.PURPOSE_ERROR, of.entry, values[:, own]
            self.work.piece.receive(Message(piece, purpose, message.step, 0, 1, len(values), edge, part))

    @property
    def _unchecked(self) -> bool:
        """Return True while a gradient of a mini-batch that is applied was not found right."""
        return self._checking.waiting

    def _checked(self) -> Results:
        """Go on if the last mini-batch's gradients are right."""
        if self._held_back and not self._unchecked:
            self._held_back = False
            yield from self._updated()

    def _updated(self) -> Results:
        if self._unchecked:
            self._held_back = True  # a boundary with a wrong gradient must not become a point
            return
        done = self.boundary
        self._facts = {place: facts for place, facts in self._facts.items() if place[0] >= done}
        yield from self.work.updated()


def fresh_keys() -> Keys:
    """Return new keys of a triple."""
    return token_bytes(KEY_BYTES), token_bytes(KEY_BYTES), token_bytes(KEY_BYTES)


def for_helper(piece: int, message: pb.SharedArray) -> Deliver:
    """Return a message on its way to the helper that holds a piece."""
    purpose = pb.PURPOSE_ERROR if message.kind in BACKWARD else pb.PURPOSE_ACTIVATION
    return Deliver(piece, purpose, message.SerializeToString())
