"""Whom a device has met in a run: HOME/runs/NAME/ID/peers.json, beside the states of its pieces."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from crowdlearn_device.errors import StateError, WireError
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.protocol import wire_pb2 as pb

from .envelope import KEY_BYTES

RUN_ID_BYTES = 16


def enter(folder: Path) -> None:
    """Make the folder NAME/ID of a run. A new run takes the place of older ones of its name: what was kept
    and trusted there is nothing to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other)
        elif other != folder:
            other.unlink()


class Pins:
    """The identities of a run's devices by number, each as it was first seen: for the whole run, whatever
    becomes of connections and processes.
    """

    def __init__(self, folder: Path) -> None:
        """Raises StateError if what is kept in `folder` is damaged."""
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
        """The numbers of these devices, once their identities are on disk. Raises WireError, and keeps none
        of them, where one has another identity than before.
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
            told = {number: key.hex() for number, key in identities.items()}
            write_atomically(self._path, json.dumps(told, indent=1).encode())
            self.identities = identities
        return numbers
