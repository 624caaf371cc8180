"""Whatever ends a run, nothing is left behind, and the run goes on to the same end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.runs.data import load_split, to_npz

pytestmark = pytest.mark.system
MODEL = """
from crowdlearn_host.models.named import mlp

def net():
    return mlp((64, 16, 8, 10))
"""
CONFIG = """
data = "digits as files"
model = "net.py:net"

[training]
epochs = 3
batch = 64
learning_rate = 0.05
kernels = "by_size"

[fleet]
virtual = 3
"""
MAIN = "from crowdlearn_host.cli import main; main()"


def start(folder: Path, *arguments: str, cwd: str = ".") -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", MAIN, *arguments],
        cwd=folder / cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epoch(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(rf"(\[[\d:]+\] )?epoch {number}:", line):
            return
    raise AssertionError(process.communicate())


def descendants_of(home: Path) -> list[psutil.Process]:
    """Processes that have this test's home."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        environment = process.info["environ"] or {}
        if environment.get("CROWDLEARN_HOME") == str(home):
            found.append(process)
    return found


def wait_until_all_gone(home: Path) -> None:
    left = descendants_of(home)
    _, alive = psutil.wait_procs(left, timeout=60)
    assert not [process.cmdline() for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def interrupt(process: subprocess.Popen[str], how: signal.Signals, home: Path, run: Path) -> str:
    """What the process said to stderr; no process of it is left, nor half of a file unless it was killed."""
    process.send_signal(how)
    _, errors = process.communicate(timeout=180)
    assert process.returncode != 0
    wait_until_all_gone(home)
    if how != signal.SIGKILL:
        assert not list(run.rglob("*.partial"))
    return errors


@pytest.mark.long
def test_an_interrupted_run_leaves_nothing_behind_and_resumes(home, tmp_path):
    """Once by Ctrl-C and once by a kill; the last to go on finds programs that others compiled."""
    for folder in ("mine/digits as files", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine" / "net.py").write_text(MODEL)
    (tmp_path / "mine" / "config.toml").write_text(CONFIG)
    for split in ("train", "test"):
        (tmp_path / "mine" / "digits as files" / f"{split}.npz").write_bytes(
            to_npz(load_split("digits", split))
        )
    run = tmp_path / "run"
    first = start(tmp_path, "train", "mine/config.toml", "--run", "run")
    wait_for_epoch(first, 1)
    errors = interrupt(first, signal.SIGINT, home, run)
    assert "--resume" in errors.splitlines()[-1]
    assert "Traceback" not in errors

    second = start(tmp_path, "train", "--resume", "../run", cwd="elsewhere")
    wait_for_epoch(second, 2)
    interrupt(second, signal.SIGKILL, home, run)
    told = list(read_lines(run / "events.jsonl"))
    assert "recompiled" not in [e["event"] for e in told]
    before = len(told)
    began = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**began, "programs": ["compiled elsewhere"]}))

    third = start(tmp_path, "train", "--resume", "../run", "--json", cwd="elsewhere")
    output, errors = third.communicate(timeout=360)
    assert third.returncode == 0, errors[-2000:]
    result = json.loads(output)
    assert result["test_accuracy"] > 0.5
    assert load_model_state(run)
    wait_until_all_gone(home)
    assert not list(run.rglob("*.partial"))  # those of processes that were killed were replaced

    told = list(read_lines(run / "events.jsonl"))
    assert "recompiled" in [e["event"] for e in told[before:]]
    assert min(e["boundary"] for e in told[before:] if e["event"] == "assigned") > 0
    epochs = [e["epoch"] for e in told if e["event"] == "epoch"]
    # An epoch whose end was not yet on disk when the process died is told twice; it counts once.
    assert sorted(set(epochs)) == [0, 1, 2]
