"""The report of a run that grows: its lines are read as they come, and told as parts of a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from threading import Lock
from typing import Any

from crowdlearn_host.errors import RunError

from .html_page import STYLE, table
from .lines import countable
from .now import Now, now
from .page import about, facts, sections
from .run import DAMAGED, Run, assembled

SCRIPT = """\
let seen = -1;
const part = id => document.getElementById(id);
async function look() {
  try {
    const answer = await fetch("state?seen=" + seen);
    if (!answer.ok) throw new Error(await answer.text());
    if (answer.status === 200) {
      const told = await answer.json();
      seen = told.version;
      for (const id of ["title", "about", "facts", "body"]) part(id).innerHTML = told[id];
      document.title = told.name + ": crowdlearn";
      part("state").textContent = told.over ? "over" : "live";
    }
  } catch (error) {
    part("state").textContent = "no answer from crowdlearn watch: " + error.message;
  }
  setTimeout(look, 1000);
}
look();
"""
PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>crowdlearn</title>'
    f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
    '<body><p class="about" id="state" role="status">reading</p><h1 id="title"></h1>'
    '<p class="about" id="about"></p><div class="facts" id="facts"></div>'
    '<div class="grid-of" id="body"></div><script src="live.js"></script></body></html>'
)


@dataclass
class Lines:
    """The objects of a .jsonl file that grows; a line counts once it has its end."""

    path: Path
    read: list[dict[str, Any]] = field(default_factory=list)
    _offset: int = 0

    def more(self) -> bool:
        """Read what has been added; whether there was anything. A file that was begun anew is read anew."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return False
        if size < self._offset:
            self._offset, self.read = 0, []
        if size == self._offset:
            return False
        with self.path.open("rb") as file:
            file.seek(self._offset)
            added = file.read(size - self._offset)
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.read += _objects(whole)
        return bool(whole)


def _objects(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict) and countable(content):
            yield content


class LiveRun:
    """The run in a folder, as it is now. May be asked by several threads."""

    def __init__(self, folder: Path, *, begun: bool = True) -> None:
        """Raise RunError if the folder holds no run, unless that has not `begun`."""
        if begun and not (folder / "config.toml").is_file():
            raise RunError(f"{folder} holds no run; look at the folder's name")
        self._folder = folder
        self._metrics, self._events = Lines(folder / "metrics.jsonl"), Lines(folder / "events.jsonl")
        self._lock = Lock()
        self._version = 0
        self._state: dict[str, Any] = {}

    def state(self, seen: int) -> dict[str, Any] | None:
        """Return the parts of the page as HTML, with a `version`; None if that is what was `seen`.

        Raises RunError if the folder is damaged.
        """
        with self._lock:
            changed = [lines.more() for lines in (self._metrics, self._events)]
            if any(changed) or not self._state:
                self._state = self._read_state()
                self._version += 1
            return None if seen == self._version else {"version": self._version, **self._state}

    def _read_state(self) -> dict[str, Any]:
        try:
            run = assembled(self._folder, list(self._metrics.read), list(self._events.read))
            present = now(self._events.read)
        except DAMAGED as error:
            raise RunError(f"{self._folder} cannot be read ({error}); it is left out") from error
        return parts(run, present)


def parts(run: Run, present: Now) -> dict[str, Any]:
    """Return the page's parts, by their id, and whether the run is over."""
    return {
        "name": run.name,
        "title": escape(run.name),
        "about": about(run),
        "facts": facts(run),
        "body": _present(run, present) + "".join(sections(run)),
        "over": present.over,
    }


def _present(run: Run, present: Now) -> str:
    if run.simulated:
        return ""
    sent = {each.device: each.sent for each in run.traffic}
    metered = bool(run.joules)
    rows = [
        (
            device.name,
            *((str(device.group + 1),) if len(present.groups) > 1 else ()),
            "" if device.piece is None else str(device.piece),
            device.does,
            f"{device.passes}",
            f"{sent.get(device.name, 0) / 1e6:.2f}",
            *((f"{run.joules.get(device.name, 0.0):.3g}",) if metered else ()),
        )
        for device in present.devices
    ]
    head = [
        "device",
        *(["group"] if len(present.groups) > 1 else []),
        *("piece", "does", "passes as dominator", "MB sent"),
        *(["joules, modelled"] if metered else []),
    ]
    groups = "".join(f"<p>group {group.number + 1}: {escape(group.does)}</p>" for group in present.groups)
    note = "" if metered else '<p class="none">energy: no plan has the costs of a MAC and a byte here</p>'
    return f'<section class="wide"><h2>Now</h2>{groups}{table(head, rows)}{note}</section>'
