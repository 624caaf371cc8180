"""The state of a device between two assignments: its keys, the state that moves, and its role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.privacy.mechanisms.outgoing import Outgoing
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.security.envelope import Channel
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.state.piece_state import Neurons, PartialState

from .effects import Parts
from .inheritance import Inheritance
from .outbox import Outbox
from .roles.base import Role
from .run import Run


@dataclass
class Channels:
    """The keys of a generation: this device's own, and a channel to each device with which it has exchanged
    them.
    """

    own: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    to: dict[int, Channel] = field(default_factory=dict)

    @property
    def public(self) -> bytes:
        """Return the key to be offered, 32 bytes."""
        return self.own.public_key().public_bytes_raw()

    def exchange(
        self, run: str, me: int, identity: Identity, keys: pb.Keys, known: Mapping[int, bytes]
    ) -> None:
        """Open a channel to each other device that is `known`. Raises WireError if there are some already."""
        if self.to:
            # Sealing again from sequence number 0 under the same keys would give their stream away.
            raise WireError("keys were exchanged already")
        for offer in keys.offers:
            if offer.device != me and offer.device in known:
                own = (run, keys.generation, me, identity, self.own)
                self.to[offer.device] = Channel(*own, offer.device, known[offer.device], offer.ephemeral)

    def __getitem__(self, device: int) -> Channel:
        channel = self.to.get(device)
        if channel is None:
            raise WireError(f"no keys were exchanged with device {device}")
        return channel


@dataclass
class Arriving:
    """The state that a device waits for: parts of its piece (`partial`), the server's `patches` until they
    are `patched`, and snapshots that it inherits, by piece.
    """

    partial: PartialState | None = None
    patches: list[bytes] = field(default_factory=list)
    patched: bool = True
    inherited: dict[int, Inheritance] = field(default_factory=dict)


@dataclass
class Generation:
    """One assignment: keys, state, and work, in this order."""

    run: Run
    assign: pb.Assign
    secret: int
    outgoing: Outgoing
    layout: Layout
    heirs: list[int]
    """Devices that may read this piece's snapshots."""
    manifest: Manifest | None = None
    """The device's own program, or the one whose weights it keeps; None for a spare."""
    executor: Executor | None = None
    channels: Channels = field(default_factory=Channels)
    arriving: Arriving = field(default_factory=Arriving)
    giving: list[Parts] = field(default_factory=list)
    """State on its way out."""
    outbox: Outbox = field(default_factory=Outbox)
    role: Role | None = None

    @property
    def number(self) -> int:
        return self.assign.generation

    @cached_property
    def device_of(self) -> list[int]:
        """Return the holders of the pieces."""
        return [piece.device for piece in self.assign.pieces]

    @cached_property
    def piece_of(self) -> dict[int, int]:
        """Return the piece of each holder."""
        return {device: piece for piece, device in enumerate(self.device_of)}

    @property
    def renewed(self) -> bool:
        """Return True if the server's patches are the whole state, and no device provides any."""
        return self.assign.patched and not self.assign.from_generation

    @property
    def moving(self) -> pb.Purpose:
        """Return the purpose of state that moves now."""
        if self.assign.keep_program:
            return pb.PURPOSE_MODEL
        started = self.assign.boundary == self.assign.pass_boundary
        return pb.PURPOSE_SHUFFLE if started else pb.PURPOSE_RECOVERY

    @property
    def has_work(self) -> bool:
        """Return True if there is something to compute, or to send part by part."""
        return bool(self.giving) or (self.role is not None and self.role.ready)

    def end(self) -> None:
        """Give back the memory at once: what is on its way out refers to the generation in turn."""
        self.giving, self.arriving, self.role = [], Arriving(), None
        self.outbox = Outbox()


def neurons_of(given: pb.Range) -> Neurons:
    """Return a range of neurons as (start, stop)."""
    return given.start, given.stop
