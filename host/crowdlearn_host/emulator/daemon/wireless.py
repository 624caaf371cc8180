"""The phone's end of wireless debugging: a connection that goes on over TLS before anything is served."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import ssl
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from crowdlearn_host.adb.carriers.wireless import TLS_VERSION, key_certificate
from crowdlearn_host.adb.wire.messages import HEADER_BYTES, Command, Decoder, Message, encode_header
from crowdlearn_host.emulator.daemon.keys import KeyStore
from crowdlearn_host.errors import FleetError

START = b"STLS"
HANDSHAKE = b"\x16"
"""The kind of TLS's first record."""
_PEER, _FAIL_IF_NONE = 1, 2
_VERIFY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_ANY = _VERIFY(lambda fits, store: 1)
"""Takes every certificate, as adb's daemon does: the key in it is looked at after the handshake."""


def server_context() -> ssl.SSLContext:
    """Return TLS for a phone, with a key that it makes for itself. Raises RuntimeError if this is not
    CPython.
    """
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    with tempfile.TemporaryDirectory(prefix="crowdlearn-") as folder:
        file = Path(folder) / "pair.pem"
        file.write_bytes(private + key_certificate(key))
        context.load_cert_chain(file)
    _ask_for_any_certificate(context)
    return context


def _ask_for_any_certificate(context: ssl.SSLContext) -> None:
    """Have the other side show any certificate: Python's ssl takes those of known issuers alone, and these
    have none.
    """
    if sysconfig.get_config_var("Py_GIL_DISABLED") or not hasattr(_ssl, "__file__"):
        raise RuntimeError("wireless phones need CPython with a shared ssl module")
    library = ctypes.CDLL(_ssl.__file__)
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    library.SSL_CTX_set_verify.argtypes = [ctypes.c_void_p, ctypes.c_int, _VERIFY]
    library.SSL_CTX_set_verify.restype = None
    library.SSL_CTX_set_verify(pointer, _PEER | _FAIL_IF_NONE, _ANY)


class Inner(Protocol):
    """The daemon behind TLS, an asyncio.BufferedProtocol."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def get_buffer(self, sizehint: int) -> memoryview: ...

    def buffer_updated(self, nbytes: int) -> None: ...

    def admit(self, greeting: Message) -> None:
        """Go on as with a computer whose key was verified."""
        ...


class WirelessDoor(asyncio.Protocol):
    """One connection until TLS stands and the key in the computer's certificate is known, then around it."""

    def __init__(
        self, context: ssl.SSLContext, keys: KeyStore, make: Callable[[], Inner], *, accept: bool
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._keys, self._make, self._accept = keys, make, accept
        self._decoder = Decoder()
        self._greeting: Message | None = None
        self._clear = b""
        self._secure = self._owes_start = False
        self._inner: Inner | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            rest = self._without_start(data) if self._secure else self._begin(data)
            if self._secure:
                self._incoming.write(rest)
                self._advance()
        except (FleetError, ssl.SSLError, ValueError):
            self._flush()
            assert self._transport
            self._transport.close()

    def _begin(self, data: bytes) -> bytes:
        """Take what comes in the clear; return what belongs to TLS, once that has begun."""
        if self._greeting is None:
            messages = list(self._decoder.feed(data))
            if messages and messages[0].command != Command.CNXN:
                raise FleetError(f"{messages[0].command.name} where CNXN was due")
            if messages:
                self._greeting = messages[0]
                self._say(Message(Command.STLS, TLS_VERSION, 0))
            return b""
        self._clear += data
        self._secure = self._clear[:1] == HANDSHAKE or len(self._clear) >= HEADER_BYTES
        if not self._secure:
            return b""
        rest, self._clear = self._clear, b""
        if rest[:1] != HANDSHAKE:
            (start,) = Decoder().feed(rest[:HEADER_BYTES])
            if start.command != Command.STLS:
                raise FleetError(f"{start.command.name} where STLS was due")
            return rest[HEADER_BYTES:]
        self._owes_start = True
        return rest

    def _without_start(self, data: bytes) -> bytes:
        """Leave out an STLS that comes late: adb sends it and TLS's first record from two threads."""
        if self._owes_start and data[:4] == START:
            self._owes_start = False
            return data[HEADER_BYTES:]
        return data

    def _say(self, message: Message) -> None:
        assert self._transport
        self._transport.write(encode_header(message, with_checksum=True) + message.payload)

    def _advance(self) -> None:
        try:
            if self._inner is None:
                self._tls.do_handshake()
                self._admit()
            while True:
                plain = self._tls.read(1 << 16)
                if not plain:
                    break
                self._give(self._without_start(plain))
        except ssl.SSLWantReadError:
            pass
        finally:
            self._flush()

    def _admit(self) -> None:
        certificate = x509.load_der_x509_certificate(self._tls.getpeercert(binary_form=True) or b"")
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey) or not (self._accept or self._keys.knows(key)):
            raise FleetError("a computer that is not paired")
        assert self._greeting is not None
        self._inner = self._make()
        self._inner.connection_made(_Tunnel(self))
        self._inner.admit(self._greeting)

    def _give(self, plain: bytes) -> None:
        assert self._inner is not None
        while plain:
            buffer = self._inner.get_buffer(len(plain))
            part = plain[: len(buffer)]
            buffer[: len(part)] = part
            self._inner.buffer_updated(len(part))
            plain = plain[len(part) :]

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send plain bytes of the daemon."""
        if len(data):
            self._tls.write(data)
            self._flush()

    def _flush(self) -> None:
        if self._transport is not None and (data := self._outgoing.read()):
            self._transport.write(data)

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def extra(self, name: str, default: Any) -> Any:
        return default if self._transport is None else self._transport.get_extra_info(name, default)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner is not None:
            self._inner.connection_lost(exc)


class _Tunnel(asyncio.Transport):
    """The transport that the daemon writes to."""

    def __init__(self, door: WirelessDoor) -> None:
        super().__init__()
        self._door = door

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._door.send(data)

    def abort(self) -> None:
        self._door.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._door.extra(name, default)
