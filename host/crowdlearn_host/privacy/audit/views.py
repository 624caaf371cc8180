"""Views: the numbers that a role holds about each sample of a pass, put together from records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from crowdlearn_device.privacy.tap import Record
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError

Positions = NDArray[np.int64]


class Part(NamedTuple):
    """Numbers of one kind: `kind` is sums or errors, on `edge`, from `partner` to the holder `piece`."""

    piece: int
    kind: str
    edge: int
    partner: int


@dataclass(frozen=True)
class Views:
    """The view of N samples: float32 [N, ...] by part, and int64 [N] positions of the samples in their data.

    The positions are the truth, for figures alone. Samples are in the order in which they were fed.
    """

    parts: Mapping[Part, Floats]
    positions: Positions

    def features(self, chosen: Callable[[Part], bool] = lambda part: True) -> Floats:
        """Return the chosen parts side by side, float32 [N, d]; d is 0 if there are none."""
        found = [x.reshape(len(x), -1) for part, x in sorted(self.parts.items()) if chosen(part)]
        return np.concatenate(found, axis=1) if found else np.zeros((len(self.positions), 0), np.float32)


def views_of(records: Sequence[Sequence[Record]], pieces: Iterable[int]) -> Views:
    """Put together what the holders of `pieces` saw of one pass; `records` are all pieces', in their order.

    Raises ConfigError if a record of a micro-batch is missing: the taps are of different runs.
    """
    fed = {(r.boundary, r.micro): r.values for r in records[0] if r.kind == "fed"}
    places = sorted(fed)
    parts: dict[Part, dict[tuple[int, int], Floats]] = {}
    for piece in pieces:
        for r in records[piece]:
            if r.kind in ("sums", "errors"):
                part = Part(piece, r.kind, r.edge, r.partner)
                parts.setdefault(part, {})[r.boundary, r.micro] = r.values
    for part, found in parts.items():
        if missing := [place for place in places if place not in found]:
            raise ConfigError(
                f"the tap of piece {part.piece} lacks mini-batch {missing[0][0]}; "
                "record all devices in one run"
            )
    positions = np.concatenate([fed[place] for place in places])
    whole = {part: np.concatenate([found[place] for place in places]) for part, found in parts.items()}
    return Views(whole, positions)


def in_order(views: Views) -> Views:
    """Return the same views with samples in the order of their data, as those who know a public order have
    them.
    """
    order = np.argsort(views.positions, kind="stable")
    return Views({part: x[order] for part, x in views.parts.items()}, views.positions[order])
