"""How much commands say, where that is logged, and what their exit codes are."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from crowdlearn_host.cli import main
from crowdlearn_host.cli.console.progress import TrainingProgress
from crowdlearn_host.cli.console.verbosity import Verbosity, choose, logs_closed, options_apart
from rich.console import Console

from tests.host.test_progress import Screen

EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("compiled", {"done": 0, "of": 4}),
    ("pass", {"epoch": 0, "device": "phone-1\x1b[2J", "boundary": 9}),
    ("paused", {"why": "phone-1 is gone", "grace": 9.0}),
]


def told(verbosity: Verbosity, log: Path | None = None) -> list[str]:
    """What of some events is printed off a terminal, by its first words."""
    screen = Screen()
    with logs_closed():
        choose(verbosity, log)
        with TrainingProgress(Console(file=screen, width=200)) as progress:
            for event, fields in EVENTS:
                progress.show(event, fields)
    return [re.split(r"[:,] ", line.partition("] ")[2])[0] for line in screen.getvalue().splitlines()]


def test_quietly_only_problems_are_told_and_verbosely_every_event() -> None:
    usual = ["compiling slice programs", "paused"]
    assert told(Verbosity()) == usual
    assert told(Verbosity(quiet=True)) == ["paused"]
    assert told(Verbosity(verbose=1)) == [usual[0], "pass", "paused"]


def test_a_log_has_everything_with_times_however_quiet_the_command(tmp_path: Path) -> None:
    told(Verbosity(quiet=True), tmp_path / "log")
    told(Verbosity(quiet=True), tmp_path / "log")
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 2 * 5
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|DEBUG) crowdlearn: ", line) for line in lines
    )
    assert "\x1b" not in "".join(lines)


def test_options_stand_before_or_behind_the_command() -> None:
    assert options_apart(["train", "my.toml", "-q", "--log-file", "log", "--run", "r"]) == (
        ["-q", "--log-file", "log"],
        ["train", "my.toml", "--run", "r"],
    )
    assert options_apart(["-vv", "enrol", "--", "-q", "--log-file"]) == (
        ["-vv"],
        ["enrol", "--", "-q", "--log-file"],
    )
    assert options_apart(["report", "--log-file=x", "run"]) == (["--log-file=x"], ["report", "run"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--version", 0, ""),
        ("report nowhere", 1, "nowhere has no metrics.jsonl"),
        ("report nowhere -q -v", 1, "contradict each other"),
        ("report nowhere --log-file missing/log", 1, "missing/log: No such file or directory"),
        ("report", 2, "Missing argument"),
        ("nonsense", 2, "No such command 'nonsense'"),
    ],
)
def test_exit_codes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["crowdlearn", *words.split()])
    with pytest.raises(SystemExit) as exit:
        main()
    assert (exit.value.code or 0) == code
    assert said in capsys.readouterr().err


def test_the_log_has_the_traceback_of_an_error_that_the_terminal_tells_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["crowdlearn", "report", "nowhere", "--log-file", "log"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.count("\n") == 1
    log = (tmp_path / "log").read_text()
    assert "ERROR crowdlearn: nowhere has no metrics.jsonl" in log
    assert "Traceback (most recent call last)" in log


def test_ctrl_c_is_130(tmp_path: Path) -> None:
    """In a command that has nothing to keep: its model waits to read a pipe that nothing is written to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "waits.py").write_text('open("pipe").read()\n')
    command = [str(Path(sys.executable).parent / "crowdlearn"), "doctor", "waits.py:net", "--shape", "4"]
    writer = None
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        writer = os.open(tmp_path / "pipe", os.O_WRONLY)  # returns once the command reads
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    os.close(writer)


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "crowdlearn"
    for words, found in (("crowdlearn tra", "train"), ("crowdlearn report --aga", "--against")):
        asked = {
            "_CROWDLEARN_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        told = subprocess.run(
            [command], env={**os.environ, **asked}, capture_output=True, text=True, check=True
        ).stdout
        assert told.split() == [found]
