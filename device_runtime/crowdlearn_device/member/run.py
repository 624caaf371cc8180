"""The run that a device is in, and what the device keeps of it on its disk."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.privacy.first_weights.commitment import JointSeed
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.security.identity_log import IdentityLog
from crowdlearn_device.security.known_peers import KnownPeers
from crowdlearn_device.state.on_disk import StateStore

from .secure_sharing import SecureSharing

log = logging.getLogger("crowdlearn")


@dataclass
class Run:
    """A run as the device `number` of it knows it. What lies on its disk is read when it is first used."""

    home: Path
    identity: Identity
    name: str
    id: str
    number: int

    @property
    def full_name(self) -> str:
        """Return NAME/ID, which keys are derived from."""
        return f"{self.name}/{self.id}"

    @property
    def folder(self) -> Path:
        """Return HOME/runs/NAME/ID."""
        return self.home / "runs" / self.full_name

    @property
    def has_noise(self) -> bool:
        """Return whether all steps in which this device took part were those of DP-SGD."""
        return not self._plain_steps.exists()

    def note_plain_steps(self) -> None:
        """Keep that a step without noise may follow; on disk when this returns."""
        if self.has_noise:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._plain_steps, b"")

    @property
    def _plain_steps(self) -> Path:
        return self.folder / "steps_without_noise"

    @cached_property
    def states(self) -> StateStore:
        """Return the states of pieces that this device holds."""
        return StateStore(self.folder)

    @cached_property
    def peers(self) -> KnownPeers:
        """Return the identities of the run's devices that this one has met."""
        return KnownPeers(self.folder)

    @cached_property
    def sums(self) -> SecureSharing:
        """Return the secure sums in which this device takes part."""
        return SecureSharing(self.full_name, self.number, self.identity, self.folder)

    @cached_property
    def first_weights(self) -> JointSeed:
        """Return this device's part in the drawing of the first weights."""
        return JointSeed(self.full_name, self.number, self.folder)

    @cached_property
    def _log(self) -> IdentityLog:
        return IdentityLog(self.home)

    @property
    def identities(self) -> Mapping[int, bytes]:
        """Return the public keys of the run's devices, by number."""
        return self.peers.identities

    def trust(self, peers: Iterable[pb.Peer]) -> list[int]:
        """Return the numbers of these devices. A device's key is trusted at first sight and then for the
        whole run.
        """
        trusted = self.peers.trust(peers)
        for met in self._log.note(self.full_name, {number: self.identities[number] for number in trusted}):
            if met.is_new and met.number != self.number:
                log.info(
                    "device %d of %s is new to this one: %s", met.number, self.full_name, met.fingerprint
                )
        return trusted
