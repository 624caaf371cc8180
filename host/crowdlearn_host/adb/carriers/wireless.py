"""Wireless debugging (Android 11 and newer): adb over TLS, without an adb server.

The phone answers CNXN with STLS. Both sides go on with TLS 1.3, in which the computer shows a certificate of
its adb key; a phone that is paired with that key says CNXN then. The phone's certificate says nothing: adb
itself takes any, for pairing told the phone about the computer and not the other way round. Pairing
(SPAKE2 with a six-digit code) is not spoken here: `adb pair` does it once.
"""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from crowdlearn_host.adb.carriers.keys import load_signer
from crowdlearn_host.adb.wire.messages import (
    HEADER_BYTES,
    MAX_PAYLOAD,
    VERSION,
    Command,
    Decoder,
    Message,
    ProtocolError,
    encode_header,
)
from crowdlearn_host.errors import FleetError

TLS_VERSION = 0x01000000
MAX_GREETING = 1 << 14
_DAYS = 3650


class NotPaired(FleetError):
    """The phone does not know this computer's key."""


def key_certificate(key: RSAPrivateKey) -> bytes:
    """Return a certificate of an adb key that it signs itself, as adb makes it; PEM."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Android"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Adb"),
        ]
    )
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def client_context(path: Path) -> ssl.SSLContext:
    """Return TLS for a computer with the adb key at `path`. Raises FleetError if the key cannot be used."""
    key = load_signer(path).rsa_key
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with tempfile.TemporaryDirectory(prefix="crowdlearn-") as folder:  # ssl reads files alone
        file = Path(folder) / "pair.pem"
        file.touch(mode=0o600)
        file.write_bytes(private + key_certificate(key))
        context.load_cert_chain(file)
    return context


async def connect_wireless(
    address: tuple[str, int], serial: str, key: Path, features: str, timeout: float
) -> tuple[asyncio.Transport, Message]:
    """Return an open connection to a phone that requires TLS, and its greeting. Raises FleetError with what
    to do.
    """
    context = client_context(key)
    try:
        async with asyncio.timeout(timeout):
            sock = await _until_tls(address, features)
            try:
                transport, greeting = await asyncio.get_running_loop().create_connection(
                    _Greeting, sock=sock, ssl=context, server_hostname=address[0]
                )
            except BaseException:
                sock.close()
                raise
            try:
                return transport, await greeting.message
            except BaseException:
                transport.abort()
                raise
    except (ssl.SSLError, ConnectionError) as error:
        # TLS 1.3: a client learns only then that its certificate was refused.
        raise NotPaired(
            f"{serial} requires wireless debugging and is not paired with this computer. Pair it once, by an "
            "adb of version 30 or newer, with address and code from Developer options, Wireless debugging, "
            f"Pair device with pairing code: `adb pair HOST:PORT CODE`. It has to be with the key {key}"
        ) from error
    except (OSError, TimeoutError, ProtocolError) as error:
        raise FleetError(f"{serial} does not answer over TLS: {error or 'it is silent'}") from error


class _Greeting(asyncio.Protocol):
    """A protocol that waits for the message with which a phone greets a computer that it trusts."""

    def __init__(self) -> None:
        self.message: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._said = b""

    def data_received(self, data: bytes) -> None:
        self._said += data
        length = HEADER_BYTES + int.from_bytes(self._said[12:16], "little")
        try:
            if length > MAX_GREETING or len(self._said) > length:
                raise ProtocolError("its greeting is too long")
            if len(self._said) == length and not self.message.done():
                (message,) = Decoder().feed(self._said)
                if message.command != Command.CNXN:
                    raise ProtocolError(f"{message.command.name} where CNXN was due")
                self.message.set_result(message)
        except ProtocolError as error:
            if not self.message.done():
                self.message.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.message.done():
            self.message.set_exception(exc or ConnectionResetError("it closed the connection"))


async def _until_tls(address: tuple[str, int], features: str) -> socket.socket:
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
    family, kind, protocol, _, place = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, place)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greeting = Message(Command.CNXN, VERSION, MAX_PAYLOAD, f"host::features={features}".encode())
        await loop.sock_sendall(sock, encode_header(greeting, with_checksum=True) + greeting.payload)
        header = b""
        while len(header) < HEADER_BYTES:
            part = await loop.sock_recv(sock, HEADER_BYTES - len(header))
            if not part:
                raise ProtocolError("it closed the connection")
            header += part
        (answer,) = Decoder().feed(header)
        if answer.command != Command.STLS:
            raise ProtocolError(f"{answer.command.name} where STLS was due")
        start = Message(Command.STLS, TLS_VERSION, 0)
        await loop.sock_sendall(sock, encode_header(start, with_checksum=True))
    except BaseException:
        sock.close()
        raise
    return sock
