"""A generation before it works: whose keys it needs, and who has its state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.state.piece_state import Neurons

from .restore_points import RestorePoint


@dataclass(frozen=True)
class Forming:
    """The forming of a generation. Pieces go from those `providing` them as they were at the `point` (None:
    the server's model is the state) to the `holders`, or to `keepers` who take all of them. `providing` has
    by piece which device provides it, and whether from a stored snapshot.
    """

    holders: tuple[int, ...] = ()
    keepers: tuple[int, ...] = ()
    point: RestorePoint | None = None
    providing: tuple[tuple[int, bool], ...] = ()
    helping: tuple[tuple[int, int], ...] = ()
    """Heirs that open a stored snapshot together with its provider, and its piece."""
    offers: Mapping[int, pb.KeyOffer] = field(default_factory=dict)
    ready: frozenset[int] = frozenset()

    @property
    def receivers(self) -> set[int]:
        """Return devices that wait for state before they are ready."""
        return set(self.keepers or self.holders)

    @property
    def participants(self) -> set[int]:
        """Return devices whose keys are needed."""
        giving = (*self.providing, *self.helping)
        return {*self.receivers, *(device for device, _ in giving)}

    @property
    def keyed(self) -> bool:
        """Return True if every key is here."""
        return self.participants <= set(self.offers)

    @property
    def complete(self) -> bool:
        """Return True if every device has its state."""
        return self.ready == self.receivers

    @property
    def late(self) -> set[int]:
        """Return devices that have not sent what is due."""
        return self.participants - set(self.offers) or self.receivers - self.ready

    def due(self, layout: Layout) -> Iterable[tuple[int, tuple[Neurons, ...]]]:
        """Return which device takes which neurons of each layer, where the server's model is the state."""
        if self.keepers:
            return [(keeper, piece) for keeper in self.keepers for piece in layout]
        return zip(self.holders, layout, strict=True)

    def offered(self, offer: pb.KeyOffer) -> Forming:
        return replace(self, offers={**self.offers, offer.device: offer})

    def with_ready(self, device: int) -> Forming:
        return replace(self, ready=self.ready | {device})
