"""Help, completion and mistakes are told at once: they import neither torch nor the exporter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from crowdlearn_host.cli import COMMANDS, build
from typer.testing import CliRunner

HEAVY = {"torch", "executorch", "numba", "scipy", "sklearn", "highspy", "onnx", "onnxruntime"}
SCRIPT = """\
import json, sys
from crowdlearn_host.cli import main
code = 0
try:
    main()
except SystemExit as exit:
    code = exit.code
with open(sys.argv[0], "w") as file:
    json.dump([code, sorted({name.partition(".")[0] for name in sys.modules})], file)
"""


def imported(folder: Path, *words: str, **environment: str) -> tuple[int, set[str]]:
    """The exit code of a command in a process of its own, and the packages that it has imported."""
    script = f"import sys; sys.argv = {[str(folder / 'told'), *words]!r}\n{SCRIPT}"
    environment = {**os.environ, **environment}
    subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, check=True
    )
    code, modules = json.loads((folder / "told").read_text())
    return code, set(modules)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], *([name, "-h"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(tmp_path: Path, words: list[str]) -> None:
    code, modules = imported(tmp_path, *words)
    assert code == 0
    assert not modules & HEAVY


def test_commands_are_listed_as_they_are_without_importing_them(tmp_path: Path) -> None:
    listed, whole = (
        CliRunner().invoke(build(listed=only_listed), ["--help"]).output for only_listed in (True, False)
    )
    assert listed == whole
    assert "Train a sliced network on phones." in whole
    code, modules = imported(tmp_path, "--help")
    assert code == 0
    assert not modules & {"numpy", "pydantic"}


def test_completion_imports_nothing_heavy(tmp_path: Path) -> None:
    asked = {"_TOLD_COMPLETE": "complete_bash", "COMP_WORDS": "told tra", "COMP_CWORD": "1"}
    code, modules = imported(tmp_path, **asked)
    assert code == 0
    assert not modules & HEAVY


MISTAKES = {
    "train gone.toml": "a configuration that is not there",
    "train typo.toml": "a key that nobody reads",
    "train model.toml": "a model that is not there",
    "train data.toml": "data that is not there",
    "train plan.toml": "a plan that is not there",
    "train profile.toml": "a phone that nobody knows",
    "train good.toml --run good.toml": "a run folder that is a file",
    "train --resume .": "a folder without a run",
    "evaluate .": "a folder without a run",
    "export-model . --onnx out.onnx": "a folder without a run",
    "report .": "a folder without a run",
    "doctor mpl:3-4": "a model's name that is none",
    "plan mpl:3-4 --fleet typo.toml": "a model's name that is none",
    "plan mlp:3-4 --fleet typo.toml": "a fleet with a key that nobody reads",
    "import gone.onnx": "a file that is not there",
    "simulate typo.toml --data . --run run": "a key that nobody reads",
    "simulate crowd.toml --data gone --run run": "data that is not there",
    "nonsense": "a command that is none",
}
GOOD = 'model = "mlp:64-8-10"\ndata = "digits"\n'
FILES = {
    "good": GOOD,
    "crowd": 'model = "mlp:64-8-10"\n',
    "typo": f"{GOOD}modle = 3\n",
    "model": GOOD.replace("mlp:64-8-10", "gone.py:net"),
    "data": GOOD.replace("digits", "gone"),
    "plan": f'{GOOD}group = {{ plan = "gone.json" }}\n',
    "profile": f'{GOOD}fleet = {{ virtual = 4, profile = "pixel8" }}\n',
}


@pytest.mark.parametrize("command", MISTAKES, ids=lambda command: f"{command}: {MISTAKES[command]}")
def test_a_mistake_imports_nothing_heavy(tmp_path: Path, home: Path, command: str) -> None:
    for name, text in FILES.items():
        (tmp_path / f"{name}.toml").write_text(text)
    code, modules = imported(tmp_path, *command.split())
    assert code in (1, 2)
    assert not modules & HEAVY
