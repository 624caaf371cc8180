"""The dominator's checks of its helpers: products and gradients, under lots that others do not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_bytes

import numpy as np

from crowdlearn_device.errors import WireError
from crowdlearn_device.privacy.shares.checks import check_of, others, part_due
from crowdlearn_device.privacy.shares.linear_map import Convolution
from crowdlearn_device.privacy.shares.replicated import (
    ACTIVATIONS,
    ERRORS,
    GRADIENTS,
    HELPERS,
    KEY_BYTES,
    Keys,
    Place,
    role_of,
)
from crowdlearn_device.privacy.shares.ring import Ring
from crowdlearn_device.privacy.shares.triple import Shared
from crowdlearn_device.protocol import wire_pb2 as pb

from .on_shares import ANSWERS, SharedMap, ring_of


@dataclass
class _Gradient:
    """A mini-batch's arrays on one edge, by kind, until all helpers have told how its gradient looks."""

    shared: dict[int, Shared] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)


class Checking:
    """The checks of one generation, of `maps` by number. They raise WireError with the piece that is wrong.

    `keys` are those of the helpers' lots, by triple and position; `shared_keys` those of the shares, by
    triple.
    """

    def __init__(self, shared_keys: Sequence[Keys], maps: Mapping[int, SharedMap]) -> None:
        self.keys = [[token_bytes(KEY_BYTES) for _ in range(HELPERS)] for _ in shared_keys]
        self._shared_keys, self._maps = shared_keys, maps
        self._checks = {edge: check_of(of.linear) for edge, of in maps.items()}
        self._gradients: dict[tuple[int, int], _Gradient] = {}

    @property
    def waiting(self) -> bool:
        """Return True while a gradient is not checked whose arrays were all shared."""
        return any(ERRORS in of.shared for of in self._gradients.values())

    def share(self, shared: Shared) -> None:
        """Keep what the gradient of a mini-batch is checked by."""
        place = shared.place
        of = self._gradients.setdefault((place.step, place.edge), _Gradient())
        of.shared[place.kind] = shared

    def shape(self, shared: Shared) -> tuple[int, ...]:
        """Return the shape of a check of the product with a shared array."""
        of, forward = self._maps[shared.place.edge], shared.place.kind == ACTIVATIONS
        check = self._checks[of.number]
        return check.weights_shape((len(shared.secret), *of.entered), of.left[0], forward=forward)

    def product(self, shared: Shared, answers: Mapping[int, Ring]) -> None:
        """Check the product of a shared array, from what each helper answered, by position."""
        place, of, secret = shared.place, self._maps[shared.place.edge], shared.secret
        check, forward = self._checks[place.edge], place.kind == ACTIVATIONS
        by_role = {role_of(position, place.step): position for position in answers}
        checker = by_role.pop(ANSWERS)
        rows = of.left[0] if forward else _sources(of)
        drawn, weights = check.lots(self.keys[of.triple][checker], place, rows), answers[checker]

        def right(answer: Ring, shared: Ring) -> bool:
            seen = check.answer_seen(answer, drawn, forward=forward)
            return np.array_equal(seen, check.answer_due(shared, weights, forward=forward))

        if right(answers[by_role[0]] + answers[by_role[1]], secret):
            return
        shares = {0: secret - shared.third, 1: shared.third}
        wrong = [by_role[role] for role in (0, 1) if not right(answers[by_role[role]], shares[role])]
        guilty = wrong[0] if len(wrong) == 1 else checker
        kind = "sums" if forward else "errors"
        raise WireError(
            f"piece {of.piece(guilty)} computes wrong {kind} on {of.name} at step {place.step}, as the "
            "others show; look at that device, or leave it out"
        )

    def take_gradient(self, of: SharedMap, position: int, message: pb.SharedArray) -> None:
        """Check a map's gradient by what the helper at a position tells of it."""
        step, place = message.step, Place(message.step, of.number, GRADIENTS)
        ongoing = self._gradients.get((step, of.number))
        if ongoing is None or ERRORS not in ongoing.shared or position in ongoing.answered:
            raise WireError(f"piece {of.piece(position)} reports a gradient that is not due at step {step}")
        check = self._checks[of.number]
        opened, *parts = ring_of(message, (HELPERS, *check.gradient_shape((1, *of.entered))))
        drawn = check.lots(self.keys[of.triple][position], place, of.left[0])
        values, errors = ongoing.shared[ACTIVATIONS].secret, ongoing.shared[ERRORS].secret
        if not np.array_equal(opened, check.gradient_due(values, errors, drawn)):
            raise WireError(self._guilty(of, position, ongoing, parts, place, drawn))
        ongoing.answered.add(position)
        if len(ongoing.answered) == HELPERS:
            del self._gradients[step, of.number]

    def _guilty(
        self, of: SharedMap, position: int, ongoing: _Gradient, parts: list[Ring], place: Place, drawn: Ring
    ) -> str:
        """Return which helper is wrong where a gradient is, in words."""
        check, keys = self._checks[of.number], self._shared_keys[of.triple]
        thirds = {kind: shared.third for kind, shared in ongoing.shared.items()}
        for other, part in zip(others(position), parts, strict=True):
            due = part_due(check, other, keys, thirds, place, of.weights, drawn)
            if not np.array_equal(part, due):
                return (
                    f"piece {of.piece(other)} sent piece {of.piece(position)} a wrong part of a gradient on "
                    f"{of.name} at step {place.step}, or that one lies; look at both devices"
                )
        return (
            f"piece {of.piece(position)} opens another gradient on {of.name} at step {place.step} than its "
            "parts give; look at that device, or leave it out"
        )


def _sources(of: SharedMap) -> int:
    """Return the sources that a check of errors draws lots for: channels, or all numbers of a dense map."""
    return of.entered[0] if isinstance(of.linear, Convolution) else int(np.prod(of.entered))
