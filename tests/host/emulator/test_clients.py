"""Unmodified adb clients against a virtual phone: Debian's, that of the adbutils wheel, and adb-shell."""

import hashlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from adb_shell.adb_device import AdbDevice, AdbDeviceTcp
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb.carriers.connection import FullSendTransport, parse_address
from crowdlearn_host.adb.carriers.keys import default_key_path, load_signer
from crowdlearn_host.adb.wire.streams import DELAYED_ACK

from tests.host.conftest import STAND_IN
from tests.host.emulator.apks import apk

BLOB_BYTES = 100_000_000
HOME = "/data/local/tmp"


def wheel_adb() -> str | None:
    spec = find_spec("adbutils")
    path = Path(spec.origin).parent / "binaries/adb" if spec and spec.origin else None
    return str(path) if path and path.exists() else None


CLIENTS = {
    "system": (shutil.which("adb"), "no adb on this computer: apt-get install adb"),
    "wheel": (wheel_adb(), "no adbutils wheel with an adb binary: pip install adbutils"),
}
COUNTS_BYTES = "wheel, counting bytes"
"""That of the wheel, whose server has the feature delayed_ack with ADB_BURST_MODE=1."""


class Client:
    """One adb program with a server and a key pair of its own."""

    def __init__(self, program: str, home: Path, serial: str, *, counts_bytes: bool = False) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.port = port
        self._program = program
        self._serial = serial
        self._environment = {
            **os.environ,
            "HOME": str(home),
            "ANDROID_ADB_SERVER_PORT": str(port),
            "ADB_VENDOR_KEYS": str(default_key_path()),  # whom phones trust that this session starts
            "ADB_MDNS": "0",
            "ADB_LIBUSB": "0",
            "ADB_BURST_MODE": "1" if counts_bytes else "0",
        }

    def __call__(
        self, *words: str, device: bool = True, stdin: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        target = ["-s", self._serial] if device else []
        command = [self._program, *target, *words]
        return subprocess.run(
            command, env=self._environment, input=stdin, capture_output=True, timeout=60, check=False
        )

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        command = [self._program, "-s", self._serial, *words]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def connect(self) -> None:
        self("connect", self._serial, device=False)
        self("wait-for-device")


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[phones.PhoneInfo]:
    with phones.running(1, tmp_path_factory.mktemp("h"), programs=STAND_IN, preload=(), auto_accept=True) as (
        info,
    ):
        yield info


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("blob") / "blob"
    path.write_bytes(os.urandom(BLOB_BYTES))
    return path


@pytest.fixture(scope="module", params=[*CLIENTS, COUNTS_BYTES])
def adb(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, phone: phones.PhoneInfo
) -> Iterator[Client]:
    counts_bytes = request.param == COUNTS_BYTES
    program, reason = CLIENTS["wheel" if counts_bytes else request.param]
    if program is None:
        pytest.skip(reason)
    client = Client(program, tmp_path_factory.mktemp("client"), phone.serial, counts_bytes=counts_bytes)
    client.connect()
    assert (DELAYED_ACK in client("features").stdout.decode().split()) == counts_bytes
    yield client
    client("kill-server", device=False)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_phone_is_listed_with_its_model(adb: Client, phone: phones.PhoneInfo) -> None:
    lines = adb("devices", "-l", device=False).stdout.decode().splitlines()
    (line,) = [line for line in lines if line.startswith(phone.serial)]
    assert "device product:shiba model:Pixel_8 device:shiba" in " ".join(line.split())


def test_a_command_has_its_outputs_apart_and_an_exit_code(adb: Client) -> None:
    done = adb("shell", "echo out; cat /nowhere; exit 7")
    assert (done.stdout, done.returncode) == (b"out\n", 7)
    assert done.stderr == b"cat: /nowhere: No such file or directory\n"


def test_lines_on_standard_input_are_run_as_a_script(adb: Client) -> None:
    done = adb("shell", stdin=b"cd /data/local/tmp\npwd\nnonsense\nexit 3")
    assert (done.stdout, done.returncode) == (b"/data/local/tmp\n", 3)
    assert b"nonsense: inaccessible or not found" in done.stderr


def test_exec_out_is_raw(adb: Client) -> None:
    content = bytes(range(256)) * 300
    assert adb("exec-out", "cat", f"{HOME}/missing").stdout.startswith(b"cat:")
    path = f"{HOME}/raw"
    assert adb("shell", f"cat >{path}", stdin=content).returncode == 0
    assert adb("exec-out", "cat", path).stdout == content


def test_a_large_file_goes_and_comes_back(adb: Client, blob: Path, tmp_path: Path) -> None:
    assert adb("push", str(blob), f"{HOME}/blob").returncode == 0
    assert adb("shell", f"sha256sum {HOME}/blob").stdout.split()[0].decode() == sha256(blob)
    assert adb("pull", f"{HOME}/blob", str(tmp_path / "blob")).returncode == 0
    assert sha256(tmp_path / "blob") == sha256(blob)


def test_folders_go_and_come_back(adb: Client, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "a").write_text("A")
    (folder / "deep/er/b").write_text("B")
    assert adb("push", str(folder), f"{HOME}/").returncode == 0
    assert adb("shell", f"cat {HOME}/folder/deep/er/b").stdout == b"B"
    assert b"deep" in adb("ls", f"{HOME}/folder").stdout
    assert adb("pull", f"{HOME}/folder", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back/deep/er/b").read_text() == "B"


def test_a_port_of_the_phone_is_forwarded(adb: Client) -> None:
    adb("shell", f"mkdir -p {HOME}/f && rm -f {HOME}/f/port")
    adb("shell", f"nohup crowdlearn-device serve --home {HOME}/f --port 0 >/dev/null 2>&1 </dev/null &")
    deadline = time.monotonic() + 60  # the log has lines of runtimes before this one
    while not (port := adb("shell", f"cat {HOME}/f/port").stdout.decode().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    local = adb("forward", "tcp:0", f"tcp:{port}").stdout.decode().strip()
    with socket.create_connection(("127.0.0.1", int(local)), timeout=60) as through:
        through.sendall(b"ping")
        assert through.recv(100) == b"ping"
    assert adb("forward", "--remove", f"tcp:{local}").returncode == 0
    assert adb("shell", "kill $(pidof crowdlearn-device)").returncode == 0


def test_a_port_of_the_computer_is_reversed(adb: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        reached = adb("reverse", "tcp:0", f"tcp:{server.getsockname()[1]}").stdout.decode().strip()
        assert f"tcp:{reached}" in adb("reverse", "--list").stdout.decode()
        with socket.create_connection(("127.0.0.1", int(reached)), timeout=60) as phone_side:
            phone_side.sendall(b"hello")
            accepted, _ = server.accept()
            with accepted:
                assert accepted.recv(100) == b"hello"
        assert adb("reverse", "--remove", f"tcp:{reached}").returncode == 0
        assert reached not in adb("reverse", "--list").stdout.decode()
        assert adb("reverse", "--remove", f"tcp:{reached}").returncode != 0


def test_an_app_is_installed_and_removed(adb: Client, tmp_path: Path) -> None:
    path = tmp_path / "demo.apk"
    path.write_bytes(apk("org.example.demo", padding=3_000_000))
    assert b"Success" in adb("install", str(path)).stdout
    assert adb("shell", "pm list packages").stdout == b"package:org.example.demo\n"
    assert adb("uninstall", "org.example.demo").returncode == 0
    path.write_bytes(b"this is no zip")
    refused = adb("install", str(path))
    assert b"INSTALL_PARSE_FAILED_NOT_APK" in refused.stdout + refused.stderr


def test_the_phone_survives_a_client_that_goes_in_mid_push(adb: Client, blob: Path) -> None:
    push = adb.start("push", str(blob), f"{HOME}/cut")
    while adb("shell", f"[ -s {HOME}/cut ]").returncode and push.poll() is None:
        continue
    push.kill()
    push.communicate()
    adb("disconnect", device=False)
    adb.connect()
    assert adb("shell", "echo alive").stdout == b"alive\n"


@pytest.mark.parametrize("name", CLIENTS)
def test_a_key_is_refused_and_then_accepted(name: str, tmp_path: Path) -> None:
    program, reason = CLIENTS[name]
    if program is None:
        pytest.skip(reason)
    with phones.running(1, tmp_path, keys=()) as (info,):
        (tmp_path / "client").mkdir()
        adb = Client(program, tmp_path / "client", info.serial)
        try:
            assert b"failed to authenticate" in adb("connect", info.serial, device=False).stdout
            assert b"unauthorized" in adb("devices", device=False).stdout
            (shown,) = phones.waiting(info.name, tmp_path)
            phones.accept(info.name, shown, tmp_path)
            adb("wait-for-device")
            assert adb("shell", "echo in").stdout == b"in\n"
            adb("disconnect", device=False)
            assert b"connected to" in adb("connect", info.serial, device=False).stdout
        finally:
            adb("kill-server", device=False)


def test_adb_shell_as_shipped_is_served(phone: phones.PhoneInfo, key: Path, tmp_path: Path) -> None:
    device = AdbDeviceTcp(*parse_address(phone.serial), default_transport_timeout_s=10)
    assert device.connect(rsa_keys=[load_signer(key)], auth_timeout_s=10)
    assert device.shell("echo hi") == "hi\n"
    (tmp_path / "small").write_bytes(b"s" * 100_000)
    device.push(str(tmp_path / "small"), f"{HOME}/small")
    assert device.stat(f"{HOME}/small")[1] == 100_000
    device.pull(f"{HOME}/small", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"s" * 100_000
    assert "small" in [entry.filename.decode() for entry in device.list(HOME)]
    device.close()


def test_adb_shell_with_full_sends_moves_a_large_file(
    phone: phones.PhoneInfo, key: Path, blob: Path, tmp_path: Path
) -> None:
    device = AdbDevice(FullSendTransport(*parse_address(phone.serial)), default_transport_timeout_s=10)
    assert device.connect(rsa_keys=[load_signer(key)], auth_timeout_s=10)
    device.push(str(blob), f"{HOME}/adbshell")
    device.pull(f"{HOME}/adbshell", str(tmp_path / "back"))
    assert sha256(tmp_path / "back") == sha256(blob)
    device.close()


def test_a_silent_client_does_not_hold_up_the_others(phone: phones.PhoneInfo, key: Path) -> None:
    address = parse_address(phone.serial)
    silent = [socket.create_connection(address) for _ in range(20)]
    thread = threading.Thread(target=silent[0].sendall, args=(b"\0" * 10,))
    thread.start()
    thread.join()
    device = AdbDeviceTcp(*address, default_transport_timeout_s=10)
    assert device.connect(rsa_keys=[load_signer(key)], auth_timeout_s=10)
    assert device.shell("echo hi") == "hi\n"
    device.close()
    for sock in silent:
        sock.close()
