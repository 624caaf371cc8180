"""The house is as its documents say: reference pages from the code, and answers to a stranger's questions."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import crowdlearn
import pytest
from crowdlearn_host.cli import COMMANDS

from .effects import lost, lost_in, yielding
from .pages import findings_in, page_findings
from .prose import findings
from .questions import QUESTIONS
from .reference import MODULES, pages
from .rooms import MOST_PAST, PACKAGES, arrows, circles, past_the_front_door
from .sentences import persons, too_long

ROOT = Path(__file__).parents[2]
STATE_MACHINES = ("host/crowdlearn_host/coordinator/group", "device_runtime/crowdlearn_device/member")


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


def test_no_effect_of_a_state_machine_is_lost() -> None:
    for folder in STATE_MACHINES:
        assert lost_in(ROOT / folder) == []
    code = "def f() -> Effects:\n yield 1\ndef g():\n f()\ndef h():\n yield 2\n return f()\n"
    code += "def i():\n yield from f()\n"
    assert list(lost(code, yielding(code))) == [(4, "f"), (7, "f")]


def test_prose_rules_find_what_breaks_them(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        'def one(x: Floats) -> int:\n    """What it does. Raises ValueError where it fails."""\n'
        'def two(x: Floats) -> int:\n    """Sum float32 [n]. Raises ValueError if it fails."""\n'
    )
    assert [each.rule for each in findings(file)] == ["headless", "where for if", "array without shape"]


def rules_of(folder: Path, code: str) -> list[str]:
    file = folder / "module.py"
    file.write_text(code)
    return [each.rule for each in findings(file)]


@pytest.mark.parametrize(
    ("first", "rules"),
    [
        ("Count the bytes.", []),
        ("Count of the bytes.", ["no verb first"]),
        ("The count of bytes.", ["no verb first"]),
        ("Counts the bytes.", ["no verb first"]),
        ("`path`: where it is.", ["no verb first"]),
        ("Nothing.", ["no verb first"]),
        ("Return the bytes.", ["returns nothing"]),
    ],
)
def test_a_functions_docstring_begins_with_a_verb(tmp_path: Path, first: str, rules: list[str]) -> None:
    for define in ("def _one", "async def one"):
        assert rules_of(tmp_path, f'{define}() -> None:\n    """{first}"""\n') == rules
    assert rules_of(tmp_path, 'def one() -> int:\n    """Return the bytes."""\n') == []


@pytest.mark.parametrize(
    "first", ["Keeps a file.", "`size` bytes.", "It is kept.", "Meanwhile kept.", "Return one."]
)
def test_a_classs_docstring_begins_with_a_noun(tmp_path: Path, first: str) -> None:
    assert rules_of(tmp_path, f'class One:\n    """{first}"""\n') == ["no noun first"]
    assert rules_of(tmp_path, 'class One:\n    """Runs of a program, and their files."""\n') == []


def test_a_constants_docstring_has_a_head(tmp_path: Path) -> None:
    assert rules_of(tmp_path, 'SIZE = 1\n"""Of a file."""\n') == ["headless"]
    assert rules_of(tmp_path, 'SIZE = 1\n"""Bytes of a file."""\n') == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The device tells its number.", ["device tells"]),
        ("A helper that knows the key is gone.", ["helper that knows"]),
        ("Send it to the phones who wait.", ["phones who"]),
        ("So nobody reads it.", ["nobody reads it."]),
        ("Nobody has run it on a phone, and nobody reads it.", ["nobody reads it."]),
        ("The device sends its number, and the host refuses it.", []),
        ("Virtual phones speak the real adb protocol; the user tells which.", []),
    ],
)
def test_things_are_no_persons(tmp_path: Path, text: str, found: list[str]) -> None:
    assert list(persons(text)) == found
    rules = ["thing as person"] * len(found)
    assert rules_of(tmp_path, f'SIZE = 1\n"""{text}"""\n') == rules
    messages = [f"{rule} in a message" for rule in rules]
    assert rules_of(tmp_path, f'raise ValueError(f"{text} {{size}}")\n') == messages
    page = tmp_path / "page.md"
    page.write_text(f"# A device tells\n\n| a device tells |\n|---|\n\n    device tells\n\n- {text}\n")
    assert [each.rule for each in findings_in(page)] == rules


def test_sentences_have_25_words_at_most(tmp_path: Path) -> None:
    short = "word " * 24 + "`some code of words`"
    long = f"{short} more"
    assert list(too_long(f"{short}. {short}; {short}: {short}\n\n- {short}\n- {short}")) == []
    assert list(too_long(f"{long}.")) == [f"26 words: {long}.".replace("`some code of words`", "code")]
    assert list(too_long("a file      " + "word " * 30)) == []
    assert rules_of(tmp_path, f'"""{long}."""\n') == ["long sentence"]
    page = tmp_path / "page.md"
    page.write_text(f"{long}.\n\n```\n{long}\n```\n\n{short}.\n1. {long}\n")
    assert [(each.line, each.rule) for each in findings_in(page)] == [
        (1, "long sentence"),
        (8, "long sentence"),
    ]


def test_the_pages_and_the_code_break_no_rule_of_prose() -> None:
    code = [path for folder in PACKAGES.values() for path in (ROOT / folder).rglob("*.py")]
    found = [each for path in code if not path.stem.endswith("_pb2") for each in findings(path)]
    assert [str(each) for each in (*found, *page_findings(ROOT))] == []
