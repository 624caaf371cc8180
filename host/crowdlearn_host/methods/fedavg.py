"""Federated averaging: devices train the whole network, and the server averages it (McMahan et al., 2017)."""

from __future__ import annotations

from crowdlearn_host.methods.base import SharingStrategy


class FedAvg(SharingStrategy):
    """A share of the devices trains the whole network in each round; a round is an epoch."""

    name = "fedavg"
    shares = True
    windowed = False

    def members(self, group: int) -> int:
        return 1

    def copies(self, devices: int, group: int) -> int:
        return 1

    def rounds_an_epoch(self, group: int, every: int) -> int:
        return 1
