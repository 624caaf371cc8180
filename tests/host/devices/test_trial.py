"""A training step on a phone, compared with this computer's."""

import json
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb.carriers.keys import load_signer
from crowdlearn_host.devices.trial import largest_difference
from crowdlearn_host.errors import ConfigError, HostError
from typer.testing import CliRunner


def doctor(*arguments: str) -> "tuple[int, str]":
    from crowdlearn_host.cli import build

    done = CliRunner().invoke(build(["doctor", "devices"]), list(arguments))
    if isinstance(done.exception, HostError):
        raise done.exception
    return done.exit_code, done.stdout


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "phones.PhoneInfo":
    monkeypatch.setenv("HOME", str(tmp_path))
    load_signer(tmp_path / ".android/adbkey")
    with phones.running(1, tmp_path / "phones") as (info,):
        yield info  # type: ignore[misc]


def test_doctor_runs_a_step_of_the_model_on_a_phone(phone: phones.PhoneInfo) -> None:
    code, told = doctor("doctor", "mlp:12-8-4", "--batch", "4", "--phone", phone.serial, "--json")
    found = json.loads(told)["phone"]
    assert code == 0
    assert (found["serial"], found["runtime"], found["agrees"]) == (phone.serial, "program", True)
    assert found["error"] == 0


def test_a_report_of_phones_says_what_they_are_and_not_whose(phone: phones.PhoneInfo, tmp_path: Path) -> None:
    code, told = doctor("devices", phone.serial, "--report", str(tmp_path / "report.json"), "--json")
    assert code == 0
    (row,) = [row for row in json.loads(told) if row["serial"] == phone.serial]
    assert (row["api_level"], row["abi"], row["runtimes"]) == (36, "arm64-v8a", ["program", "bundle"])
    assert row["page_size"] >= 4096
    text = (tmp_path / "report.json").read_text()
    assert phone.serial not in text
    assert phone.name not in text
    assert json.loads(text)["phones"][0]["model"] == "Pixel 8"
    with pytest.raises(ConfigError, match="already"):
        doctor("devices", phone.serial, "--report", str(tmp_path / "report.json"))


def test_differences_are_measured_by_each_arrays_largest_value() -> None:
    expected = {"m/a": np.array([1.0, 100.0], np.float32), "m/b": np.array([1e-9], np.float32)}
    assert largest_difference(expected, expected) == 0
    near = {**expected, "m/a": np.array([1.0, 101.0], np.float32)}
    assert largest_difference(near, expected) == pytest.approx(0.01)
    assert largest_difference({**expected, "m/b": np.array([3e-9], np.float32)}, expected) < 1e-10
    assert largest_difference({**expected, "m/b": np.array([1.0], np.float32)}, expected) > 1e-3
    lost = {**expected, "m/a": np.array([np.nan, 0], np.float32)}
    assert largest_difference(lost, expected) == float("inf")
    with pytest.raises(ValueError, match="m/a is float64"):
        largest_difference({**expected, "m/a": np.zeros(2)}, expected)
    with pytest.raises(KeyError):
        largest_difference({}, expected)
