"""Links of Markdown pages, and the pages that the site's navigation and first page lead to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def pages_of(root: Path) -> list[Path]:
    """Return the Markdown pages that users read; reference pages are made anew."""
    docs = [path for path in (root / "docs").rglob("*.md") if path.parent.name != "reference"]
    return sorted([*docs, *root.glob("*.md"), *root.glob("*/README.md"), *root.glob("examples/*/README.md")])


def broken_links(page: Path) -> Iterator[str]:
    """Yield every relative link of a page that leads to no file, or to no heading of one."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for link in LINK.findall(text):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (heading and heading not in _anchors(target)):
            yield link


def linked(page: Path) -> set[Path]:
    """Return the files that a page links to."""
    links = (link.partition("#")[0] for link in LINK.findall(page.read_text("utf-8")))
    return {(page.parent / link).resolve() for link in links if link and ":" not in link}


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}
