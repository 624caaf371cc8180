"""Whichever command comes first, what it writes is its user's alone, whatever the user's umask."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from crowdlearn_host.cli import COMMANDS

FLEET = '[[class]]\nname = "all"\ncount = 2\nsamples = 10\nmacs_per_second = 1e6\n'
SMALL = """
name = "small"
model = "mlp:64-8-10"
data = "digits"
[group]
pieces = 2
[training]
epochs = 1
"""
SAVED = ("--save", "plan.json")
LINES = {
    "bundle": ["--wrong"],  # packages are fetched
    "demo": ["--wrong"],  # minutes of training: train and phones stand for it
    "doctor": ["mlp:8-4-2"],
    "enrol": ["phone-1"],
    "export-model": ["runs/none", "--onnx", "net.onnx"],
    "init": ["run.toml"],
    "measure": ["--no-here"],
    "phones": ["up", "--count", "1"],
    "plan": ["mlp:8-6-4", "--fleet", "fleet.toml", "--no-baselines", *SAVED],
    "schema": [],
    "serve": ["--wrong"],  # until it is stopped
    "simulate": ["small.toml", "--processes", "1"],
    "train": ["small.toml"],
}
"""Words of each command where they are needed; that a command fails changes nothing here."""
NURSE = """
import json, os, signal, sys
import torch  # once for all
from crowdlearn_host import cli
for command, umask, words in json.loads(sys.argv[2]):
    folder = os.path.join(sys.argv[1], f"{command}-{umask}")
    if os.fork() == 0:
        signal.alarm(200)  # one that waits for somebody ends, too
        os.umask(int(umask, 8))
        os.chdir(folder + "/cwd")
        os.environ.update(CROWDLEARN_HOME=folder + "/state/home", HOME=folder)
        sys.argv = ["crowdlearn", *words]
        try:
            cli.main()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.wait()
"""
"""Runs each command in a process of its own, without importing everything anew."""


def open_to_others(*folders: Path) -> list[str]:
    """Return the files and folders below that somebody else could look into or change."""
    found = []
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode) and mode & 0o077:
                found.append(f"{path} {stat.S_IMODE(mode):o}")
    return found


def test_what_the_first_command_writes_is_its_users_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    lines = [(command, "000", [command, *LINES.get(command, [])]) for command in COMMANDS]
    lines.append(("enrol", "022", ["enrol", "phone-1"]))
    for command, umask, _ in lines:
        folder = tmp_path / f"{command}-{umask}" / "cwd"
        folder.mkdir(parents=True, mode=0o700)
        for name, text in (("fleet.toml", FLEET), ("small.toml", SMALL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
    off = [("phones", "000", ["phones", "down"])]

    def run(told: list[tuple[str, str, list[str]]]) -> None:
        nurse = [sys.executable, "-c", NURSE, str(tmp_path), json.dumps(told)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(nurse, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)

    try:
        run(lines)
        written = [tmp_path / f"{command}-{umask}" for command, umask, _ in lines]
        homes = [home for folder in written if (home := folder / "state/home").exists()]
        assert {home.parents[1].name for home in homes} >= {"enrol-000", "enrol-022", "phones-000"}
        assert open_to_others(*(folder / "cwd" for folder in written), *homes) == []
        assert (tmp_path / "simulate-000/cwd/runs").exists()
    finally:
        run(off)
