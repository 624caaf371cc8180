"""Finding phones and reading what they say."""

import asyncio
from pathlib import Path

import pytest
from crowdlearn_device.security.assignment_policy import FINGERPRINT, fingerprint
from crowdlearn_device.security.identity import Identity
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.deployment.shell import HOME
from crowdlearn_host.cli import build
from crowdlearn_host.cli.devices.devices import anonymous
from crowdlearn_host.devices import discovery
from crowdlearn_host.devices.discovery import Found, Visited, discover, visit
from crowdlearn_host.devices.facts import DeviceFacts, parse_facts, read_facts
from crowdlearn_host.errors import FleetError
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

REAL_ANSWER = """===properties
[ro.build.version.release]: [9]
[ro.build.version.sdk]: [28]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Xiaomi]
[ro.product.model]: [Redmi 7]
[ro.serialno]: [0123abcd]
===memory
MemTotal:        1867420 kB
MemAvailable:     734088 kB
===frequencies
1804800
1804800
===battery
Current Battery Service state:
  USB powered: true
  Max charging current: 500000
  status: 2
  level: 57
  temperature: 287
===thermal
===storage
Filesystem     1K-blocks    Used Available Use% Mounted on
/dev/block/dm-1 10485760 4194304   6291456  40% /data
"""


@pytest.mark.parametrize("profile", phones.PROFILES.values(), ids=lambda profile: profile.key)
async def test_a_virtual_phone_says_what_its_profile_says(
    profile: phones.DeviceProfile, tmp_path: Path, key: Path
) -> None:
    with phones.running(1, tmp_path, profile=profile.key) as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            facts = await read_facts(device)
    assert (facts.model, facts.abi, facts.api_level) == (profile.model, profile.abi, profile.api_level)
    assert len(facts.core_mhz) == profile.cores
    assert facts.memory == profile.memory << 20
    assert facts.virtual
    assert facts.storage_free
    assert (facts.battery_percent, facts.charging, facts.thermal) == (80, True, "none")


@pytest.mark.parametrize("columns", [60, 250])
def test_what_a_phone_has_can_be_read_on_terminals_of_any_width(columns: int, tmp_path: Path) -> None:
    with phones.running(1, tmp_path, profile="redmi-7") as (info,):
        environment = {"COLUMNS": str(columns), "CROWDLEARN_HOME": str(tmp_path)}
        command = build(["doctor", "devices"])
        result = CliRunner().invoke(command, ["devices", info.serial], env=environment)
    assert result.exit_code == 0, result.stderr
    lines = [line.strip(" │") for line in result.stdout.splitlines()]
    assert any("Xiaomi Redmi 7 (virtual)" in line for line in lines)
    assert any("9 (arm64-v8a, API 28, pages of 4 KiB)" in line for line in lines)
    assert any("program, bundle" in line for line in lines)
    assert ("Android 9 (arm64-v8a, API 28, pages of 4 KiB)" in lines) == (columns == 60)


async def test_a_phone_tells_the_fingerprint_of_its_identity_once_it_has_one(
    tmp_path: Path, key: Path
) -> None:
    told = fingerprint(Identity.generate().public)
    with phones.running(1, tmp_path) as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            assert (await read_facts(device)).fingerprint is None
            await device.shell(f"mkdir -p {HOME}; echo '{told}' > {HOME}/{FINGERPRINT}")
            facts = await read_facts(device)
    assert facts.fingerprint == told
    assert told not in str(anonymous([Visited(Found("a", "tcp"), facts)]))


def test_answers_of_an_older_phone_are_understood() -> None:
    facts = parse_facts("0123abcd", REAL_ANSWER)
    assert (facts.model, facts.android, facts.core_mhz) == ("Redmi 7", "9", (1804, 1804))
    assert (facts.memory, facts.storage_free) == (1867420 * 1024, 6291456 * 1024)
    assert (facts.battery_percent, facts.charging, facts.celsius) == (57, True, 28.7)
    assert facts.thermal is None
    assert not facts.virtual


@given(st.text(max_size=300))
def test_answers_of_something_else_are_refused(text: str) -> None:
    with pytest.raises(FleetError, match="does not answer as an Android phone"):
        parse_facts("x", f"===properties\n{text.replace('ro.product.model', '')}")


@given(
    st.lists(
        st.tuples(st.sampled_from(["memory", "battery", "storage", "frequencies"]), st.text(max_size=99))
    )
)
def test_damaged_answers_only_leave_facts_out(parts: list[tuple[str, str]]) -> None:
    extra = "".join(f"==={name}\n{body.replace('===', '')}\n" for name, body in parts)
    assert parse_facts("x", REAL_ANSWER + extra).model == "Redmi 7"


async def test_phones_are_found_once_and_a_bad_one_is_told_alone(tmp_path: Path, key: Path) -> None:
    with phones.running(2, tmp_path) as (first, second):
        found = discover([first.serial, "127.0.0.1:1", "192.168.1..20:5555"], tmp_path)
        visited = await visit(found, key=key)
    ways = {item.found.serial: item.found.way for item in visited if item.facts}
    assert ways == {first.serial: "tcp", second.serial: "virtual"}
    away, mistyped = [item.problem for item in visited if item.facts is None]
    assert "127.0.0.1:1 cannot be reached" in away
    assert "'192.168.1..20:5555' is not an address" in mistyped


@pytest.mark.parametrize("serial", ["R58M123ABCD", "0123456789012345", "2814749767"])
async def test_a_phone_that_was_unplugged_is_told_as_gone(
    serial: str, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    with pytest.raises(FleetError, match=f"{serial} is gone: .*plug it in"):
        await discovery.dial(serial, key=key)


async def test_silent_ones_do_not_hold_up_the_others(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hang up, without a word, once the phone has said what it is: who waits for them never hears it."""
    heard = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard.wait()
        writer.close()

    async def hear(device: AdbDevice) -> DeviceFacts:
        facts = await read_facts(device)
        heard.set()
        return facts

    monkeypatch.setattr(discovery, "read_facts", hear)
    server = await asyncio.start_server(say_nothing, "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    silent = [f"127.0.0.{number}:{port}" for number in range(1, 41)]  # more than asyncio has threads at most
    with phones.running(1, tmp_path) as (phone,):
        visited = await visit(discover([*silent, phone.serial], tmp_path), key=key)
    server.close()
    assert [item.found.serial for item in visited if item.facts] == [phone.serial]
    problems = [item.problem for item in visited if not item.facts]
    assert len(problems) == 40
    assert [problem for problem in problems if "timed out" in problem] == []


async def test_a_new_phone_has_the_time_that_its_owner_needs(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect_soon(found: discovery.Found, *, key: Path) -> AdbDevice:
        return await AdbDevice.connect(found.serial, key=key, accept_timeout=0.5)

    with phones.running(1, tmp_path, keys=()):
        monkeypatch.setattr(discovery, "connect", connect_soon)
        monkeypatch.setattr(discovery, "FACTS_SECONDS", 0.1)
        (asked,) = await visit(discover((), tmp_path), key=key)
    assert f"does not trust the key {key}.pub: accept it on the phone's screen" in asked.problem
