"""A release has one version everywhere, and a section of the changelog in which each change is once."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import crowdlearn_device

ROOT = Path(__file__).parents[2]
PROJECTS = ("device_runtime", "export", "host")
SECTION = re.compile(r"^## (\S+?)(?:, (\d{4}-\d{2}-\d{2}))?$", re.M)


def version_of(project: str) -> str:
    table = tomllib.loads((ROOT / project / "pyproject.toml").read_text("utf-8"))["project"]
    return str(table["version"])


def test_all_distributions_have_one_version_and_need_each_other_in_it() -> None:
    (version,) = {version_of(project) for project in PROJECTS}
    assert crowdlearn_device.__version__ == version
    for project in PROJECTS:
        table = tomllib.loads((ROOT / project / "pyproject.toml").read_text("utf-8"))["project"]
        own = [need for need in table["dependencies"] if need.startswith("crowdlearn")]
        assert all(need.endswith(f"=={version}") for need in own), own
    gradle = (ROOT / "android_app" / "app" / "build.gradle").read_text("utf-8")
    assert f'versionName = "{version}"' in gradle


def test_the_changelog_has_a_section_for_each_version_newest_first() -> None:
    found = SECTION.findall((ROOT / "CHANGELOG.md").read_text("utf-8"))
    released = [(name, date) for name, date in found if name != "Unreleased"]
    assert released[0][0] == version_of("host")
    assert all(date for _, date in released), released
    numbers = [tuple(map(int, name.split("."))) for name, _ in released]
    assert numbers == sorted(numbers, reverse=True)


def test_the_changelog_has_each_change_once() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    bullets = Counter(" ".join(each.split()) for each in re.split(r"^- |^## ", text, flags=re.M)[1:])
    assert [bullet for bullet, times in bullets.items() if times > 1] == []
