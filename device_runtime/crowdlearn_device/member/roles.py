"""The part that a device plays in a pass."""

from __future__ import annotations

from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.privacy.tap import Tap
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.state.piece_state import PieceState

from .on_shares import DominatorOnShares, HelperOnShares
from .piece_pass import Surroundings, Work


def pass_of(
    assign: pb.Assign,
    manifest: Manifest,
    executor: Executor,
    layout: Layout,
    state: PieceState,
    around: Surroundings,
    tap: Tap | None = None,
    secret: int = 0,
) -> Work | HelperOnShares:
    """Return what an assignment asks of a device. Raises DeviceError if it is refused."""
    if not assign.training.shares:
        return Work(assign, manifest, executor, layout, state, around, tap, secret)
    if assign.piece == 0:
        return DominatorOnShares(assign, manifest, executor, layout, state, around, tap, secret)
    return HelperOnShares(assign, manifest, layout, state, around)
