"""A limit on a phone's silence: what moves may take any time, what stands still is given up."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from crowdlearn_host.adb.wire.stream import ByteStream, Connection
from crowdlearn_host.adb.wire.streams import WINDOW_BYTES
from crowdlearn_host.errors import FleetError

SILENCE_SECONDS = 60.0
"""On the slowest virtual link a megabyte, the most that goes in one message, takes 17 s."""


class Watched:
    """A stream of which every read and write raises TimeoutError if the phone is silent."""

    def __init__(self, stream: ByteStream) -> None:
        self.service = stream.service
        self._stream = stream

    async def read(self) -> bytes:
        """Return the next bytes; b"" when the other end has closed. Raises TimeoutError, FleetError."""
        async with asyncio.timeout(SILENCE_SECONDS):
            return await self._stream.read()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`. Raises TimeoutError, FleetError."""
        async with asyncio.timeout(SILENCE_SECONDS):
            await self._stream.write(data)

    async def drain(self) -> None:
        """Wait until what was written is with the other end. Raises TimeoutError."""
        async with asyncio.timeout(SILENCE_SECONDS):
            await self._stream.drain()

    async def close(self) -> None:
        """Send what was written, then close both directions. Raises TimeoutError."""
        async with asyncio.timeout(SILENCE_SECONDS):
            await self._stream.close()

    def abort(self) -> None:
        """Close at once."""
        self._stream.abort()


async def opened(connection: Connection, service: str, window: int = WINDOW_BYTES) -> ByteStream:
    """Return a stream to a service of the phone (see Connection.open). Raises TimeoutError, StreamRefused,
    FleetError.
    """
    async with asyncio.timeout(SILENCE_SECONDS):
        return await connection.open(service, window)


@contextmanager
def silence_reported(serial: str, work: str) -> Iterator[None]:
    """Raise FleetError with what to do where the phone was silent during `work`."""
    try:
        yield
    except TimeoutError as error:
        raise FleetError(
            f"{serial} stopped answering: nothing for {SILENCE_SECONDS:.0f} s during {work}; "
            "wake the phone, look at its cable or Wi-Fi, and try again"
        ) from error
