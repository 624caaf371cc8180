"""What groups share after a round: each device's upload, as the server takes it, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from crowdlearn_device.update import (
    Limits,
    Update,
    ValueType,
    decode_update,
    encode_update,
    select_top,
)
from numpy.typing import NDArray

from ..sharing.round import SharingRound
from ..sharing.window import Window
from .config import SimulationConfig
from .group import Floats, GroupResult
from .setting import Setting
from .state import diverged


def by_gradient(config: SimulationConfig) -> bool:
    """Whether |gradient| decides what is shared: not where nothing or everything is."""
    return config.sharing.enabled and 0 < config.sharing.theta < 1


def share(
    setting: Setting,
    window: Window,
    holders: Sequence[Sequence[int]],
    results: Sequence[GroupResult],
    weights: NDArray[np.float32],
    number: int,
) -> int:
    """Uploads of every device, then every group's download into `weights`. Returns the bytes of both."""
    config = setting.config
    values = ValueType[config.sharing.values.upper()]
    places, pieces = setting.travelling, range(len(setting.plan.pieces))
    parts = [np.flatnonzero(setting.pieces[places] == piece) for piece in pieces]
    sent = 0
    for group, result in zip(holders, results, strict=True):
        owned = {device: setting.pieces == piece for piece, device in zip(pieces, group, strict=False)}
        sharing = SharingRound(window, number, owned, len(window))
        # Running statistics have no gradient, and a model without them cannot be evaluated: they go first.
        importance = np.where(setting.statistics, np.inf, result.accumulated if by_gradient(config) else 0)
        for device, part in zip(group, parts, strict=False):
            chosen = part[select_top(importance[places[part]], config.sharing.theta)]
            try:
                update, size = _travelled(places, device, number, chosen, result.weights, values)
            except ValueError as error:
                raise diverged(
                    number, f"device {device} holds weights beyond {values.name.lower()}"
                ) from error
            sharing.apply(update)
            sent += size
    due = np.zeros(len(window), np.bool_)
    due[window.download(config.sharing.tau)[0]] = True
    for part in parts:
        given = part[due[places[part]]]
        # What a group gets is rounded as its values travel, though the window's average is not.
        update, size = _travelled(places, 0, number, given, window.average(), values)
        weights[:, update.indices] = update.values
        sent += len(holders) * size
    return sent


def _travelled(
    places: NDArray[np.int64],
    owner: int,
    number: int,
    chosen: NDArray[np.int64],
    weights: Floats,
    values: ValueType,
) -> tuple[Update, int]:
    """An update of `chosen` weights, in the order in which they travel, as whoever takes it has it in ours:
    int8 is scaled by neighbours on the way. And its bytes.
    """
    sent = Update(owner, number, chosen.astype(np.uint32), weights[places[chosen]])
    data = encode_update(sent, values)
    taken = decode_update(data, Limits(len(places), len(places)))
    indices = places[taken.indices]
    order = np.argsort(indices)
    return Update(owner, number, indices[order].astype(np.uint32), taken.values[order]), len(data)
