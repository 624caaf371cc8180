"""Prose rules over Markdown pages: sentences of paragraphs and lists, not tables, code and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .prose import Finding
from .sentences import persons, too_long

PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "android_app/README.md", "examples/README.md")
"""Pages beside those of docs/."""


def page_findings(root: Path) -> Iterator[Finding]:
    """Yield every finding in the pages of the repository at `root`."""
    written = (path for path in (root / "docs").rglob("*.md") if path.parent.name != "reference")
    for path in (*sorted(written), *(root / name for name in PAGES)):
        yield from findings_in(path)


def findings_in(path: Path) -> Iterator[Finding]:
    """Yield every finding in the Markdown file at `path`."""
    for line, text in _paragraphs(path.read_text("utf-8")):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
        for found in persons(text):
            yield Finding(path, line, "thing as person", found)
        for found in too_long(text):
            yield Finding(path, line, "long sentence", found)


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each paragraph and item of a list."""
    begun, gathered, code = 1, [""], False
    for number, line in enumerate([*text.split("\n"), ""], 1):
        fence = line.lstrip().startswith("```")
        code ^= fence
        indented = line.startswith("    ") and not any(gathered)
        left_out = fence or code or indented or line.startswith(("#", "|")) or not line.strip()
        if left_out or re.match(r"\s*(?:[-*]|\d+\.) ", line):
            if any(gathered):
                yield begun, "\n".join(gathered)
            begun, gathered = number, []
        if not left_out:
            gathered.append(line)
