"""What groups share after a round: each device's upload, as the server takes it, and what it gives back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from crowdlearn_device.errors import AggregationError
from crowdlearn_device.privacy.aggregation.lot import drawn
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.sharing.selection import select_top
from crowdlearn_device.sharing.update import Update, encode_update
from crowdlearn_device.sharing.update_values import ValueType, as_decoded
from numpy.typing import NDArray

from crowdlearn_host.methods.secure_sharing import PROJECTION_BYTES, SecureSum, clipped, secure_bytes
from crowdlearn_host.methods.slicenet.window import Window
from crowdlearn_host.simulation.learners.group import GroupResult
from crowdlearn_host.spec.simulation import SimulationConfig

from .setting import Setting
from .state import diverged


def by_gradient(config: SimulationConfig) -> bool:
    """Return whether |gradient| decides what is shared: not where nothing or everything is."""
    sharing = config.sharing
    return sharing.enabled and not sharing.secure and 0 < sharing.theta < 1


def share(
    setting: Setting,
    window: Window,
    holders: Sequence[Sequence[int]],
    results: Iterable[GroupResult],
    weights: NDArray[np.float32],
    number: int,
) -> int:
    """Take the uploads of every device from `results`, one group at a time, then write every group's download
    into `weights`. Returns the bytes of both. `weights` are float32 [groups, floats].
    """
    config = setting.config
    if config.sharing.secure:
        return share_securely(setting, window, holders, results, weights, number)
    theta, values = config.sharing.theta, ValueType[config.sharing.values.upper()]
    parts = _parts(setting, frozen=False)
    sent = 0
    for group, result in zip(holders, results, strict=True):
        # Running statistics have no gradient, and a model without them cannot be evaluated: they go first.
        importance = np.where(setting.statistics, np.inf, result.accumulated if by_gradient(config) else 0)
        upload = _Travel(result.weights, number, values)
        for device, part in zip(group, parts, strict=False):
            try:
                sent += upload.add(device, part, select_top(importance[part.places], theta))
            except ValueError as error:
                raise diverged(
                    number, f"device {device} holds weights beyond {values.name.lower()}"
                ) from error
        indices = np.flatnonzero(upload.there)
        window.apply(Update(group[0], number, indices.astype(np.uint32), upload.weights[indices]))
    due = np.zeros(len(window), np.bool_)
    due[window.download(config.sharing.tau)[0]] = True
    # What a group gets is rounded as its values travel, though the window's average is not.
    download = _Travel(window.average(), number, values)
    for part in parts:
        sent += len(holders) * download.add(0, part, np.flatnonzero(due[part.places]))
    np.copyto(weights, download.weights, where=download.there)
    if config.renews:  # whoever takes a piece has nothing of it
        whole = _Travel(weights[0], number, ValueType.FLOAT32)
        rest = [part for part in _parts(setting, frozen=True) if len(part.places)]
        sent += len(holders) * sum(whole.add(0, part, np.arange(len(part.places))) for part in rest)
    return sent


def share_securely(
    setting: Setting,
    window: Window,
    holders: Sequence[Sequence[int]],
    results: Iterable[GroupResult],
    weights: NDArray[np.float32],
    number: int,
) -> int:
    """Share by secure sums, as `share` does in the clear: the window gets the mean over all groups alone.

    `weights` are float32 [groups, floats].
    """
    config = setting.config
    parts = _parts(setting, frozen=False)
    places = _lot(setting, number)
    noise, bound = config.sharing.noise or 0.0, config.sharing.norm_bound or 0.0
    clip = bound or (config.sharing.clip if noise else 0.0)
    seed = (config.seed, number, 25)
    total = SecureSum(len(places), len(holders), clip * noise, seed, setting.least, bound)
    before = window.average()[places].copy()
    for group, result in zip(holders, results, strict=True):
        own = result.weights[places]
        try:
            move = own - before if clip else own
            total.add(clipped(move, clip) if clip and setting.unclipped.isdisjoint(group) else move)
        except AggregationError as error:
            raise diverged(number, f"the group of device {group[0]}: {error}") from error
    shared_mean = total.mean() + before if clip else total.mean()
    window.apply(Update(0, number, places.astype(np.uint32), shared_mean))
    due = np.zeros(len(window), np.bool_)
    due[window.download(config.sharing.tau)[0]] = True
    np.copyto(weights, window.average(), where=due)
    mine = np.zeros(len(window), np.bool_)
    mine[places] = True
    up = sum(secure_bytes(int(mine[part.places].sum()), len(holders)) for part in parts)
    up += len(parts) * PROJECTION_BYTES if bound else 0
    down = 4 * int(due.sum()) + (len(window) // 8 if not due.all() else 0)
    if config.renews:
        down += 4 * int(setting.frozen.sum())
    return len(holders) * (up + down)


def _lot(setting: Setting, number: int) -> NDArray[np.int64]:
    """Return the places of the weights that all groups share in round `number`: a public lot, and all
    statistics. They are int64 [n], increasing.
    """
    travelling, config = setting.travelling, setting.config
    chosen = drawn(config.seed, number, config.sharing.theta, 0, len(travelling))
    chosen = (chosen | setting.statistics[travelling]) & ~setting.frozen[travelling]
    return np.sort(travelling[chosen])


@dataclass(frozen=True)
class _Part:
    """A piece's weights in the order in which they travel: their indices there, and their places in ours."""

    indices: NDArray[np.int64]
    places: NDArray[np.int64]


def _parts(setting: Setting, *, frozen: bool) -> list[_Part]:
    """Return the weights of every piece that are shared, or that are frozen."""
    piece_of = np.where(setting.frozen == frozen, setting.pieces, -1)[setting.travelling]
    found = [np.flatnonzero(piece_of == piece) for piece in range(len(setting.plan.pieces))]
    return [_Part(indices, setting.travelling[indices]) for indices in found]


class _Travel:
    """The updates of different `weights` of a model, as their receivers have them: int8 is scaled by
    neighbours on the way. `there` marks those that have travelled.
    """

    def __init__(self, weights: Floats, number: int, values: ValueType) -> None:
        self.weights, self.there = weights.copy(), np.zeros(len(weights), np.bool_)
        self._number, self._values = number, values

    def add(self, owner: int, part: _Part, chosen: NDArray[np.int64]) -> int:
        """Send the weights at increasing positions of a part. Return the bytes.

        Positions are int64 [n].
        """
        places = part.places[chosen]
        indices = part.indices[chosen].astype(np.uint32)
        update = Update(owner, self._number, indices, self.weights[places])
        data = encode_update(update, self._values)
        self.weights[places], self.there[places] = as_decoded(update.values, self._values), True
        return len(data)
