"""The house is as its documents say: reference pages from the code, and answers to a stranger's questions."""

from __future__ import annotations

from pathlib import Path

import crowdlearn
import pytest
from crowdlearn_host.cli import COMMANDS

from .prose import findings
from .questions import QUESTIONS
from .reference import pages
from .rooms import arrows, circles

ROOT = Path(__file__).parents[2]


def test_reference_pages_tell_every_name_command_and_key() -> None:
    made = pages()
    assert all(f"## {name}\n" in made["python.md"] for name in crowdlearn.__all__)
    assert all(f"## crowdlearn {name}" in made["commands.md"] for name in COMMANDS)
    assert all(f"## [{table}]" in made["configuration.md"] for table in ("group", "training", "fleet"))


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_file_that_answers_a_question_is_there(question: str) -> None:
    path, name = QUESTIONS[question]
    assert name in (ROOT / path).read_text("utf-8")


def test_no_rooms_import_each_other_in_a_circle() -> None:
    assert circles(arrows(ROOT)) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_prose_rules_find_what_breaks_them(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        'def one(x: Floats) -> int:\n    """What it does. Raises ValueError where it fails."""\n'
        'def two(x: Floats) -> int:\n    """Sum float32 [n]. Raises ValueError if it fails."""\n'
    )
    assert [each.rule for each in findings(file)] == ["headless", "where for if", "array without shape"]
