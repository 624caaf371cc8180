"""A pass of the dominator on shares in steps of DP-SGD: helpers get no gradient that has no noise."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from secrets import token_bytes

import numpy as np

from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.private_steps import clipping_of
from crowdlearn_device.privacy.dp.draws import gaussian, most_drawn
from crowdlearn_device.privacy.shares.checks import check_of, part_due
from crowdlearn_device.privacy.shares.private import PrivateSharer
from crowdlearn_device.privacy.shares.replicated import (
    ACTIVATIONS,
    CLIPPED,
    GRADIENTS,
    HELPERS,
    KEY_BYTES,
    Place,
)
from crowdlearn_device.privacy.shares.ring import Ring
from crowdlearn_device.privacy.shares.triple import Shared
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats

from .base import Assigned, Results
from .dominator_on_shares import DominatorOnShares, for_helper
from .on_shares import SharedMap, place_of, ring_of


@dataclass
class _Step:
    """A step until its gradients are opened: errors of each map, by edge; the ends of the helpers' pieces, by
    piece; and the parts of each gradient, by edge and position.
    """

    errors: dict[int, Floats] = field(default_factory=dict)
    squares: dict[int, Floats] = field(default_factory=dict)
    ends: dict[int, pb.Norm] = field(default_factory=dict)
    shared: dict[int, dict[int, Shared]] = field(default_factory=dict)
    parts: dict[int, dict[int, Ring]] = field(default_factory=dict)
    noise: dict[int, Floats] = field(default_factory=dict)


class PrivateDominator(DominatorOnShares):
    """The dominator's piece in steps of DP-SGD. It computes each sample's norm, shares clipped errors beside
    those that go further back, opens each gradient, and adds the noise.
    """

    OF_GRADIENTS = pb.SHARED_GRADIENT

    def __init__(self, assigned: Assigned) -> None:
        training = assigned.assign.training
        clipping = clipping_of(training, assigned.manifest)
        assert clipping is not None
        self._clip, self._room = clipping.clip, most_drawn(training.batch)
        super().__init__(assigned)
        if training.micro_batch < self._room:
            raise WireError(
                f"steps of DP-SGD on shares need room for {self._room} samples, and micro-batches are of "
                f"{training.micro_batch}; update the host"
            )
        self._private = {
            number: PrivateSharer(
                number, of.linear, self._keys[of.triple], of.name, clip=self._clip, rows=self._room
            )
            for number, of in self._maps.items()
        }
        self._ongoing: dict[int, _Step] = {}
        self._began, self._facts_due = assigned.assign.boundary, dict[tuple[int, int], int]()
        """The mini-batches whose facts are due next, by helper and map."""

    def _awaits_facts(self, position: int, message: pb.SharedArray) -> bool:
        """Return True if facts are the next ones: steps without samples wait for no helper, so that these may
        come late.
        """
        due = self._facts_due.setdefault((position, message.edge), self._began)
        self._facts_due[position, message.edge] += 1
        return message.step == due and message.step <= self.boundary + 1

    @property
    def _unchecked(self) -> bool:
        return any(step < self.boundary for step in self._ongoing)

    def _share_activations(self, step: int, edge: int, values: Floats) -> Results:
        shared = self._private[edge].activations(step, values, self._agreed(step, edge))
        self._ongoing.setdefault(step, _Step()).shared[edge] = {ACTIVATIONS: shared}
        yield from self._share(shared, pb.SHARED_ACTIVATIONS, len(values))

    def _share_errors(self, step: int, of: SharedMap, errors: Floats) -> Results:
        """Share errors if they go further back; once those of all maps are here, the norms are known."""
        ongoing, sharer = self._ongoing[step], self._private[of.number]
        if of.back:
            shared = sharer.errors(step, errors, self._agreed(step, of.number))
            yield from self._share(shared, pb.SHARED_ERRORS, len(errors))
        ongoing.errors[of.number] = errors
        ongoing.squares[of.number] = sharer.squares(step, errors).astype(np.float32)
        if len(ongoing.errors) == len(self._maps):
            total = np.sum([*ongoing.squares.values()], axis=0)
            for piece in range(1, len(self._layout)):  # the first one's stand for all helpers'
                squares = total if piece == 1 else np.zeros_like(total)
                self.work.piece.receive_norm(piece, pb.Norm(step=step, squares=squares))

    def _after(self) -> Results:
        """Share clipped errors once the clip factors of a step are known."""
        private = self.work.piece.private
        assert private is not None
        for piece, norm in private.take_messages():
            ongoing = self._ongoing.setdefault(norm.step, _Step())
            ongoing.ends[piece] = norm
            if len(ongoing.ends) == len(self._layout) - 1:
                yield from self._end(norm.step, ongoing)

    def _end(self, step: int, ongoing: _Step) -> Results:
        """Share clipped errors; a step without samples is noise alone."""
        ongoing.noise = self._noise(ongoing.ends)
        factors = np.array(ongoing.ends[1].factors, np.float32)
        if not len(factors):
            for edge in sorted(self._maps):
                yield from self._release(step, edge, ongoing, None)
            return
        for edge, errors in ongoing.errors.items():
            of_sample = factors.reshape(-1, *(1 for _ in errors.shape[1:]))
            key = hmac.digest(ongoing.ends[1].key, b"rounding", "sha256")
            allowed = np.sqrt(ongoing.squares[edge].astype(np.float64)) * factors.astype(np.float64)
            clipped = self._private[edge].clipped(step, errors * of_sample, allowed, key)
            ongoing.shared[edge][CLIPPED] = clipped
            yield from self._share(clipped, pb.SHARED_CLIPPED, len(errors))
        ongoing.errors.clear()

    def _noise(self, ends: Mapping[int, pb.Norm]) -> dict[int, Floats]:
        """Return the noise of each map's gradient, float32 like its weights: what helpers of a run in the
        clear would add to their thirds.
        """
        thirds: dict[int, list[Floats]] = {number: [] for number in self._maps}
        for piece, end in sorted(ends.items()):
            triple, _ = place_of(piece)
            shapes = []
            for of in sorted(self._maps.values(), key=lambda of: of.layer):
                if of.triple == triple:
                    start, stop = self._layout[piece][of.layer]
                    shapes.append((of.number, (stop - start, *of.weights[1:])))
            drawn = gaussian(end.key, sum(prod(shape) for _, shape in shapes))
            drawn *= np.float32(end.deviation)
            at = 0
            for number, shape in shapes:
                thirds[number].append(drawn[at : at + prod(shape)].reshape(shape))
                at += prod(shape)
        return {number: np.concatenate(parts) for number, parts in thirds.items()}

    def _take_gradient(self, of: SharedMap, position: int, message: pb.SharedArray) -> Results:
        """Take a helper's part of a gradient; open it once all three are here."""
        step, edge, piece = message.step, of.number, of.piece(position)
        ongoing = self._ongoing.get(step)
        if ongoing is None or CLIPPED not in ongoing.shared.get(edge, {}):
            raise WireError(f"piece {piece} sends a part of a gradient that is not due at step {step}")
        parts = ongoing.parts.setdefault(edge, {})
        if position in parts:
            raise WireError(f"piece {piece} sends its part of a gradient twice at step {step}")
        parts[position] = ring_of(message, of.weights)
        if len(parts) < HELPERS:
            return
        total = parts[0] + parts[1] + parts[2]
        self._check(step, of, ongoing, total)
        yield from self._release(step, edge, ongoing, self._private[edge].opened(total))

    def _check(self, step: int, of: SharedMap, ongoing: _Step, total: Ring) -> None:
        """Raise WireError with the helper whose part of a gradient is wrong."""
        check, shared = check_of(of.linear), ongoing.shared[of.number]
        place = Place(step, of.number, GRADIENTS)
        drawn = check.lots(token_bytes(KEY_BYTES), place, of.left[0])
        due = check.gradient_due(shared[ACTIVATIONS].secret, shared[CLIPPED].secret, drawn)
        if np.array_equal(check.gradient_seen(total, drawn), due):
            return
        thirds = {kind: each.third for kind, each in shared.items()}
        keys = self._keys[of.triple]
        for position, part in ongoing.parts[of.number].items():
            of_part = part_due(check, position, keys, thirds, place, of.weights, drawn)
            if not np.array_equal(check.gradient_seen(part, drawn), of_part):
                raise WireError(
                    f"piece {of.piece(position)} computes a wrong part of a gradient on {of.name} at step "
                    f"{step}; look at that device, or leave it out"
                )

    def _release(self, step: int, edge: int, ongoing: _Step, gradient: Floats | None) -> Results:
        """Let all helpers have a map's gradient with noise; after the last map's, the step is over."""
        found = ongoing.noise.pop(edge)
        if gradient is not None:
            found += gradient
        found /= np.float32(ongoing.ends[1].divisor)
        data = np.ascontiguousarray(found, "<f4").tobytes()
        message = pb.SharedArray(kind=pb.SHARED_NOISY, step=step, edge=edge, shape=found.shape, data=data)
        for position in range(HELPERS):
            yield for_helper(self._maps[edge].piece(position), message)
        if not ongoing.noise:
            del self._ongoing[step]
            yield from self._checked()
