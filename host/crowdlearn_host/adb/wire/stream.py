"""What is needed of a connection, with either carrier: our multiplexer or an adb server."""

from typing import Protocol

from crowdlearn_host.adb.wire.streams import WINDOW_BYTES


class ByteStream(Protocol):
    """Bytes to and from a service of the phone."""

    service: str

    async def read(self) -> bytes:
        """Return the next bytes; b"" when the other end has closed. Raises FleetError if the connection is
        lost.
        """
        ...

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`. Raises FleetError when the stream is closed."""
        ...

    async def drain(self) -> None:
        """Wait until what was written is with the other end, as far as the carrier can tell."""
        ...

    async def close(self) -> None:
        """Send what was written, then close both directions."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class Connection(Protocol):
    """A way to open streams to one phone."""

    max_payload: int

    async def open(self, service: str, window: int = WINDOW_BYTES) -> ByteStream:
        """Return a stream to a service of the phone, which has about `window` bytes on their way where both
        ends count bytes. Raises StreamRefused, FleetError.
        """
        ...

    @property
    def lost(self) -> str | None:
        """Return why the connection ended; None while it lives."""
        ...

    def raise_if_lost(self) -> None:
        """Raise FleetError if the connection is gone."""
        ...

    async def close(self) -> None:
        """Close the connection and every stream on it."""
        ...
