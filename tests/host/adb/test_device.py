"""A host and a virtual phone over a real connection."""

import asyncio
import hashlib
import os
import shlex
import struct
import subprocess
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice, RuntimeDeployment
from crowdlearn_host.common.asking import ASKED
from crowdlearn_host.emulator.settings import FILES
from crowdlearn_host.errors import FleetError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


async def test_a_command_has_two_outputs_and_an_exit_code(device: AdbDevice) -> None:
    result = await device.shell("echo out; cat /nowhere; exit 3")
    assert (result.stdout, result.exit_code) == (b"out\n", 3)
    assert result.stderr == b"cat: /nowhere: No such file or directory\n"


async def test_a_command_reads_what_it_is_given(device: AdbDevice) -> None:
    assert (await device.shell("cat | wc -c", stdin=b"x" * 3_000_000)).stdout == b"3000000\n"


async def test_a_command_that_takes_too_long_is_given_up_alone(device: AdbDevice) -> None:
    with pytest.raises(FleetError, match=r"'sleep 1000' took longer than 0.05 s"):
        await device.shell("sleep 1000", timeout=0.05)
    assert (await device.shell("echo alive")).stdout == b"alive\n"


async def test_files_travel_unchanged(device: AdbDevice, tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (tmp_path / "there").write_bytes(content)
    steps: list[tuple[int, int]] = []
    remote = "/data/local/tmp/new/file"
    await device.push(tmp_path / "there", remote, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (len(content), len(content))
    status = await device.stat(remote)
    assert (status.size, status.mtime) == (len(content), int((tmp_path / "there").stat().st_mtime))
    summed = (await device.shell(f"sha256sum {remote}")).stdout
    assert summed.split()[0].decode() == hashlib.sha256(content).hexdigest()
    assert await device.pull(remote) == content
    await device.pull_to(remote, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    with pytest.raises(FleetError, match="No such file"):
        await device.pull_to(f"{remote}-that-is-not-there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content, "a file is lost only to a whole one"


@pytest.mark.parametrize("remote", ["/system/app.apk", "/data/local/tmp/../../x", "/etc/passwd"])
async def test_a_push_to_a_forbidden_place_says_so(device: AdbDevice, remote: str) -> None:
    with pytest.raises(FleetError, match="couldn't create file"):
        await device.push(b"x" * 2_000_000, remote)
    with pytest.raises(FleetError, match="No such file"):
        await device.pull(remote)
    assert (await device.stat(remote)).error != 0


@pytest.mark.parametrize("name", ["\udcff\udcfe-caf\u00e9", "n" * 255, "a b'c\"$(d)"])
async def test_a_name_of_any_bytes_is_the_files_own(device: AdbDevice, name: str) -> None:
    remote = f"/data/local/tmp/named/{name}"
    await device.push(b"content", remote)
    assert await device.pull(remote) == b"content"
    listed = (await device.shell("ls /data/local/tmp/named")).stdout
    assert os.fsencode(name) + b"\n" in listed
    assert (await device.shell(f"cat {shlex.quote(remote)} && rm {shlex.quote(remote)}")).stdout == b"content"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("n" * 256, "File name too long"),
        ("d/" * 600, r"a path of 1221 bytes, and adb carries 1017"),
        ("a\0b", "holds a NUL"),
    ],
)
async def test_a_name_that_no_file_has_is_told(
    device: AdbDevice, name: str, told: str, tmp_path: Path
) -> None:
    remote = f"/data/local/tmp/long/{name}"
    with pytest.raises(FleetError, match=told):
        await device.push(b"content", remote)
    with pytest.raises(FleetError, match=f"{told}|No such file"):
        await device.pull_to(remote, tmp_path / "back")
    assert (await device.shell("echo alive")).stdout == b"alive\n"


async def test_a_full_phone_says_so_and_how_much_is_missing(
    device: AdbDevice, phone: phones.PhoneInfo
) -> None:
    await device.shell("mkdir -p /data/local/tmp/full")
    words = Path(f"/proc/{phone.pid}/cmdline").read_bytes().split(b"\0")
    own = next(Path(os.fsdecode(word)) for word in words if word.endswith(b"/phones/" + phone.name.encode()))
    folder = own / FILES / "data/local/tmp/full"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        deployment = RuntimeDeployment(device, home="/data/local/tmp/full")
        with pytest.raises(FleetError, match="storage is full; make room"):
            await device.push(os.urandom(500_000), "/data/local/tmp/full/blob")
        (folder / "blob").write_bytes(bytes((folder / "blob").stat().st_size))
        with pytest.raises(
            FleetError, match="starting crowdlearn-device failed: the phone's storage is full"
        ):
            await deployment.start()
        (folder / "blob").unlink()
        await deployment.start()
        await deployment.stop()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def test_sixteen_streams_run_full_duplex_at_once(device: AdbDevice) -> None:
    deployment = RuntimeDeployment(device)
    await deployment.start()
    loop = asyncio.get_running_loop()

    async def echoed(number: int) -> bool:
        sock = await deployment.connect()
        sent = bytes([number]) * 1_000_000
        writing = loop.create_task(loop.sock_sendall(sock, sent))
        received = bytearray()
        while len(received) < len(sent):
            received += await loop.sock_recv(sock, 1 << 16)
        await writing
        sock.close()
        return received == sent

    assert all(await asyncio.gather(*map(echoed, range(16))))
    await deployment.stop()


async def test_nothing_that_is_on_the_phone_is_sent_again(device: AdbDevice, tmp_path: Path) -> None:
    deployment = RuntimeDeployment(device, home="/data/local/tmp/stored")
    (tmp_path / "weights").write_bytes(b"w" * 5000)
    files: dict[str, bytes | Path] = {"program.pte": b"p" * 1000, "data/weights": tmp_path / "weights"}
    assert await deployment.install(files) == 6000
    assert await deployment.install(files) == 0
    assert await deployment.install({"again.pte": b"p" * 1000, "new": b"n" * 10}) == 10
    for name, size in {"program.pte": 1000, "data/weights": 5000, "again.pte": 1000}.items():
        assert len(await device.pull(f"/data/local/tmp/stored/{name}")) == size


@pytest.mark.parametrize("name", ["../up", "/absolute", "a//b", "store/x", ""])
async def test_a_file_name_cannot_lead_out_of_the_home(device: AdbDevice, name: str) -> None:
    with pytest.raises(FleetError, match="relative name"):
        await RuntimeDeployment(device).install({name: b""})


async def test_a_runtime_is_replaced_by_the_next(device: AdbDevice) -> None:
    home = "/data/local/tmp/replaced"
    first, second = RuntimeDeployment(device, home=home), RuntimeDeployment(device, home=home)
    await first.start()
    await second.start()
    with pytest.raises(FleetError, match="is gone from port"):
        await first.connect()
    (await second.connect()).close()
    await second.stop()
    assert (await device.shell("pidof crowdlearn-device")).exit_code == 1


async def test_a_program_has_its_output_and_exit_code(device: AdbDevice) -> None:
    results = await asyncio.gather(
        *(device.shell(f"crowdlearn-device fail {n} text{n}") for n in range(1, 9))
    )
    for number, result in enumerate(results, start=1):
        assert (result.stdout, result.stderr) == (b"", f"text{number}\n".encode())
        assert result.exit_code == number
    assert b"text3" in (await device.shell("logcat -d")).stdout


async def test_a_runtime_that_fails_says_why(device: AdbDevice) -> None:
    deployment = RuntimeDeployment(device, arguments=["--nonsense"])
    with pytest.raises(FleetError, match="unrecognized arguments: --nonsense"):
        await deployment.start()


async def test_an_abstract_socket_of_the_phone_is_reached_and_no_other(device: AdbDevice) -> None:
    deployment = RuntimeDeployment(device, arguments=["--abstract", f"crowdlearn-{os.getpid()}"])
    await deployment.start()
    stream = await device.open(f"localabstract:crowdlearn-{os.getpid()}")
    await stream.write(b"ping")
    assert await stream.read() == b"ping"
    await stream.close()
    with pytest.raises(FleetError, match="does not offer"):
        await device.open("localabstract:other")
    await deployment.stop()


async def test_only_ports_of_the_phones_own_processes_are_reached(device: AdbDevice) -> None:
    other = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    with pytest.raises(FleetError, match="does not offer"):
        await device.open(f"tcp:{other.sockets[0].getsockname()[1]}")
    other.close()


async def test_everything_that_waits_learns_of_a_lost_connection(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path) as (info,):
        device = await AdbDevice.connect(info.serial, key=key)
        waiting = asyncio.ensure_future(device.shell("sleep 1000"))
        stream = await device.open("shell:cat")
        reading = asyncio.ensure_future(stream.read())
        phones.kill(info.name, tmp_path)
        with pytest.raises(FleetError, match="connection was lost"):
            await waiting
        with pytest.raises(FleetError, match="connection was lost"):
            await reading
        with pytest.raises(FleetError, match="reconnect"):
            await device.shell("true")
        await device.close()


async def test_an_unknown_key_is_refused_until_the_owner_accepts_it(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path, keys=()) as (info,):
        told: list[str] = []
        ASKED.set(told.append)
        with pytest.raises(FleetError, match="accept it on the phone's screen"):
            await AdbDevice.connect(info.serial, key=key, accept_timeout=0.2)
        assert len(told) == 1
        assert f"accept the key {key}.pub there" in told[0]
        asking = asyncio.ensure_future(AdbDevice.connect(info.serial, key=key))
        while not asking.done():
            try:
                for shown in await asyncio.to_thread(phones.waiting, info.name, tmp_path):
                    await asyncio.to_thread(phones.accept, info.name, shown, tmp_path)
            except FleetError:
                continue
        await (await asking).close()
        async with await AdbDevice.connect(info.serial, key=key) as device:
            assert (await device.shell("echo known")).stdout == b"known\n"
        with pytest.raises(FleetError, match="does not trust the key"):
            await AdbDevice.connect(info.serial, key=tmp_path / "other", accept_timeout=0.2)
        with pytest.raises(FleetError, match="no key SHA256:x waits"):
            phones.accept(info.name, "SHA256:x", tmp_path)


async def test_a_phone_trusts_whoever_started_it_and_nobody_else(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path) as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            assert (await device.shell("echo in")).stdout == b"in\n"
        with pytest.raises(FleetError, match="does not trust the key"):
            await AdbDevice.connect(info.serial, key=tmp_path / "stranger", accept_timeout=0.2)


@pytest.mark.parametrize(
    "serial",
    [
        *(
            "nonsense:port",
            "127.0.0.1:0",
            ":5555",
            "127.0.0.1:99999",
            "127.0.0.1:5555²",
            f"127.0.0.1:{'1' * 5000}",
        ),
        *("192.168.1..20:5555", f"{'x' * 64}:5555", "[]:5555", "a\0b:5555"),
    ],
)
async def test_a_wrong_address_is_named(serial: str, key: Path) -> None:
    with pytest.raises(FleetError, match="is not an address of a phone"):
        await AdbDevice.connect(serial, key=key)


async def test_a_phone_that_is_away_is_named(key: Path) -> None:
    with pytest.raises(FleetError, match=r"127.0.0.1:1 cannot be reached"):
        await AdbDevice.connect("127.0.0.1:1", key=key)


def said(command: bytes, arg0: int = 0, payload: bytes = b"", length: int | None = None) -> bytes:
    """An adb message; `length` is what its header claims, where that is a lie."""
    claimed = len(payload) if length is None else length
    magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
    return struct.pack("<4s5I", command, arg0, 0, claimed, sum(payload), magic) + payload


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (said(b"STLS", 1 << 24), "is not paired with this computer"),
        (said(b"AUTH", 1, b"x" * 19), "is not an adb device"),
        (said(b"AUTH", 7, b"x" * 20), "is not an adb device"),
        (said(b"CNXN", 1 << 24, b"device::")[:20] + bytes(4) + b"device::", "is not an adb device"),
        (said(b"CNXN", 1 << 24, length=0xFFFFFFFF), "sends more than 65536 bytes"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not an adb device"),
    ],
    ids=["TLS", "short token", "no token", "wrong magic", "endless banner", "a web server"],
)
async def test_a_peer_that_does_not_speak_as_a_phone_is_told(key: Path, answer: bytes, told: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)
        writer.write(answer)
        await writer.drain()
        if answer.startswith(b"STLS"):
            writer.close()  # as a phone does in the middle of TLS

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(FleetError, match=f"127.0.0.1:{port} .*{told}"):
        await AdbDevice.connect(f"127.0.0.1:{port}", key=key)
    server.close()


@pytest.mark.parametrize("counts_bytes", [False, True])
async def test_streams_count_bytes_where_the_phone_can_and_else_not(key: Path, counts_bytes: bool) -> None:
    """A phone that acknowledges nothing after the opening: one write, or as many as it granted bytes for."""
    heard: asyncio.Queue[tuple[bytes, int, bytes]] = asyncio.Queue()
    asked: list[bytes] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(24):
            command, arg0, arg1, length = struct.unpack("<4s3I", head[:16])
            payload = await reader.readexactly(length)
            if command == b"CNXN":
                asked.append(payload)
                features = b"shell_v2,delayed_ack" if counts_bytes else b"shell_v2"
                writer.write(said(b"CNXN", 0x01000001, b"device::features=" + features))
            if command == b"OPEN":
                granted = struct.pack("<i", 10) if counts_bytes else b""
                writer.write(
                    struct.pack(
                        "<4s5I",
                        b"OKAY",
                        7,
                        arg0,
                        len(granted),
                        0,
                        int.from_bytes(b"OKAY", "little") ^ 0xFFFFFFFF,
                    )
                    + granted
                )
            await heard.put((command, arg1, payload))

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with await AdbDevice.connect(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", key=key) as device:
        stream = await device.open("tcp:1")
        await stream.write(b"x" * 6)
        if counts_bytes:
            await stream.write(b"y" * 6)  # the last message may be longer than what is left
        third = asyncio.create_task(stream.write(b"z"))
        got = [await asyncio.wait_for(heard.get(), 60) for _ in range(3 + counts_bytes)]
        assert [command for command, _, _ in got] == [b"CNXN", b"OPEN", b"WRTE", b"WRTE"][: 3 + counts_bytes]
        assert bool(got[1][1]) == counts_bytes
        assert not third.done()
        third.cancel()
        assert b"delayed_ack," in asked[0]  # as a zero follows the last feature
    server.close()


def pem(
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    scheme: serialization.KeySerializationEncryption | None = None,
) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        scheme or serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            pem(rsa.generate_private_key(65537, 2048), serialization.BestAvailableEncryption(b"x")),
            "encrypted",
        ),
        (pem(ec.generate_private_key(ec.SECP256R1())), "RSA keys only"),
        (b"no key", "PEM"),
    ],
    ids=["passphrase", "elliptic curve", "no key"],
)
async def test_a_key_that_adb_cannot_use_is_told(
    phone: phones.PhoneInfo, tmp_path: Path, content: bytes, told: str
) -> None:
    (tmp_path / "adbkey").write_bytes(content)
    (tmp_path / "adbkey.pub").write_bytes(b"public")
    with pytest.raises(FleetError, match=f"the adb key {tmp_path}/adbkey cannot be used.*{told}"):
        await AdbDevice.connect(phone.serial, key=tmp_path / "adbkey")


async def test_what_was_said_before_the_connection_was_lost_is_still_read(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path) as (info,):
        device = await AdbDevice.connect(info.serial, key=key)
        stream = await device.open("shell:echo last words; sleep 1000")
        closed = await device.open("shell:true")
        assert await closed.read() == b""
        first = asyncio.ensure_future(stream.read())
        assert await first == b"last words\n"
        await device.close()
        assert await closed.read() == b""
        with pytest.raises(FleetError, match="connection was lost"):
            await stream.read()


async def test_a_stream_that_is_given_up_ends_for_who_reads_it(device: AdbDevice) -> None:
    stream = await device.open("shell:cat")
    reading = asyncio.ensure_future(stream.read())
    await stream.write(b"x")
    assert await reading == b"x"
    reading = asyncio.ensure_future(stream.read())
    stream.abort()
    assert await reading == b""
    with pytest.raises(FleetError, match="closed during a write"):
        await stream.write(b"y")


async def test_a_socket_that_is_taken_over_or_closed_at_once_leaves_no_file_open(device: AdbDevice) -> None:
    """What carries its bytes has not begun by then."""
    before = len(os.listdir("/proc/self/fd"))
    for take_over in (False, True):
        sock = await device.open_socket("shell:cat")
        transport = device.transport_of(sock) if take_over else None
        sock.close()
        if transport is not None:
            transport.abort()
        else:
            (carrying,) = device._tasks
            carrying.cancel()
        await asyncio.gather(*device._tasks, return_exceptions=True)
        await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before
