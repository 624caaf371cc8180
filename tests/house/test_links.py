"""Every page is found: links lead somewhere, and navigation and first page lead to every page once."""

from __future__ import annotations

from pathlib import Path

import pytest

from .links import broken_links, pages_of, without_place

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


def test_navigation_and_first_page_lead_to_every_page(tmp_path: Path) -> None:
    """Each page has one place, under one of the four kinds."""
    assert without_place(ROOT) == []
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text("nav:\n  - Home: index.md\n  - One: one.md\n  - Two: two.md\n")
    (tmp_path / "docs/index.md").write_text("[one](one.md) [three](three.md)")
    for name in ("one", "two", "three"):
        (tmp_path / f"docs/{name}.md").write_text("# Page\n")
    assert without_place(tmp_path) == ["three.md", "two.md"]
