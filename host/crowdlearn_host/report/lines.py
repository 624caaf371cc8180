"""The lines and texts of a run folder, read as far as they are in order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crowdlearn_host.common.files import read_lines

MAX_BYTES = 512 << 20
"""The largest file that is read."""
NUMBERS = frozenset(
    (
        *("time", "epoch", "group", "boundary", "rows", "samples", "samples_per_second"),
        *("loss", "correct", "accuracy", "test_loss", "test_accuracy", "epsilon", "group_epsilon"),
        *("bytes_per_sample", "planned_bytes_per_sample"),
    )
)
"""The keys of lines whose values are numbers."""


def text_of(path: Path) -> str:
    """Return the text of a file, empty if there is none. Raises ValueError if it is larger than MAX_BYTES."""
    return path.read_text("utf-8", errors="replace") if _is_there(path) else ""


def lines_of(path: Path, damaged: list[str]) -> list[dict[str, Any]]:
    """Return the objects of a .jsonl file. A note on lines that cannot be read is added to `damaged`.

    Raises ValueError if no line can be read, or the file is larger than MAX_BYTES.
    """
    wrong: list[int] = []
    lines = list(read_lines(path, wrong, countable)) if _is_there(path) else []
    if wrong and not lines:
        raise ValueError(f"no line of {path.name} can be read")
    if wrong:
        where = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        damaged.append(f"{path.name}: {len(wrong)} of {len(wrong) + len(lines)} lines are damaged ({where})")
    return lines


def countable(line: Mapping[str, Any]) -> bool:
    """Return whether all that a report calculates with is a number or null."""
    spent = line.get("bytes", {})
    if not isinstance(spent, dict):
        return "event" in line  # of which one has a number of bytes
    numbers = (*(value for key, value in line.items() if key in NUMBERS), *spent.values())
    return all(value is None or isinstance(value, int | float) for value in numbers)


def _is_there(path: Path) -> bool:
    if not path.exists():
        return False
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES} bytes")
    return True
