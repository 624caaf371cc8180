"""Every page is found: links lead somewhere, and navigation and first page lead to every page once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .links import broken_links, linked, pages_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", pages_of(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `heading`, with words\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-heading-with-words) [c](none.md) [d](other.md#none) [e](https://x)"
    )
    assert list(broken_links(page)) == ["none.md", "other.md#none"]


def test_navigation_and_first_page_lead_to_every_page() -> None:
    """Each page has one place, under one of the four kinds."""
    docs = ROOT / "docs"
    nav = re.findall(r": ([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {str(path.relative_to(docs)) for path in pages_of(ROOT) if path.is_relative_to(docs)}
    assert sorted(name for name in nav if not name.startswith("reference/")) == sorted(pages)
    assert pages - {"index.md"} <= {
        str(path.relative_to(docs)) for path in linked(docs / "index.md") if path.is_relative_to(docs)
    }
