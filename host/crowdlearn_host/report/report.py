"""The report of a run: its page, and one that compares it with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crowdlearn_device.platform.files import write_atomically

from .comparison import comparison
from .page import page
from .run import read_run


@dataclass(frozen=True)
class Report:
    """The pages of a report, not written yet: `target` is the page that was asked for, and `pages` have the
    text of each by its path. `damaged` names lines of the run's files that are left out.
    """

    target: Path
    pages: dict[Path, str]
    damaged: tuple[str, ...]

    def write(self) -> None:
        """Write every page, each only once it is complete; files that are there are replaced."""
        for path, text in self.pages.items():
            write_atomically(path, text.encode())


def compose(run: Path, output: Path | None = None, against: Sequence[Path] = ()) -> Report:
    """Compose the report of the run in a folder: one page, in `output` or report.html.

    With runs to compare `against`, each has its report.html, and a page that links them is the target, in
    `output` or comparison.html. Raises RunError if a folder holds no run.
    """
    found = read_run(run)
    own = run / "report.html"
    if not against:
        target = output or own
        return Report(target, {target: page(found)}, found.damaged)
    others = [(read_run(other), other / "report.html") for other in against]
    target = output or run / "comparison.html"
    pages = {own: page(found), **{path: page(other) for other, path in others}}
    pages[target] = comparison([(found, own), *others], target)
    return Report(target, pages, found.damaged)
