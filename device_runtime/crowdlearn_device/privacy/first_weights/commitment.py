"""A device in the drawing of a seed: it commits to a secret, and shows it once all others have committed.

The seed is the hash of all secrets. A party that committed before it saw another's secret cannot steer it, so
that a device which takes part need trust no other. If a host shows different devices different commitments,
their seeds differ, and only one of them fits the weights that it then sends.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path

from crowdlearn_device.errors import StateError, WireError
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.protocol import wire_pb2 as pb

from .distributions import GIVEN, Distribution, check_part, distributions_of

SECRET_BYTES = 32
MOST_ATTEMPTS = 16
"""Attempts of one run in which a device takes part: by ending attempts a host can choose among so many seeds,
and no more.
"""


def commitment_of(begun: bytes, device: int, secret: bytes) -> bytes:
    """Return what binds a device to its secret, 32 bytes; `begun` is the hash of what all were told."""
    return hashlib.sha256(b"crowdlearn commitment" + begun + device.to_bytes(4, "little") + secret).digest()


def seed_of(begun: bytes, shown: dict[int, bytes]) -> bytes:
    """Return the seed, 32 bytes, of all secrets by device."""
    parts = [device.to_bytes(4, "little") + secret for device, secret in sorted(shown.items())]
    return hashlib.sha256(b"crowdlearn first weights" + begun + b"".join(parts)).digest()


def hash_of(run: str, attempt: int, begin: pb.FirstBegin) -> bytes:
    """Return the hash of what begins an attempt, 32 bytes: the run, its devices and the distributions."""
    serialized = begin.SerializeToString(deterministic=True)
    return hashlib.sha256(f"{run} {attempt} ".encode() + serialized).digest()


class JointSeed:
    """The part of the device `number` in the drawing of a run's seed, kept in the run's `folder`.

    Raises WireError if the host's messages contradict each other.
    """

    def __init__(self, run: str, number: int, folder: Path) -> None:
        self._run, self._number = run, number
        self._path = folder / "first_weights.json"
        self._attempt, self._begun, self._secret = 0, b"", b""
        self._members: set[int] = set()
        self._commitments: dict[int, bytes] = {}
        self._distributions: dict[str, Distribution] = {}
        self._seed = b""
        if self._path.exists():
            try:
                content = json.loads(self._path.read_text())
                self._attempt, self._seed = int(content["attempt"]), bytes.fromhex(content["seed"])
                self._distributions = {name: Distribution(*each) for name, each in content["arrays"].items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise StateError(f"{self._path} is damaged ({error}); start a new run") from error

    @property
    def is_drawn(self) -> bool:
        """Return whether a seed was drawn in which this device has a part."""
        return bool(self._seed)

    @property
    def given(self) -> list[str]:
        """Return the names of arrays that the seed leaves to the host."""
        return [name for name, each in self._distributions.items() if each.kind == GIVEN]

    def take(self, message: pb.FirstWeights) -> pb.FirstWeights | None:
        """Return the answer to a step of the host's, if it takes one."""
        kind = message.WhichOneof("step")
        if kind == "begin":
            return self._begin(message)
        if message.attempt != self._attempt or not self._secret:
            return None  # of an attempt that is over
        if kind == "commitments":
            commitments = {each.device: each.value for each in message.commitments.of}
            own = commitment_of(self._begun, self._number, self._secret)
            if self._commitments or commitments.keys() != self._members or commitments[self._number] != own:
                raise WireError("the host's commitments to first weights lack this device's, or came twice")
            self._commitments = commitments
            return pb.FirstWeights(attempt=self._attempt, secret=self._secret)
        if kind == "secrets":
            return self._end(message)
        raise WireError(f"a device takes no {kind} of first weights")

    def _begin(self, message: pb.FirstWeights) -> pb.FirstWeights:
        begin = message.begin
        if not self._attempt < message.attempt <= MOST_ATTEMPTS:
            raise WireError(
                f"attempt {message.attempt} to draw first weights after {self._attempt}; at most "
                f"{MOST_ATTEMPTS} are taken part in: start a new run"
            )
        members = [each.device for each in begin.devices]
        if self._number not in members or len({*members}) < len(members):
            raise WireError("first weights are drawn without this device, or with one twice")
        self._distributions = distributions_of(begin.distributions)
        self._attempt, self._members, self._commitments = message.attempt, {*members}, {}
        self._begun, self._secret = (
            hash_of(self._run, message.attempt, begin),
            secrets.token_bytes(SECRET_BYTES),
        )
        self._seed = b""
        self._keep()
        own = commitment_of(self._begun, self._number, self._secret)
        return pb.FirstWeights(attempt=self._attempt, commitment=own)

    def _end(self, message: pb.FirstWeights) -> pb.FirstWeights:
        shown = {each.device: each.value for each in message.secrets.of}
        if not self._commitments or shown.keys() != self._members:
            raise WireError("secrets of first weights before all devices have committed, or not of all")
        for device, secret in sorted(shown.items()):
            if commitment_of(self._begun, device, secret) != self._commitments[device]:
                raise WireError(f"device {device} shows another secret than it committed to")
        self._seed, self._secret = seed_of(self._begun, shown), b""
        self._keep()
        return pb.FirstWeights(attempt=self._attempt, agreed=True)

    def _keep(self) -> None:
        arrays = {name: [each.kind, each.low, each.high] for name, each in self._distributions.items()}
        fields = {"attempt": self._attempt, "seed": self._seed.hex(), "arrays": arrays}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps(fields).encode(), private=True)

    def check(self, part: pb.StatePart) -> None:
        """Raise WireError unless the host's first weights are those of the seed, if one was drawn."""
        if self._seed:
            check_part(part, self._distributions, self._seed)
