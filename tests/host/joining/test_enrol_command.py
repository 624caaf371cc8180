"""`crowdlearn enrol`: the command that it prints runs as it is, whatever token, name and address are."""

import json
import os
import secrets
import subprocess
import time
from pathlib import Path

import crowdlearn_device.cli.commands
import pytest
import segno
from crowdlearn_device.protocol.invitation import read_invitation
from crowdlearn_device.security.device_list import list_of_link
from crowdlearn_host.cli import build
from crowdlearn_host.common.home import default_home
from crowdlearn_host.devices.joining.enrolment import DAY_SECONDS, Enrolment
from crowdlearn_host.errors import ConfigError, FleetError
from typer.testing import CliRunner

SHOW = "#!/bin/sh\nprintf '%s\\0' \"$@\"\n"


@pytest.mark.parametrize("token", ["-begins-with-a-dash", "plain_token"])
@pytest.mark.parametrize("name", ["phone-1", "Ada's phone", "-7", 'two "$HOME" \\ `id`; #'])
@pytest.mark.parametrize("address", ["192.0.2.7:8765", "host name&more:1"])
def test_the_printed_command_runs(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, token: str, name: str, address: str
) -> None:
    monkeypatch.setattr(secrets, "token_urlsafe", lambda size: token)
    monkeypatch.chdir(tmp_path)
    printed = CliRunner().invoke(build(["enrol"]), ["enrol", f"--address={address}", "--", name])
    assert printed.exit_code == 0, printed.output
    program = tmp_path / "crowdlearn-device"
    program.write_text(SHOW)
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(["sh", "-c", printed.stdout], env={"PATH": path}, capture_output=True, check=True)
    given = ran.stdout.decode().split("\0")[:-1]

    joined: list[object] = []

    async def join_host(home, data, name, url, token, *rest, **options):
        joined.extend((home, data, name, url, token))

    monkeypatch.setattr(crowdlearn_device.cli.commands, "join_host", join_host)
    assert crowdlearn_device.cli.main(given) == 0
    assert joined == [Path("crowdlearn"), Path("data"), name, f"wss://{address}", token]
    assert not any(token in argument for argument in given), "arguments are seen by others"
    assert Path("crowdlearn/enrolment").stat().st_mode & 0o077 == 0


def test_a_phone_s_camera_reads_the_invitation(tmp_path: Path, home: Path) -> None:
    """The app gets the link that is printed, and the code's drawing is the one of that link."""
    given = ["enrol", "Ada's/phone", "--address=192.0.2.7:8765", "--svg", str(tmp_path / "codes")]
    (told,) = json.loads(CliRunner().invoke(build(["enrol"]), [*given, "--json"]).stdout)
    invited = read_invitation(told["link"])
    assert (invited.address, invited.name) == ("192.0.2.7:8765", "Ada's/phone")
    assert (invited.token, invited.pin) == (told["token"], told["pin"])
    assert Enrolment(home).admits("Ada's/phone", invited.token)
    (drawn,) = (tmp_path / "codes").iterdir()
    assert (drawn.name, drawn.stat().st_mode & 0o077) == ("Ada%27s%2Fphone.svg", 0)
    other = tmp_path / "other.svg"
    segno.make(told["link"], error="m", micro=False).save(str(other), scale=4)
    assert other.read_bytes() == drawn.read_bytes()
    shown = CliRunner().invoke(build(["enrol"]), ["enrol", "phone-1", "--qr"]).stdout
    assert "\u2588" in shown
    assert "crowdlearn://join?host=HOST%3APORT&name=phone-1&token=" in shown


def test_a_signed_list_of_devices_is_shown_as_a_code(tmp_path: Path) -> None:
    path, key = tmp_path / "devices.json", tmp_path / "signer.key"
    named = f"friend={'ab' * 16}"
    given = ["sign-list", "--key", str(key), "--output", str(path), named]
    assert crowdlearn_device.cli.main(given) == 0
    command = ["device-list", str(path)]
    told = json.loads(CliRunner().invoke(build(["device-list"]), [*command, "--json"]).stdout)
    assert list_of_link(told["link"]) == path.read_text()
    assert told["devices"] == {"friend": " ".join(["abab"] * 8)}
    shown = CliRunner().invoke(build(["device-list"]), command).stdout
    assert "\u2588" in shown
    assert told["link"] in shown
    assert f"signed by {told['signer']}" in shown
    assert (
        CliRunner().invoke(build(["device-list"]), [*command, f"--svg={tmp_path}/a/code.svg"]).exit_code == 0
    )
    assert (tmp_path / "a/code.svg").read_text().startswith("<?xml")
    path.write_text(path.read_text().replace("abab", "cdcd"))
    refused = CliRunner().invoke(build(["device-list"]), command)
    assert isinstance(refused.exception, ConfigError)
    assert "is no list of devices" in str(refused.exception)


def test_tokens_are_listed_expire_and_are_revoked(home: Path) -> None:
    run = CliRunner()
    enrolled = run.invoke(build(["enrol"]), ["enrol", "phone-1", "phone-2", "--days=2", "--json"])
    tokens = {told["device"]: told["token"] for told in json.loads(enrolled.stdout)}
    listed = json.loads(run.invoke(build(["enrol"]), ["enrol", "--list", "--json"]).stdout)
    assert [(row["device"], row["expired"]) for row in listed] == [("phone-1", False), ("phone-2", False)]
    state = default_home()
    assert Enrolment(state).admits("phone-1", tokens["phone-1"])
    assert not Enrolment(state, lambda: time.time() + 3 * DAY_SECONDS).admits("phone-1", tokens["phone-1"])
    assert run.invoke(build(["enrol"]), ["enrol", "--revoke=phone-1"]).exit_code == 0
    assert not Enrolment(state).admits("phone-1", tokens["phone-1"])
    assert Enrolment(state).admits("phone-2", tokens["phone-2"])
    unknown = run.invoke(build(["enrol"]), ["enrol", "--revoke=phone-1"])
    assert "is not enrolled" in str(unknown.exception)
    assert "name the devices" in str(run.invoke(build(["enrol"]), ["enrol"]).exception)
    assert state.stat().st_mode & 0o077 == 0
    assert (state / "enrolled.json").stat().st_mode & 0o077 == 0


def test_many_devices_are_enrolled_by_one_write(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand took a thousand writes of all of them; of a name given twice the older token was printed."""
    written: list[bytes] = []
    monkeypatch.setattr(
        "crowdlearn_host.devices.joining.enrolment.write_atomically",
        lambda path, content, private: (written.append(content), path.write_bytes(content)),
    )
    names = ["phone-1", "phone-2", "phone-1"]
    made = CliRunner().invoke(build(["enrol"]), ["enrol", "--json", *names])
    rows = {row["device"]: row["token"] for row in json.loads(made.stdout)}
    assert len(written) == 1
    assert sorted(rows) == ["phone-1", "phone-2"]
    assert all(Enrolment(home).admits(name, token) for name, token in rows.items())
    refused = CliRunner().invoke(build(["enrol"]), ["enrol", "phone-3", ""])
    assert isinstance(refused.exception, FleetError)
    assert sorted(Enrolment(home).devices()) == ["phone-1", "phone-2"]
