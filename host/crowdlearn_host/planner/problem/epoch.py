"""How often state is stored and weights are shared in an epoch."""

from __future__ import annotations

from .costs import Training
from .fleet import Fleet, deal


def sharings(groups: int) -> int:
    """Return uploads and downloads of every piece in an epoch; one group alone downloads nothing."""
    return groups * (1 + (groups > 1))


def snapshots(training: Training, fleet: Fleet, groups: int, pieces: int) -> int:
    """Return snapshots of every piece per epoch, over all groups. Heirs are spare devices: a group without
    any stores none.
    """
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    return sum(
        training.snapshots(kinds[name].samples)
        for devices in deal(fleet, groups)
        if len(devices) > pieces
        for name in devices
    )


def snapshot_heirs(training: Training, fleet: Fleet, groups: int, pieces: int) -> int:
    """Return keys in all snapshots of an epoch: one for every spare device."""
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    keys = 0
    for devices in deal(fleet, groups):
        heirs = len(devices) - pieces
        keys += pieces * heirs * sum(training.snapshots(kinds[name].samples) for name in devices)
    return keys
