"""The sharing strategies by name."""

from __future__ import annotations

from crowdlearn_host.methods.base import SharingStrategy
from crowdlearn_host.methods.fedavg import FedAvg
from crowdlearn_host.methods.slicenet.strategy import Alone, SliceNet

STRATEGIES: dict[str, SharingStrategy] = {each.name: each for each in (SliceNet(), FedAvg(), Alone())}
