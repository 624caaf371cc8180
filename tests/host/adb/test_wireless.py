"""Wireless debugging without an adb server: TLS with the adb key, and phones that are not paired."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.carriers.keys import load_signer
from crowdlearn_host.adb.carriers.wireless import NotPaired
from crowdlearn_host.adb.wire.messages import Command, Decoder, Message, encode_header
from crowdlearn_host.errors import FleetError

from tests.host.adb.test_carriers import check
from tests.host.conftest import STAND_IN
from tests.host.emulator.test_clients import CLIENTS, Client


@pytest.fixture(scope="module")
def wireless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[phones.PhoneInfo]:
    home = tmp_path_factory.mktemp("home")
    with phones.running(1, home, programs=STAND_IN, preload=(), wireless=True) as (info,):
        yield info


async def test_a_phone_that_knows_the_key_carries_everything(wireless: phones.PhoneInfo, key: Path) -> None:
    async with await AdbDevice.connect(wireless.serial, key=key) as device:
        await check(device)


async def test_an_unpaired_phone_says_how_to_pair(wireless: phones.PhoneInfo, tmp_path: Path) -> None:
    other = tmp_path / "other"
    load_signer(other)
    with pytest.raises(NotPaired, match=r"is not paired with this computer.*adb pair HOST:PORT CODE"):
        await AdbDevice.connect(wireless.serial, key=other)


def test_a_newer_adb_speaks_with_it(wireless: phones.PhoneInfo, tmp_path: Path, key: Path) -> None:
    """The phone's TLS is not only what our own carrier expects of it."""
    program, reason = CLIENTS["wheel"]
    if program is None:
        pytest.skip(reason)
    client = Client(program, key.parents[1], wireless.serial)  # over TLS adb shows its own key alone
    client.connect()
    try:
        assert client("shell", "echo out; exit 3").stdout == b"out\n"
        (tmp_path / "file").write_bytes(bytes(3_000_000))
        client("push", str(tmp_path / "file"), "/data/local/tmp/big")
        assert b"3000000" in client("shell", "wc -c /data/local/tmp/big").stdout
    finally:
        client("kill-server", device=False)


@pytest.mark.parametrize(
    "said",
    [
        encode_header(Message(Command.OPEN, 1, 0), with_checksum=True),
        encode_header(Message(Command.STLS, 1 << 24, 0), with_checksum=True),
        b"GET / HTTP/1.1\r\nHost: phone\r\n\r\n" * 4,
    ],
)
def test_whoever_says_nonsense_is_hung_up_on(wireless: phones.PhoneInfo, said: bytes) -> None:
    host, _, port = wireless.serial.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(said)
        assert sock.recv(100) == b""


def test_a_computer_without_a_certificate_is_hung_up_on(wireless: phones.PhoneInfo) -> None:
    host, _, port = wireless.serial.partition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    greeting = Message(Command.CNXN, 0x01000001, 1 << 20, b"host::\0")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(encode_header(greeting, with_checksum=True) + greeting.payload)
        (answer,) = Decoder().feed(sock.recv(24))
        assert answer.command == Command.STLS
        sock.sendall(encode_header(Message(Command.STLS, 1 << 24, 0), with_checksum=True))
        with pytest.raises((ssl.SSLError, OSError)), context.wrap_socket(sock) as secure:
            if not secure.recv(100):
                raise ConnectionResetError


async def test_an_address_where_nobody_listens_is_told(key: Path) -> None:
    with pytest.raises(FleetError, match="cannot be reached"):
        await AdbDevice.connect("127.0.0.1:1", key=key)
