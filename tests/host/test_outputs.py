"""Commands look at the files that they are to write before they work, and replace only what they wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from crowdlearn_export.program.deploy import export_onnx
from crowdlearn_host.cli import build
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.errors import ConfigError, HostError
from crowdlearn_host.models.named import build_model
from safetensors.torch import save_file
from typer.testing import CliRunner

OWN = "what the user wrote\n"
FLEET = '[[class]]\nname = "all"\ncount = 2\nsamples = 10\nmacs_per_second = 1e6\n'


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(build_model("mlp:8-6-4", 0), torch.randn(2, 8), path)
    return path


@pytest.fixture
def folder(tmp_path: Path, home: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(source.read_bytes())
    (tmp_path / "fleet").write_text(FLEET)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text('model = "mlp:64-8-10"\ndata = "digits"\n')
    RunFolder(run, create=True).close()
    (run / "inputs.json").write_text(json.dumps({"config_folder": str(tmp_path), "given": {}}))
    (run / "metrics.jsonl").write_text("")
    (run / "events.jsonl").write_text("")
    save_file(build_model("mlp:64-8-10", 0).state_dict(), run / "model.safetensors")
    return tmp_path


def crowdlearn(command: str) -> None:
    words = command.split()
    result = CliRunner().invoke(build(words[:1]), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output


PLAN = "plan mlp:8-6-4 --fleet fleet --no-baselines"
WRITES = {
    "import net.onnx --to": "out.py",
    f"{PLAN} --save": "out.json",
    f"{PLAN} --plot": "out.svg",
    "report run -o": "out.html",
    "export-model run --onnx": "out.onnx",
    "export-model run --pte": "out.pte",
    "profile --out": "fleet.toml",
}
RECOGNISED = [command for command in WRITES if not command.startswith(("export", "profile"))]


@pytest.mark.parametrize("command", WRITES)
def test_a_file_of_the_user_is_not_replaced(folder: Path, command: str) -> None:
    file = folder / WRITES[command]
    file.write_text(OWN)
    with pytest.raises(ConfigError, match=f"{file.name} is there already.*--force"):
        crowdlearn(f"{command} {file.name}")
    assert file.read_text() == OWN


@pytest.mark.parametrize("command", [command for command in WRITES if not command.startswith("profile")])
def test_folders_are_made_and_a_file_is_replaced_if_forced(folder: Path, command: str) -> None:
    file = folder / "new" / "folder" / WRITES[command]
    crowdlearn(f"{command} {file}")
    file.write_text(OWN)
    crowdlearn(f"{command} {file} --force")
    assert file.read_bytes() != OWN.encode()


@pytest.mark.parametrize("command", RECOGNISED)
def test_what_the_command_wrote_is_written_again_until_the_user_changes_it(
    folder: Path, command: str
) -> None:
    file = folder / WRITES[command]
    crowdlearn(f"{command} {file}")
    crowdlearn(f"{command} {file}")
    file.write_text(OWN + file.read_text())
    with pytest.raises(ConfigError, match="--force"):
        crowdlearn(f"{command} {file}")


@pytest.mark.parametrize("command", WRITES)
def test_what_cannot_be_written_is_told_before_the_work(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for work in (
        "runs.results.trained_model.model_and_test",
        "models.named.build_model",
        "cli.devices.profile.discover",
    ):
        monkeypatch.setattr(f"crowdlearn_host.{work}", None)
    monkeypatch.setattr("crowdlearn_export.onnx_import.reader.import_onnx", None)
    (folder / WRITES[command]).mkdir()
    with pytest.raises(HostError, match="is a folder; name a file in it"):
        crowdlearn(f"{command} {WRITES[command]}")
    with pytest.raises(HostError, match=r"net\.onnx is a file, and .* takes it for a folder"):
        crowdlearn(f"{command} net.onnx/{WRITES[command]}")
    (folder / f"loop{WRITES[command]}").symlink_to(f"loop{WRITES[command]}")
    with pytest.raises(HostError, match="a link that leads to itself"):
        crowdlearn(f"{command} loop{WRITES[command]}")
    os.mkfifo(folder / f"pipe{WRITES[command]}")
    with pytest.raises(HostError, match="a pipe that nothing reads"):
        crowdlearn(f"{command} pipe{WRITES[command]}")


@pytest.mark.parametrize(
    "command",
    [
        "export-model run --onnx out --pte ./out",
        f"{PLAN} --save out --plot out",
        "measure --csv out --plot out",
    ],
)
def test_two_files_of_a_command_are_two(folder: Path, command: str) -> None:
    with pytest.raises(ConfigError, match=r"name one file, .*; name two"):
        crowdlearn(command)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", ['a""".onnx', "m\\x.onnx", "m\\N{.onnx", "a\nb.onnx", "ü ' {x} %s.onnx"])
def test_a_program_is_built_from_a_file_of_any_name(folder: Path, name: str) -> None:
    (folder / "net.onnx").rename(folder / name)
    words = ["import", name, "--to", "made.py"]
    assert CliRunner().invoke(build(words[:1]), words, catch_exceptions=False).exit_code == 0
    assert build_model("made.py:build", 0)(torch.zeros(2, 8)).shape == (2, 4)
    assert CliRunner().invoke(build(words[:1]), words, catch_exceptions=False).exit_code == 0
