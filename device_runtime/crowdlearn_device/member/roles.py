"""The part that a device plays in a pass."""

from __future__ import annotations

from .on_shares import DominatorOnShares, HelperOnShares
from .piece_pass import Assigned, PiecePass


def pass_of(assigned: Assigned) -> PiecePass | HelperOnShares:
    """Return the part that an assignment asks of a device. Raises DeviceError if it is refused."""
    if not assigned.assign.training.shares:
        return PiecePass(assigned)
    return DominatorOnShares(assigned) if assigned.assign.piece == 0 else HelperOnShares(assigned)
