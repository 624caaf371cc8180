"""The roles by name, and which one an assignment asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from crowdlearn_device.protocol import wire_pb2 as pb

from .base import Assigned, Role
from .dominator_on_shares import DominatorOnShares
from .helper_on_shares import HelperOnShares
from .piece_pass import PiecePass
from .private_dominator import PrivateDominator
from .private_helper import PrivateHelper

ROLES: Mapping[str, Callable[[Assigned], Role]] = {
    "piece": PiecePass,
    "dominator on shares": DominatorOnShares,
    "helper on shares": HelperOnShares,
    "private dominator on shares": PrivateDominator,
    "private helper on shares": PrivateHelper,
}


def role_in(assign: pb.Assign) -> str:
    """Return the name of the role that an assignment asks for."""
    if not assign.training.shares:
        return "piece"
    kind = "dominator on shares" if assign.piece == 0 else "helper on shares"
    return f"private {kind}" if assign.training.HasField("clipping") else kind


def role_for(assigned: Assigned) -> Role:
    """Return the role that an assignment asks for. Raises DeviceError if it is refused."""
    return ROLES[role_in(assigned.assign)](assigned)
