"""One sharing round: updates arrive in chunks, and each is checked before it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from crowdlearn_device.errors import WireError
from crowdlearn_device.sharing.update import Limits, Update, decode_update
from numpy.typing import NDArray

from crowdlearn_host.errors import UpdateRefused

from .window import check_update


class Sink(Protocol):
    """The receiver of updates: a Window, or an object that keeps them for one."""

    def __len__(self) -> int: ...

    def apply(self, update: Update) -> None: ...


class SharingRound:
    """The chunks of one round's updates, checked and handed to `window` in the order in which they arrive:
    the server's keeps them until the group's round is committed.

    `owned` says which weights each device is responsible for (a boolean per weight of the model); a device
    uploads a weight at most once a round. A refused chunk changes nothing: a right one may follow it.
    """

    def __init__(
        self, window: Sink, number: int, owned: Mapping[int, NDArray[np.bool_]], max_weights: int
    ) -> None:
        self._window = window
        self._number = number
        self._open = {owner: weights.copy() for owner, weights in owned.items()}
        self._limits = Limits(len(window), max_weights)

    def receive(self, sender: int, data: bytes) -> Update:
        """Decode a chunk that came from device `sender`, checks and applies it, and returns it.

        Raises UpdateRefused with the reason.
        """
        try:
            update = decode_update(data, self._limits)
        except WireError as error:
            raise UpdateRefused(sender, str(error)) from error
        if update.owner != sender:
            raise UpdateRefused(sender, f"it is signed by device {update.owner}")
        self._apply(update)
        return update

    def _apply(self, update: Update) -> None:
        if update.owner not in self._open:
            raise UpdateRefused(update.owner, f"it has no part in round {self._number}")
        if update.round != self._number:
            raise UpdateRefused(
                update.owner, f"it is of round {update.round}, and round {self._number} is open"
            )
        check_update(update, len(self._window))
        still = self._open[update.owner]
        taken = still[update.indices]
        if not taken.all():
            index = int(update.indices[np.argmin(taken)])
            raise UpdateRefused(
                update.owner, f"weight {index} is not its own, or was uploaded already this round"
            )
        self._window.apply(update)
        still[update.indices] = False
