"""The house is as its documents say: reference pages from the code, and answers to a stranger's questions."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import crowdlearn
import pytest
from crowdlearn_host.cli import COMMANDS

from .prose import findings
from .questions import QUESTIONS
from .reference import MODULES, pages
from .rooms import MOST_PAST, arrows, circles, past_the_front_door

ROOT = Path(__file__).parents[2]


def test_reference_pages_tell_every_name_command_and_key() -> None:
    made = pages()
    assert all(f"## {name}\n" in made["python.md"] for name in crowdlearn.__all__)
    for module in MODULES:
        names = import_module(f"crowdlearn.{module}").__all__
        assert f"# crowdlearn.{module}\n" in made["python.md"]
        assert all(f"| `{name}` |" in made["python.md"] for name in names), module
    assert all(f"## crowdlearn {name}" in made["commands.md"] for name in COMMANDS)
    assert all(f"## [{table}]" in made["configuration.md"] for table in ("group", "training", "fleet"))


@pytest.mark.parametrize("name", ["", *MODULES])
def test_a_public_module_lists_what_it_imports_for_its_users(name: str) -> None:
    module = import_module(f"crowdlearn.{name}".rstrip("."))
    assert list(module.__all__) == sorted(module.__all__, key=_ordered)
    assert all(not each.startswith("_") for each in module.__all__)
    for each in module.__all__:
        assert hasattr(module, each)
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018


def _ordered(name: str) -> tuple[int, str]:
    """Return what ruff sorts `__all__` by: constants, then classes, then others."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2, name


def test_public_modules_are_those_of_the_front_door() -> None:
    folder = Path(crowdlearn.__path__[0])
    inner = {"run", "training", "workflow"}
    paths = (*folder.glob("[!_]*.py"), *(path.parent for path in folder.glob("*/__init__.py")))
    found = {path.stem for path in paths} - inner
    assert found == set(MODULES)


def test_a_benchmark_imports_one_module_past_the_front_door_at_most() -> None:
    assert {name: of for name, of in past_the_front_door(ROOT).items() if len(of) > MOST_PAST} == {}


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
