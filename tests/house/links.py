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


def without_place(root: Path) -> list[str]:
    """Return the pages of docs/ that the navigation does not name once, or that the first page leaves out."""
    docs = root / "docs"
    nav = re.findall(r": ([\w./-]+\.md)$", (root / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    pages = [path for path in pages_of(root) if path.is_relative_to(docs)]
    first = {(docs / "index.md").resolve(), *linked(docs / "index.md")}
    names = {str(path.relative_to(docs)): path.resolve() in first for path in pages}
    return [name for name, found in names.items() if nav.count(name) != 1 or not found]


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}
