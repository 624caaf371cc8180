"""How often state is stored and weights are shared in an epoch."""

from __future__ import annotations

from .costs import Training
from .fleet import Fleet, deal


def sharings(groups: int) -> int:
    """Uploads and downloads of every piece in an epoch; one group alone downloads nothing."""
    return groups * (1 + (groups > 1))


def snapshots(training: Training, fleet: Fleet, groups: int) -> int:
    """Snapshots of every piece per epoch, over all groups. A device that is alone has nobody to send one
    to.
    """
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    return sum(
        training.snapshots(kinds[name].samples)
        for devices in deal(fleet, groups)
        if len(devices) > 1
        for name in devices
    )


def snapshot_heirs(training: Training, fleet: Fleet, groups: int, pieces: int) -> int:
    """Keys in all snapshots of an epoch: one for every spare, or else for every other holder."""
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    keys = 0
    for devices in deal(fleet, groups):
        heirs = len(devices) - pieces or pieces - 1
        keys += pieces * heirs * sum(training.snapshots(kinds[name].samples) for name in devices)
    return keys
