"""A start that fails before anything is trained stands in nobody's way: the corrected one takes its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host import emulator as phones
from crowdlearn_host.cli import build
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.errors import FleetError, RunError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.plan import save_plan
from typer.testing import CliRunner

MODEL = "mlp:64-8-10"
CONFIG = """
data = "digits"
model = "mlp:64-8-10"
group = {{ {group} }}
training = {{ epochs = 1, batch = 64, kernels = "by_size" }}
fleet = {{ {fleet} }}
"""
HERE = "pieces = 2"
MISTAKES = {
    "no phones": (HERE, "", "no devices"),
    "a wrong serial": (HERE, 'phones = ["127.0.0.1:1", "127.0.0.1:2"]', "127.0.0.1:[12] "),
    "a wrong profile": (HERE, 'virtual = 2, profile = "pixel8"', "pixel8"),
    "too few devices": ('plan = "two.json"', 'phones = ["127.0.0.1:1"]', "need 2 devices; 1 given"),
}


@pytest.fixture
def folder(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    graph = neuron_graph(build_model(MODEL, 0), torch.zeros(2, 64), MODEL)
    save_plan(balanced(graph, 2), tmp_path / "two.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def crowdlearn(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(build(["train"]), [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def write(folder: Path, group: str, fleet: str) -> None:
    (folder / "my.toml").write_text(CONFIG.format(group=group, fleet=fleet))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_corrected_start_takes_the_place_of_one_that_failed(
    folder: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, fleet, told = MISTAKES[mistake]
    write(folder, group, fleet)
    with pytest.raises(FleetError, match=told):
        crowdlearn("train", "my.toml")
    write(folder, HERE, 'phones = ["one", "two"]')
    given = serials_of_a_start(monkeypatch)
    assert given == ["one", "two"]
    assert (folder / "runs/run/config.toml").read_text() == (folder / "my.toml").read_text()


def serials_of_a_start(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which devices a start would train on; nothing is trained."""
    given: list[str] = []

    async def answered(*_: object) -> None:
        pass

    async def seen(prepared: object, serials: list[str], *_: object) -> None:
        given.extend(serials)

    with monkeypatch.context() as patched:
        patched.setattr("crowdlearn_host.runs.checks.survey.survey", answered)
        patched.setattr("crowdlearn_host.runs.train.train", seen)
        crowdlearn("train", "my.toml")
    return given


@pytest.mark.system
def test_a_corrected_start_trains_on_phones_of_its_own_and_is_not_started_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles: list[str] = []

    async def broken(*_: object) -> None:
        profiles.extend(phone.profile for phone in phones.list_phones(folder / "runs/run"))
        raise FleetError("the cable is out")

    for profile in ("redmi-7", "galaxy-a14"):
        write(folder, HERE, f'virtual = 2, profile = "{profile}"')
        with monkeypatch.context() as patched, pytest.raises(FleetError, match="cable"):
            patched.setattr("crowdlearn_host.runs.train.train", broken)
            crowdlearn("train", "my.toml")
    assert profiles == ["redmi-7"] * 2 + ["galaxy-a14"] * 2
    write(folder, HERE, 'phones = ["127.0.0.1:1", "127.0.0.1:2"]')
    with pytest.raises(FleetError, match=r"127.0.0.1:[12]"):  # the group is saved as stopped
        crowdlearn("train", "my.toml")
    write(folder, HERE, "virtual = 2")
    assert crowdlearn("train", "my.toml")["test_accuracy"]
    assert "done" in [event["event"] for event in read_lines(folder / "runs/run/events.jsonl")]
    with pytest.raises(RunError, match="holds a run already"):
        crowdlearn("train", "my.toml")


def test_a_start_that_crashed_midway_is_started_again_and_not_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RunFolder.write

    def crash(self: RunFolder, name: str, content: str) -> None:
        if name == "environment.json":
            raise RuntimeError("power cut")
        whole(self, name, content)

    write(folder, HERE, "virtual = 2")
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        patched.setattr(RunFolder, "write", crash)
        crowdlearn("train", "my.toml")
    with pytest.raises(RunError, match="start it again: crowdlearn train CONFIG --run runs/run"):
        crowdlearn("train", "--resume", "runs/run")
    write(folder, HERE, 'phones = ["one", "two"]')
    assert serials_of_a_start(monkeypatch) == ["one", "two"]


def test_a_folder_of_something_else_is_left_alone(folder: Path) -> None:
    write(folder, HERE, "virtual = 2")
    (folder / "config.toml").write_text('model = "paper-mlp"  # a simulation\n')
    with pytest.raises(RunError, match=r"config.toml is not of a run of phones; name another folder"):
        crowdlearn("train", "my.toml", "--run", ".")
    assert "simulation" in (folder / "config.toml").read_text()
