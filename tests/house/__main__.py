"""How the house stands: python -m tests.house. Exit code 1 if a bar is missed."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from .links import broken_links, pages_of, without_place
from .pages import page_findings
from .prose import findings
from .rooms import MOST_PAST, PACKAGES, arrows, circles, past_the_front_door, sizes

ROOT = Path(__file__).parents[2]
MOST_MODULES = 14
"""Modules side by side in a folder: about a dozen."""


def main() -> int:
    """Print the table, and every finding. Return the exit code."""
    counted = sizes(ROOT)
    largest = max(counted, key=lambda room: counted[room])
    found = circles(arrows(ROOT))
    doors = past_the_front_door(ROOT)
    prose = [
        finding
        for folder in PACKAGES.values()
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.stem.endswith("_pb2")
        for finding in findings(path)
    ]
    prose += page_findings(ROOT)
    rules = Counter(finding.rule for finding in prose)
    most = max(doors, key=lambda name: len(doors[name]))
    print(f"largest folder: {largest}, {counted[largest]} modules (at most {MOST_MODULES})")
    print(f"circles of folders: {len(found)}")
    print("upward imports: 0 if import-linter's contracts are kept, which `make check` runs before")
    told = sum(map(len, doors.values())) / max(len(doors), 1)
    past = f"{told:.1f} in the mean, {len(doors[most])} in {most} (at most {MOST_PAST})"
    print(f"modules of crowdlearn_host that a benchmark imports besides the front door: {past}")
    links = [f"{page}: {link}" for page in pages_of(ROOT) for link in broken_links(page)]
    homeless = without_place(ROOT)
    print(f"links that lead nowhere: {len(links)}; pages without a place in the navigation: {len(homeless)}")
    print(f"prose findings: {len(prose)}" + "".join(f", {count} {rule}" for rule, count in rules.items()))
    for circle in found:
        print("circle:", " <-> ".join(circle))
    for finding in prose:
        print(finding)
    for link in links:
        print(f"link that leads nowhere: {link}")
    for page in homeless:
        print(f"page to name in mkdocs.yml and docs/index.md: {page}")
    too_many = any(len(of) > MOST_PAST for of in doors.values())
    return int(counted[largest] > MOST_MODULES or bool(found) or too_many or bool(prose or links or homeless))


if __name__ == "__main__":
    sys.exit(main())
