"""The part that a device plays in a pass."""

from __future__ import annotations

from .dominator_on_shares import DominatorOnShares
from .helper_on_shares import HelperOnShares
from .piece_pass import Assigned, PiecePass


def pass_of(assigned: Assigned) -> PiecePass | HelperOnShares:
    """Return the part that an assignment asks of a device. Raises DeviceError if it is refused."""
    if not assigned.assign.training.shares:
        return PiecePass(assigned)
    return DominatorOnShares(assigned) if assigned.assign.piece == 0 else HelperOnShares(assigned)
