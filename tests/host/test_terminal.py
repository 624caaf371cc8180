"""What devices say reaches the terminal as they said it, and nothing of it is obeyed."""

import io
import sys
from string import Formatter

import pytest
from crowdlearn_host.cli import main
from crowdlearn_host.cli.console.problems import EACH, PROBLEMS
from crowdlearn_host.cli.console.progress import TrainingProgress
from crowdlearn_host.cli.devices import devices
from crowdlearn_host.devices.discovery import Found, Visited
from crowdlearn_host.devices.facts import parse_facts
from crowdlearn_host.errors import FleetError
from rich.console import Console

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"
NUMBERS = {"boundary", "pieces", "epoch", "grace", "group"}
SAID = "low [/x] [rows, (2,)] were due :bomb:"


def told(event: str, **fields: object) -> str:
    screen = io.StringIO()
    with TrainingProgress(Console(file=screen, width=200, force_terminal=True)) as shown:
        shown.show(event, fields)
    return screen.getvalue()


@pytest.mark.parametrize("event", ["left", "leaving", "swapped", "fault", "unreachable", "refused"])
def test_brackets_of_a_device_are_no_markup(event: str) -> None:
    assert SAID in told(event, device="[bold]phone[/bold]", reason=SAID)
    assert "[bold]phone[/bold]" in told(event, device="[bold]phone[/bold]", reason=SAID)


@pytest.mark.parametrize("event", sorted(PROBLEMS))
def test_escape_sequences_of_a_device_are_shown_and_not_sent(event: str) -> None:
    said = f"phone{ESCAPE}\nepoch 9"
    text = EACH.get(event, PROBLEMS[event])
    wanted = [(name, form) for _, name, form, _ in Formatter().parse(text) if name]
    fields = {name: 1 if form or name in NUMBERS else said for name, form in wanted}
    shown = told(event, **fields)
    assert "\x1b]0" not in shown
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert "\nepoch 9" not in shown


def test_what_a_phone_says_of_itself_is_no_markup_and_no_escape_sequence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    answer = f"===properties\n[ro.product.model]: [[/x] {ESCAPE}]\n[ro.product.manufacturer]: [[red]]\n"
    visited = [Visited(Found("[/serial]", "tcp"), parse_facts("a", answer))]
    devices._show([*visited, Visited(Found("b", "tcp"), None, f"b: {ESCAPE}")])
    out, err = capsys.readouterr()
    assert "[/serial]" in out
    assert "[red] [/x]" in out
    assert "\x1b" not in out + err
    assert "\\x1b" in err


def test_an_error_is_one_line_without_escape_sequences(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise FleetError(f"phone: low{ESCAPE}\nepoch 9: all is well")

    monkeypatch.delenv("CROWDLEARN_DEBUG", raising=False)
    monkeypatch.setattr(devices, "discover", refuse)
    monkeypatch.setattr(sys, "argv", ["crowdlearn", "devices"])
    with pytest.raises(SystemExit):
        main()
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("crowdlearn: phone: low\\x1b]0;owned\\x07")
    assert "\x1b" not in line
