"""Every identity that a device meets, in any run: HOME/identities.jsonl, to which lines are only added.

Each line carries a hash over all before it: a line that was taken out or changed shows. A host that replaces
a device by one of its own, or invents one, has its fingerprint in the logs of those that met it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crowdlearn_device.errors import StateError

from .assignment_policy import fingerprint

FILE = "identities.jsonl"


@dataclass(frozen=True)
class Met:
    """An identity when it was first met in a run, as device `number`. `is_new`: in no run before."""

    time: float
    run: str
    number: int
    fingerprint: str
    is_new: bool


class IdentityLog:
    """The log of a device. Raises StateError if it is not as this device wrote it."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self.met: list[Met] = []
        self.head = hashlib.sha256(b"crowdlearn identities").hexdigest()
        """The hash over all lines: two readers that have the same one have read the same log."""
        for number, line in enumerate(self._whole_lines(), 1):
            try:
                entry = json.loads(line)
                content = json.dumps(entry["met"])
                if entry["chain"] != self._chain(content):
                    raise ValueError("its hash is not that of the lines before it")
                self.met.append(Met(**entry["met"]))
            except (ValueError, KeyError, TypeError) as error:
                raise StateError(
                    f"{FILE}, line {number}, is not as this device wrote it ({error}); see who changed it"
                ) from error
            self.head = entry["chain"]

    def note(self, run: str, identities: Mapping[int, bytes]) -> list[Met]:
        """Add the identities of a run, by number, that it has not met there; on disk when this returns.

        Returns those that are added.
        """
        known = {(each.run, each.number, each.fingerprint) for each in self.met}
        prints = {each.fingerprint for each in self.met}
        added = []
        for number, identity in sorted(identities.items()):
            print_ = fingerprint(identity)
            if (run, number, print_) not in known:
                added.append(Met(round(time.time(), 3), run, number, print_, print_ not in prints))
                prints.add(print_)
        if added:
            self._append(added)
        return added

    def _append(self, added: list[Met]) -> None:
        lines = []
        for each in added:
            content = json.dumps(vars(each))
            self.head = self._chain(content)
            lines.append(json.dumps({"met": vars(each), "chain": self.head}) + "\n")
        with self._path.open("a") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self.met += added

    def _chain(self, content: str) -> str:
        return hashlib.sha256(f"{self.head}\n{content}".encode()).hexdigest()

    def _whole_lines(self) -> list[bytes]:
        """Return the lines; a last one that was being written when the device died is removed."""
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        return whole.splitlines()
