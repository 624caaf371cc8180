"""The chain itself, and the registry of the mechanisms that a run may ask for."""

from __future__ import annotations

from collections.abc import Iterable

from crowdlearn_device.errors import WireError
from crowdlearn_device.privacy.tap import Tap
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats

from .base import Indices, Mechanism, Metrics, Place, SumsPlace
from .listener import Listener
from .reports import ReportNothing, ReportPasses

MECHANISMS: dict[str, type[Mechanism]] = {each.name: each for each in (ReportPasses, ReportNothing)}
"""Mechanisms by the name that an assignment asks for them by."""


class Outgoing:
    """The chain: everything that leaves a device passes its mechanisms in order, and a `tap` at the end."""

    def __init__(
        self, mechanisms: Iterable[Mechanism] = (), tap: Tap | None = None, place: Place | None = None
    ) -> None:
        self.tap = tap
        heard = [Listener(tap, place or Place())] if tap is not None else []
        self._mechanisms: tuple[Mechanism, ...] = (*mechanisms, *heard)

    @property
    def is_empty(self) -> bool:
        """Return True if everything leaves as it is, and no tap listens."""
        return not self._mechanisms

    def sums(self, values: Floats, at: SumsPlace) -> Floats:
        """Return the sums or errors that leave, float32 [rows, neurons, ...]."""
        for mechanism in self._mechanisms:
            values = mechanism.sums(values, at)
        return values

    def weights(self, indices: Indices, values: Floats, number: int) -> Floats:
        """Return the values that are uploaded in round `number`, float32 [weights]."""
        for mechanism in self._mechanisms:
            values = mechanism.weights(indices, values, number)
        return values

    def metrics(self, metrics: Metrics) -> Metrics | None:
        """Return the report that leaves after a mini-batch; None if none does."""
        left: Metrics | None = metrics
        for mechanism in self._mechanisms:
            left = None if left is None else mechanism.metrics(left)
        return left


def outgoing_of(asked: Iterable[pb.Mechanism], place: Place, tap: Tap | None = None) -> Outgoing:
    """Return the chain of the mechanisms that a run names.

    Raises WireError if this device lacks one of them, or one of its settings.
    """
    mechanisms = []
    for each in asked:
        kind = MECHANISMS.get(each.name)
        if kind is None:
            known = ", ".join(sorted(MECHANISMS))
            raise WireError(
                f"the run requires mechanism {each.name[:80]!r}, this device has {known}; update the older"
            )
        mechanisms.append(kind(dict(each.settings), place))
    return Outgoing(mechanisms, tap, place)
