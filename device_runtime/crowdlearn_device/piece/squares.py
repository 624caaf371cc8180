"""The squared norms of all pieces' gradients, by which a mini-batch is clipped."""

from __future__ import annotations

from math import isfinite

from crowdlearn_device.errors import WireError


class Squares:
    """One number of each piece for each mini-batch under way, and own ones that wait to be sent."""

    def __init__(self, pieces: int, index: int) -> None:
        self._pieces, self._index = pieces, index
        self._known: dict[int, dict[int, float]] = {}
        self._outgoing: list[tuple[int, float]] = []

    def tell(self, step: int, value: float) -> None:
        """Enter this piece's own."""
        self.put(self._index, step, value)
        if self._pieces > 1:
            self._outgoing.append((step, value))

    def put(self, piece: int, step: int, value: float) -> None:
        """Enter that of a piece. Raises WireError if it came twice or is no square."""
        known = self._known.setdefault(step, {})
        if piece in known:
            raise WireError(f"the norm of piece {piece} at step {step} came twice")
        if value < 0 or (piece != self._index and not isfinite(value)):
            raise WireError(f"the squared norm of piece {piece} at step {step} is {value}; training diverged")
        known[piece] = value

    def take_messages(self) -> list[tuple[int, float]]:
        """Return what waits to be sent, once."""
        messages, self._outgoing = self._outgoing, []
        return messages

    def complete(self, step: int) -> bool:
        """Return whether those of all pieces are here."""
        return len(self._known.get(step, {})) == self._pieces

    def pop(self, step: int) -> list[float]:
        """Return a mini-batch's, in the order of pieces, and forget them."""
        return [value for _, value in sorted(self._known.pop(step).items())]
