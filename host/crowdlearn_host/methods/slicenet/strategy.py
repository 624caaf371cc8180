"""SliceNet: groups train side by side, and share the weights that changed most through a window (SECON
2018).
"""

from __future__ import annotations

from crowdlearn_host.methods.base import SharingStrategy
from crowdlearn_host.methods.round_schedule import rounds_an_epoch


class SliceNet(SharingStrategy):
    """Groups of devices, one copy of the network in each."""

    name = "slicenet"
    shares = True
    windowed = True

    def members(self, group: int) -> int:
        return group

    def copies(self, devices: int, group: int) -> int:
        return devices // group

    def rounds_an_epoch(self, group: int, every: int) -> int:
        return rounds_an_epoch(group, every)

    def alone(self) -> SharingStrategy:
        return Alone()


class Alone(SliceNet):
    """Groups that share nothing: the baselines of the paper, standalone with one device, centralised with one
    group.
    """

    name = "alone"
    shares = False
    windowed = False
