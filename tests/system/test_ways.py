"""A run reaches phones by the serials that `crowdlearn devices` lists, whichever way they are connected."""

from __future__ import annotations

import asyncio
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb.carriers.server import server_devices
from crowdlearn_host.cli import build
from crowdlearn_host.devices.discovery import dial, discover
from crowdlearn_host.errors import FleetError
from typer.testing import CliRunner

from tests.host.emulator.test_clients import CLIENTS, Client

pytestmark = pytest.mark.system
SERIAL = "emulator-7654"
"""What the adb server calls a phone that it reached by `adb connect emu:7654,PORT`: no address."""

CONFIG = """
data = "digits"
model = "mlp:64-8-10"
group = {{ pieces = 2 }}
training = {{ epochs = 1, batch = 64, kernels = "by_size" }}
fleet = {{ phones = ["{first}", "{second}"] }}
"""


def test_a_phone_behind_an_adb_server_is_found_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = CLIENTS["system"][0] or CLIENTS["wheel"][0]
    if program is None or find_spec("adbutils") is None:
        pytest.skip("pip install 'crowdlearn[adb-server]'")
    monkeypatch.chdir(tmp_path)
    with phones.running(2, tmp_path / "home", auto_accept=True) as (served, direct):
        client = Client(program, tmp_path, served.serial)
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(client.port))
        try:
            client("connect", f"emu:7654,{served.serial.partition(':')[2]}", device=False)
            client("-s", SERIAL, "wait-for-device", device=False)
            assert [(d.serial, d.usable) for d in server_devices(client.port)] == [(SERIAL, True)]
            assert {f.serial: f.way for f in discover([SERIAL, direct.serial], tmp_path)} == {
                SERIAL: "server",
                direct.serial: "tcp",
            }
            Path("my.toml").write_text(CONFIG.format(first=SERIAL, second=direct.serial))
            arguments = ["train", "my.toml", "--key", "keys/own", "--json"]
            result = CliRunner().invoke(build(["train"]), arguments, catch_exceptions=False)
        finally:
            client("kill-server", device=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["test_accuracy"] > 0
    assert Path("keys/own.pub").exists()


def test_what_is_no_adb_server_matters_to_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def reach() -> None:
        other = await asyncio.start_server(refuse, "127.0.0.1", 0)
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(other.sockets[0].getsockname()[1]))
        with phones.running(1, tmp_path, auto_accept=True) as (phone,):
            await (await dial(phone.serial, key=tmp_path / "key")).close()
        if find_spec("adbutils"):
            with pytest.raises(FleetError, match="does not answer as one"):
                await dial("R58M123ABC", key=tmp_path / "key")
        other.close()

    asyncio.run(reach())
