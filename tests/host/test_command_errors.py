"""What the system refuses is told in one line that names the file, as mistakes of the user are."""

import sys
from pathlib import Path

import pytest
from crowdlearn_host.cli import main


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            "report {0} -o {0}/crowd.toml/x.html",
            "{0}/crowd.toml is a file, and {0}/crowd.toml/x.html takes it for a folder; name another",
        ),
        ("simulate {0}/crowd.toml --data {0} --run {0}/crowd.toml", "{0}/crowd.toml: File exists"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    told: str,
) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "crowd.toml").write_text('model = "mlp:6-10-4"\n')
    monkeypatch.delenv("CROWDLEARN_DEBUG", raising=False)
    monkeypatch.setattr(sys, "argv", ["crowdlearn", *command.format(tmp_path).split()])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1
    *reminders, last = capsys.readouterr().err.splitlines()  # there are reminders where it takes long
    assert all(", since " in line for line in reminders)
    assert last == f"crowdlearn: {told.format(tmp_path)}"
