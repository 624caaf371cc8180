"""Phones behind an adb server, which holds USB devices, phones paired over Wi-Fi, and connected ones."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar
from weakref import WeakSet

from crowdlearn_host.adb.carriers.blocking import in_own_thread
from crowdlearn_host.adb.carriers.mux import PUMP_BYTES, StreamRefused
from crowdlearn_host.adb.carriers.silence import SILENCE_SECONDS
from crowdlearn_host.adb.wire.messages import MAX_PAYLOAD
from crowdlearn_host.adb.wire.streams import WINDOW_BYTES
from crowdlearn_host.errors import FleetError

DEFAULT_PORT = 5037
ANSWER_SECONDS = 10.0

T = TypeVar("T")


@dataclass(frozen=True)
class ServerDevice:
    """A line of `adb devices`."""

    serial: str
    state: str

    @property
    def usable(self) -> bool:
        """Return True if the phone is neither offline nor waiting for its owner."""
        return self.state == "device"


def server_port() -> int:
    """Return the port of the user's adb server: ANDROID_ADB_SERVER_PORT, else 5037."""
    port = os.environ.get("ANDROID_ADB_SERVER_PORT", "")
    return int(port) if port.isdigit() else DEFAULT_PORT


def server_runs(port: int) -> bool:
    """Return whether something listens where the adb server would; never starts one, which would take the
    USB.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def server_devices(port: int) -> list[ServerDevice]:
    """Return the phones an adb server has; none without a server or without adbutils. Raises FleetError."""
    if find_spec("adbutils") is None or not server_runs(port):
        return []
    client = _client(port)
    try:
        return [ServerDevice(item.serial, item.state) for item in client.list()]
    except Exception as error:
        raise FleetError(f"the adb server on port {port} does not answer as one: {error}") from error


class ServerStream:
    """A stream that an adb server carries: one socket each."""

    def __init__(self, sock: socket.socket, service: str, raise_if_lost: Callable[[], None]) -> None:
        self.service = service
        self._sock = sock
        self._raise_if_lost = raise_if_lost
        self._waiting = 0
        self._ended = self._hung_up = False

    async def read(self) -> bytes:
        """Return the next bytes; b"" when either end has closed. Raises FleetError if the connection is
        lost.
        """
        if self._ended:
            return b""
        try:
            data = await self._wait(asyncio.get_running_loop().sock_recv(self._sock, PUMP_BYTES))
        except OSError as error:
            self._raise_if_lost()
            raise FleetError(f"adb stream {self.service!r} was lost: {error}") from error
        if not data and not self._ended:
            self._raise_if_lost()
            self._ended = True
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`. Raises FleetError when the stream is closed."""
        try:
            await self._wait(asyncio.get_running_loop().sock_sendall(self._sock, data))
        except OSError as error:
            raise FleetError(f"adb stream {self.service!r} was closed during a write: {error}") from error

    async def drain(self) -> None:
        """Wait for nothing: the server has taken what was written."""

    async def close(self) -> None:
        """Close both directions."""
        self.abort()

    def abort(self) -> None:
        """Close both directions; who reads finds the end, who writes an error."""
        self._ended = True
        self.hang_up()

    def hang_up(self) -> None:
        """Close both directions once no task waits, which this wakes. Closing the socket under them would not
        wake them, and its number in the event loop may be another's by then.
        """
        self._hung_up = True
        with suppress(OSError):  # the other end may have been faster
            self._sock.shutdown(socket.SHUT_RDWR)
        if not self._waiting:
            self._sock.close()

    async def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        self._waiting += 1
        try:
            return await call
        finally:
            self._waiting -= 1
            if self._hung_up and not self._waiting:
                self._sock.close()


class ServerConnection:
    """One phone behind an adb server, reached through adbutils."""

    def __init__(self, serial: str, port: int) -> None:
        self.max_payload = MAX_PAYLOAD
        self.lost: str | None = None
        self._serial = serial
        self._port = port
        self._streams: WeakSet[ServerStream] = WeakSet()

    async def features(self) -> frozenset[str]:
        """Return what the phone's daemon can do. Raises FleetError."""
        return frozenset((await in_own_thread(self._features)).split(","))

    async def open(self, service: str, window: int = WINDOW_BYTES) -> ServerStream:
        """Return a stream to a service of the phone, with the server's own window. Raises TimeoutError,
        StreamRefused, FleetError.
        """
        self.raise_if_lost()
        sock = await in_own_thread(self._dial, service)
        stream = ServerStream(sock, service, self.raise_if_lost)
        if self.lost is not None:
            stream.abort()
            self.raise_if_lost()
        self._streams.add(stream)
        return stream

    def raise_if_lost(self) -> None:
        """Raise FleetError after close."""
        if self.lost is not None:
            raise FleetError(f"the adb connection was lost: {self.lost}; reconnect")

    async def close(self) -> None:
        """Close every stream; the server keeps its connection to the phone."""
        self.lost = "closed by this side"
        for stream in list(self._streams):
            stream.hang_up()

    def _features(self) -> str:
        self._see_that_it_runs()
        try:
            return str(_client(self._port).device(self._serial).get_features())
        except Exception as error:
            raise FleetError(f"{self._serial}: the adb server answers: {error}") from error

    def _see_that_it_runs(self) -> None:
        """Raise FleetError if the server is gone: adbutils would start another one, which takes the USB."""
        if not server_runs(self._port):
            raise FleetError(
                f"{self._serial}: the adb server on port {self._port} is gone; start it: adb start-server"
            )

    def _dial(self, service: str) -> socket.socket:
        errors = import_module("adbutils.errors")
        self._see_that_it_runs()
        try:
            line = _client(self._port).make_connection(timeout=ANSWER_SECONDS)
            line.send_command(f"host:transport:{self._serial}")
            line.check_okay()
        except (errors.AdbError, OSError) as error:
            raise FleetError(f"{self._serial}: the adb server answers: {error}") from error
        try:
            line.conn.settimeout(SILENCE_SECONDS)  # from here on it is the phone that answers
            line.send_command(service)
            line.check_okay()
        except errors.AdbTimeout as error:
            line.close()
            raise TimeoutError from error
        except (errors.AdbError, OSError) as error:
            line.close()
            raise StreamRefused(f"the phone does not offer {service!r}: {error}") from error
        # The socket lives on without adbutils, which would close it with its connection object.
        sock: socket.socket = line.conn.dup()
        line.conn.close()
        sock.setblocking(False)
        return sock


def _client(port: int) -> Any:
    return import_module("adbutils").AdbClient(host="127.0.0.1", port=port, socket_timeout=ANSWER_SECONDS)
