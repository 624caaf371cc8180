"""Whom a device has met in a run: HOME/runs/NAME/ID/peers.json, beside the states of its pieces."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from crowdlearn_device.errors import StateError, WireError
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.protocol import wire_pb2 as pb

from .identity import KEY_BYTES

log = logging.getLogger("crowdlearn")

RUN_ID_BYTES = 16
MAX_RUNS, MAX_DAYS, MAX_BYTES = 8, 60, 4 << 30
"""The limits of runs that a device keeps beside the one that it takes part in."""
CLOCKS_SET = 1_735_689_600
"""The year 2025, in seconds since 1970. A folder that seems older was used while the device's clock was not
set, as after its battery was empty: its age is not known.
"""


def enter(folder: Path) -> None:
    """Make the folder NAME/ID of a run below HOME/runs, and remove runs that are too many or too old.

    Another run of the same name, perhaps another host's, keeps its own. Raises StateError if a link lies on
    the way: what it leads to is not this device's.
    """
    for path in (folder.parent.parent, folder.parent, folder):
        if path.is_symlink():
            raise StateError(f"{path} is a link; remove it on the device, or give another home")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.utime(folder)
    for path, why in old_runs(folder.parent.parent, folder):
        log.info("run %s/%s is removed: %s", path.parent.name, path.name, why)
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.parent.rmdir()


def old_runs(runs: Path, current: Path) -> list[tuple[Path, str]]:
    """Return the folders NAME/ID below `runs` that are to go, and why; never the `current` one.

    The newest MAX_RUNS stay, if they are younger than MAX_DAYS and take no more than MAX_BYTES together.
    """
    found = [path for path in runs.glob("*/*") if path.is_dir() and not path.is_symlink() and path != current]
    going, kept = [], _bytes(current)
    for count, path in enumerate(sorted(found, key=lambda path: path.stat().st_mtime, reverse=True), 2):
        used = path.stat().st_mtime
        days = (time.time() - used) / 86400 if used >= CLOCKS_SET else 0.0
        size = _bytes(path)
        if count > MAX_RUNS or days > MAX_DAYS or kept + size > MAX_BYTES:
            going.append((path, f"{size} bytes, last used {days:.0f} days ago, {count - 1} runs are newer"))
        else:
            kept += size
    return going


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


class KnownPeers:
    """The identities of a run's devices by number, each as it was first seen: for the whole run, whatever
    becomes of connections and processes.
    """

    def __init__(self, folder: Path) -> None:
        """Raise StateError if what is kept in `folder` is damaged."""
        self._path = folder / "peers.json"
        self.identities: Mapping[int, bytes] = {}
        if not self._path.exists():
            return
        try:
            kept = json.loads(self._path.read_bytes())
            self.identities = {int(number): bytes.fromhex(key) for number, key in kept.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise StateError(f"{self._path} is damaged ({error}); start a new run") from error

    def trust(self, peers: Iterable[pb.Peer]) -> list[int]:
        """Return the numbers of these devices, once their identities are on disk. Raises WireError, and keeps
        none of them, where one has another identity than before.
        """
        numbers, identities = [], dict(self.identities)
        for peer in peers:
            if len(peer.identity) != KEY_BYTES:
                raise WireError(f"device {peer.device} has an identity of {len(peer.identity)} bytes")
            if identities.setdefault(peer.device, peer.identity) != peer.identity:
                raise WireError(
                    f"device {peer.device} has changed its identity; start a new run if that is right"
                )
            numbers.append(peer.device)
        if identities != self.identities:
            fields = {number: key.hex() for number, key in identities.items()}
            write_atomically(self._path, json.dumps(fields, indent=1).encode())
            self.identities = identities
        return numbers
