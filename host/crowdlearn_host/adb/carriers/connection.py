"""Connect and authenticate through adb-shell, then hand the socket to the multiplexer."""

import asyncio
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from adb_shell.adb_device import AdbDevice as AdbShellDevice
from adb_shell.exceptions import (
    AdbConnectionError,
    AdbTimeoutError,
    DeviceAuthError,
    InvalidChecksumError,
    InvalidCommandError,
    InvalidResponseError,
    TcpTimeoutException,
    UsbDeviceNotFoundError,
    UsbReadFailedError,
    UsbWriteFailedError,
)
from adb_shell.transport.base_transport import BaseTransport
from adb_shell.transport.tcp_transport import TcpTransport

from crowdlearn_host.adb.carriers.blocking import in_own_thread
from crowdlearn_host.adb.carriers.bridge import bridge
from crowdlearn_host.adb.carriers.keys import default_key_path, load_signer
from crowdlearn_host.adb.carriers.mux import Mux
from crowdlearn_host.adb.carriers.wireless import connect_wireless
from crowdlearn_host.adb.wire.messages import HEADER_BYTES, VERSION, Command, Decoder, Message, ProtocolError
from crowdlearn_host.adb.wire.streams import DELAYED_ACK
from crowdlearn_host.common.asking import ASKED
from crowdlearn_host.errors import FleetError

CONNECT_SECONDS = 10.0
ACCEPT_SECONDS = 30.0
MAX_HANDSHAKE = 1 << 16
MIN_PAYLOAD = 4096
CONNECT = Command.CNXN.to_bytes(4, "little")
START_TLS = Command.STLS.to_bytes(4, "little")
FEATURES = f"shell_v2,cmd,stat_v2,ls_v2,{DELAYED_ACK},fixed_push_mkdir"
"""The features of this end. adb-shell puts a zero behind the last one, so phones do not know that one."""


class OffersTls(FleetError):
    """The phone goes on over TLS only."""


class FullSendTransport(TcpTransport):  # type: ignore[misc]
    """A TCP transport of adb-shell that sends all it is given, without Nagle, and sees the end of a
    stream.
    """

    _connection: socket.socket | None

    def connect(self, transport_timeout_s: float | None) -> None:
        super().connect(transport_timeout_s)
        assert self._connection
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        data: bytes = super().bulk_read(numbytes, transport_timeout_s)
        if not data:
            raise ConnectionResetError("the phone closed the connection")
        return data

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        view = memoryview(data)
        while view:
            view = view[super().bulk_write(view, transport_timeout_s) :]
        return len(data)

    def detach(self) -> socket.socket:
        """Return the connected socket; the transport forgets it."""
        assert self._connection
        connection, self._connection = self._connection, None
        return connection


class HandshakeTap(BaseTransport):  # type: ignore[misc]
    """A tap between adb-shell and the wire during the handshake.

    It keeps what the device sends, because adb-shell drops the banner with its features. It announces
    protocol 0x01000001, because adb-shell names 0x01000000, which costs both ends a checksum of every
    payload.
    """

    def __init__(self, transport: BaseTransport) -> None:
        self._transport = transport
        self.said = bytearray()

    def connect(self, transport_timeout_s: float | None) -> None:
        self._transport.connect(transport_timeout_s)

    def close(self) -> None:
        self._transport.close()

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        room = MAX_HANDSHAKE - len(self.said)
        if numbytes > room:
            raise InvalidResponseError(f"it sends more than {MAX_HANDSHAKE} bytes before a connection stands")
        data: bytes = self._transport.bulk_read(numbytes, transport_timeout_s)
        self.said += data
        return data

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        is_connect = len(data) == HEADER_BYTES and data.startswith(CONNECT)
        sent = CONNECT + VERSION.to_bytes(4, "little") + data[8:] if is_connect else data
        return int(self._transport.bulk_write(sent, transport_timeout_s))

    def last_message(self) -> Message:
        """Return the last message of the device. Raises ProtocolError."""
        return list(Decoder().feed(bytes(self.said)))[-1]

    def offers_tls(self) -> bool:
        """Return whether the last header of the device, which adb-shell does not know, starts TLS."""
        return self.said[-HEADER_BYTES:].startswith(START_TLS)


@dataclass(frozen=True)
class Banner:
    """The banner of a device that accepts a connection."""

    version: int
    max_payload: int
    properties: dict[str, str] = field(default_factory=dict)
    features: frozenset[str] = frozenset()


def parse_banner(message: Message) -> Banner:
    """Return the fields of a CNXN message: `device::key=value;...;features=a,b`."""
    text = message.payload.rstrip(b"\0").decode(errors="replace")
    pairs = dict(re.findall(r"([\w.]+)=([^;]*)", text.partition("::")[2]))
    features = frozenset(filter(None, pairs.pop("features", "").split(",")))
    return Banner(message.arg0, message.arg1, pairs, features)


def parse_address(serial: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` or `HOST`. Raises FleetError."""
    host, _, port = serial.rpartition(":") if ":" in serial else (serial, "", "5555")
    host = host.strip("[]")
    if not _is_name(host) or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise FleetError(
            f"{serial!r} is not an address of a phone: write HOST:PORT, for example 192.168.1.20:5555"
        )
    return host, int(port)


def _is_name(host: str) -> bool:
    """Return whether the system can be asked for `host`: no empty label, none too long."""
    try:
        return bool(host.encode("idna")) and "\0" not in host
    except UnicodeError:
        return False


async def connect_tcp(
    serial: str,
    *,
    key: Path | None = None,
    timeout: float = CONNECT_SECONDS,
    accept_timeout: float = ACCEPT_SECONDS,
) -> tuple[Mux, Banner]:
    """Return an authenticated connection to the phone at HOST:PORT.

    `timeout` bounds every step but the answer on the phone's screen, which has `accept_timeout` seconds.
    A phone with wireless debugging is spoken to over TLS. Raises FleetError with what to do when the phone is
    away, refuses the key, or is not paired.
    """
    address = parse_address(serial)
    transport = FullSendTransport(*address)
    try:
        banner = await _authenticate(transport, serial, key, timeout, accept_timeout)
    except OffersTls:
        path = key or default_key_path()
        transport_over_tls, greeting = await connect_wireless(address, serial, path, FEATURES, timeout)
        banner = parse_banner(greeting)
        mux = _mux(banner)
        mux.connection_made(transport_over_tls)
        transport_over_tls.set_protocol(mux)
        return mux, banner
    return await _start(transport.detach(), banner), banner


async def connect_usb(serial: str, *, key: Path | None = None) -> tuple[Mux, Banner]:
    """Return an authenticated connection to the phone on a USB cable. Raises FleetError."""
    try:
        usb = import_module("adb_shell.transport.usb_transport")
        transport = await in_own_thread(usb.UsbTransport.find_adb, serial=serial)
    except ImportError as error:
        raise FleetError("USB needs libusb: pip install 'crowdlearn[usb]'") from error
    except UsbDeviceNotFoundError as error:
        raise FleetError(
            f"no phone {serial!r} on USB: is debugging on, and does no adb server hold it (adb kill-server)?"
        ) from error
    return await connect_blocking(transport, serial, key=key)


async def connect_blocking(
    transport: BaseTransport, serial: str, *, key: Path | None = None
) -> tuple[Mux, Banner]:
    """Return an authenticated connection over any blocking transport of adb-shell. Raises FleetError."""
    banner = await _authenticate(transport, serial, key, CONNECT_SECONDS, ACCEPT_SECONDS)
    return await _start(bridge(transport), banner), banner


async def _authenticate(
    transport: BaseTransport, serial: str, key: Path | None, timeout: float, accept_timeout: float
) -> Banner:
    tap = HandshakeTap(transport)
    try:
        return await in_own_thread(
            _handshake, tap, serial, key or default_key_path(), timeout, accept_timeout, ASKED.get()
        )
    except BaseException:
        transport.close()
        raise


async def _start(sock: socket.socket, banner: Banner) -> Mux:
    sock.setblocking(False)
    mux = _mux(banner)
    await asyncio.get_running_loop().create_connection(lambda: mux, sock=sock)
    return mux


def _mux(banner: Banner) -> Mux:
    mux = Mux()
    mux.max_payload = min(mux.max_payload, max(banner.max_payload, MIN_PAYLOAD))
    mux.expect_checksums(banner.version < VERSION)
    mux.count_bytes(DELAYED_ACK in banner.features)
    return mux


def _handshake(
    tap: HandshakeTap,
    serial: str,
    key: Path,
    timeout: float,
    accept_timeout: float,
    tell: Callable[[str], None],
) -> Banner:
    signer = load_signer(key)
    asked = False

    def ask(_: object) -> None:
        nonlocal asked
        asked = True
        tell(
            f"{serial} asks on its screen if it may be debugged: accept the key {key}.pub there "
            f"('Allow USB debugging?'), within {accept_timeout:g} s"
        )

    device = AdbShellDevice(tap, banner=f"features={FEATURES}")
    try:
        device.connect(
            rsa_keys=[signer],
            transport_timeout_s=timeout,
            auth_timeout_s=accept_timeout,
            read_timeout_s=timeout,
            auth_callback=ask,
        )
        return parse_banner(tap.last_message())
    except (TcpTimeoutException, AdbTimeoutError, ConnectionResetError, DeviceAuthError) as error:
        if asked:
            raise FleetError(
                f"{serial} does not trust the key {key}.pub: accept it on the phone's screen "
                "('Allow USB debugging?'), then connect again"
            ) from error
        raise FleetError(f"{serial} does not answer as an adb device: {error}") from error
    except (
        InvalidCommandError,
        InvalidChecksumError,
        InvalidResponseError,
        ProtocolError,
        ValueError,
    ) as error:
        if tap.offers_tls():
            raise OffersTls(
                f"{serial} offers wireless debugging, which goes over a network; connect to its address"
            ) from error
        raise FleetError(f"{serial} is not an adb device: {error}") from error
    except (OSError, AdbConnectionError, UsbReadFailedError, UsbWriteFailedError) as error:
        raise FleetError(
            f"{serial} cannot be reached: {error}; is it on, and is adb over TCP enabled?"
        ) from error
