"""`crowdlearn profile` keeps what it has measured, whatever becomes of one of the phones."""

from __future__ import annotations

import os
import signal
import tomllib
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.carriers import silence
from crowdlearn_host.cli import build
from crowdlearn_host.cli.devices import profile
from crowdlearn_host.devices import probe
from crowdlearn_host.devices.measuring import MeasuredLink, Probe, measure_link
from crowdlearn_host.errors import FleetError
from typer.testing import CliRunner

from tests.host.conftest import STAND_IN


@pytest.mark.parametrize("fate", [signal.SIGSTOP, signal.SIGKILL])
def test_a_phone_that_hangs_or_vanishes_loses_no_others_results(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, fate: signal.Signals
) -> None:
    monkeypatch.setenv("CROWDLEARN_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "build_probe", lambda _: Probe({"program.pte": b"p"}, "0" * 64, 1000.0))
    with phones.running(3, tmp_path, programs=STAND_IN, preload=()) as infos:
        unlucky = infos[1]

        async def measure(device: AdbDevice) -> MeasuredLink:
            with monkeypatch.context() as patch:
                if device.serial == unlucky.serial:
                    patch.setattr(silence, "SILENCE_SECONDS", 0.2)
                    os.kill(unlucky.pid, fate)
                return await measure_link(device)

        monkeypatch.setattr(profile, "measure_link", measure)
        words = ["profile", "--out", str(tmp_path / "fleet.toml"), "--key", str(key)]
        try:
            with pytest.raises(FleetError, match=f"lacks 1 of 3 phones: {unlucky.serial};.*--force"):
                CliRunner().invoke(build(["profile"]), words, catch_exceptions=False)
        finally:
            if fate == signal.SIGSTOP:
                os.kill(unlucky.pid, signal.SIGCONT)
    (kind,) = tomllib.loads((tmp_path / "fleet.toml").read_text())["class"]
    assert kind["devices"] == [infos[0].name, infos[2].name]
