"""Who gets in: the handshake of a virtual phone, and what it makes of an APK, as pure functions of bytes."""

import io
import os
import struct
import zipfile
from pathlib import Path

import pytest
from crowdlearn_host.adb.carriers.keys import load_signer
from crowdlearn_host.adb.wire.messages import Command, Message, ProtocolError
from crowdlearn_host.emulator.commands.apk import ApkError, manifest_package, package_name
from crowdlearn_host.emulator.daemon.handshake import Handshake
from crowdlearn_host.emulator.daemon.keys import KeyStore, parse_public_key
from hypothesis import given
from hypothesis import strategies as st

from tests.host.emulator.apks import apk, manifest

TOKEN, SIGNATURE, PUBLIC_KEY = 1, 2, 3
GREETING = Message(Command.CNXN, 0x01000001, 1 << 20, b"host::\0")


def handshake(folder: Path, *, auto_accept: bool = False) -> Handshake:
    return Handshake(KeyStore(folder / "keys"), "", new_token=lambda: os.urandom(20), auto_accept=auto_accept)


def test_a_trusted_key_gets_in_with_its_signature(tmp_path: Path, key: Path) -> None:
    signer = load_signer(key)
    first = handshake(tmp_path)
    (challenge,) = first.receive(GREETING)
    assert (challenge.command, challenge.arg0) == (Command.AUTH, TOKEN)
    (again,) = first.receive(Message(Command.AUTH, SIGNATURE, 0, signer.Sign(challenge.payload)))
    assert again.payload != challenge.payload
    assert first.receive(Message(Command.AUTH, PUBLIC_KEY, 0, signer.GetPublicKey() + b"\0")) == []
    assert not first.online
    (welcome,) = first.accept()
    assert (welcome.command, first.online) == (Command.CNXN, True)

    second = handshake(tmp_path)
    (challenge,) = second.receive(GREETING)
    (welcome,) = second.receive(Message(Command.AUTH, SIGNATURE, 0, signer.Sign(challenge.payload)))
    assert welcome.command == Command.CNXN


def test_a_signature_of_an_older_challenge_is_refused(tmp_path: Path, key: Path) -> None:
    signer = load_signer(key)
    KeyStore(tmp_path / "keys").trust(signer.GetPublicKey())
    phone = handshake(tmp_path)
    (old,) = phone.receive(GREETING)
    phone.receive(GREETING)
    phone.receive(Message(Command.AUTH, SIGNATURE, 0, signer.Sign(old.payload)))
    assert not phone.online


payloads = st.one_of(st.binary(max_size=300), st.just(b"QUFBQQ== user@host\0"))
unsigned = st.builds(
    Message, st.sampled_from(Command), st.integers(0, 4), st.sampled_from([0, 4096, 1 << 20]), payloads
)


@given(st.lists(unsigned, max_size=10))
def test_nobody_gets_in_without_a_key(tmp_path_factory: pytest.TempPathFactory, sent: list[Message]) -> None:
    phone = handshake(tmp_path_factory.getbasetemp(), auto_accept=True)
    try:
        for message in sent:
            phone.receive(message)
    except ProtocolError:
        pass
    assert not phone.online


@given(st.binary(max_size=800))
def test_noise_is_no_key(line: bytes) -> None:
    assert parse_public_key(line) is None


@pytest.mark.parametrize("utf8", [True, False])
def test_the_package_of_an_apk_is_read(utf8: bool) -> None:
    assert manifest_package(manifest("org.example.demo", utf8=utf8)) == "org.example.demo"
    assert package_name(io.BytesIO(apk("org.example.demo"))) == "org.example.demo"


@given(st.binary(max_size=600), st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_apk_is_refused(noise: bytes, at: int, byte: int) -> None:
    with pytest.raises(ApkError):
        package_name(io.BytesIO(noise))
    damaged = bytearray(manifest("org.example.demo"))
    damaged[at % len(damaged)] = byte
    try:
        manifest_package(bytes(damaged))
    except (ApkError, struct.error, UnicodeDecodeError):
        return


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_apk_whose_packed_manifest_is_damaged_is_read_or_refused(method: int) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("AndroidManifest.xml", manifest("org.example.demo"))
    content = file.getvalue()
    start = content.index(b"AndroidManifest.xml") + len("AndroidManifest.xml")
    for at in range(start, start + 40):
        damaged = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
        try:
            assert package_name(io.BytesIO(damaged)) == "org.example.demo"  # not every byte says something
        except ApkError:
            continue
