"""The owner's conditions on assignments: HOME/assignments.json, which no host writes.

A host may assign any layout and invent devices that hold the others' pieces (docs/protocol.md, Trust). A
device with this file refuses assignments outside it before it offers a key: nothing of its samples leaves.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from types import MappingProxyType

from crowdlearn_device.errors import PolicyError
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.protocol import wire_pb2 as pb

from . import device_list
from .identity import Identity

log = logging.getLogger("crowdlearn")

FILE, REFUSALS = "assignments.json", "refusals.jsonl"
MODES = ("plain", "shares")
FIRST = ("any", "joint")
MAX_REFUSALS = 1 << 20
"""Bytes of the file of refusals; then it begins anew."""
FINGERPRINT_BYTES = 16
FINGERPRINT = "fingerprint"
"""The file of a device's own."""


def fingerprint(identity: bytes) -> str:
    """Return what owners compare of an identity: 32 hexadecimal digits in groups of four."""
    digest = hashlib.sha256(b"crowdlearn identity" + identity).digest()[:FINGERPRINT_BYTES].hex()
    return " ".join(digest[at : at + 4] for at in range(0, len(digest), 4))


def own_identity(home: Path) -> Identity:
    """Return a device's identity, made at first use; its fingerprint is in HOME/fingerprint, which all users
    can read.
    """
    identity = Identity.load(home / "identity.key")
    line = fingerprint(identity.public) + "\n"
    path = home / FINGERPRINT
    if not path.exists() or path.read_text() != line:
        write_atomically(path, line.encode())
    return identity


@dataclass(frozen=True)
class AssignmentPolicy:
    """Conditions, all of which must hold of an assignment in which this device takes part.

    `most_neurons` of the first layer after the samples, or channels, may lie with one other device when this
    one feeds its samples (0: any number). `known` are fingerprints of devices that the owner compared; at
    least `least_known` of them must take part, and with `strangers` false no other device may hold a piece,
    be an heir or get state. Devices in HOME/devices.json (device_list.py) are known, too, if one of
    the `signers` signed it. `modes` are the forms of sums
    ("plain", "shares"). `hours` [start, stop) are those of the device's clock; a stop that is less than the
    start is the next day's. In a day of that clock it sends and receives `bytes_a_day` at most (0: any
    number), and spends `joules_a_day` at most, by its own meter. With `first_weights` "joint" it begins with
    no weights that the host chose: only with those of a seed that it has drawn together with others
    (privacy/first_weights/). When it feeds its samples, steps are DP-SGD with `least_noise` times the clip at
    least (0: any steps).
    """

    most_neurons: int = 0
    least_known: int = 0
    known: tuple[str, ...] = ()
    strangers: bool = True
    modes: tuple[str, ...] = MODES
    signers: tuple[str, ...] = ()
    bytes_a_day: int = 0
    joules_a_day: int = 0
    first_weights: str = "any"
    least_noise: float = 0.0
    hours: tuple[int, int] = (0, 24)
    clock: Callable[[], int] = field(default=lambda: time.localtime().tm_hour, compare=False, repr=False)

    def check(self, assign: pb.Assign, own: bytes, met: Mapping[int, bytes] = MappingProxyType({})) -> None:
        """Raise PolicyError if an assignment is outside the policy.

        `own` is this device's identity; `met` are those of devices that it met before, by number.
        """
        start, stop = self.hours
        hour = self.clock()
        if not (start <= hour < stop if start <= stop else hour >= start or hour < stop):
            raise PolicyError(
                f"the owner lets this device take part from {start} to {stop} o'clock; try then"
            )
        mode = "shares" if assign.training.shares else "plain"
        if mode not in self.modes:
            allowed = " or ".join(self.modes) or "no form"
            raise PolicyError(f"sums would travel {mode}; the owner allows {allowed}: set privacy.sums")
        identities = {**{peer.device: peer.identity for peer in assign.peers}, **met}
        prints = {device: fingerprint(identity) for device, identity in identities.items()}
        mine = {device for device, print_ in prints.items() if print_ == fingerprint(own)}
        others = {device: print_ for device, print_ in prints.items() if device not in mine}
        named = self._named(assign) - mine
        if unknown := named - others.keys():
            raise PolicyError(f"devices {sorted(unknown)} have a part, and no identity is told of them")
        known = {device for device, print_ in others.items() if print_ in self.known}
        if not self.strangers and (strange := named - known):
            device = min(strange)
            raise PolicyError(
                f"device {device} ({others[device]}) is not known to the owner; compare fingerprints and "
                f"add it to {FILE}, or leave it out"
            )
        if len({others[device] for device in known & named}) < self.least_known:
            raise PolicyError(
                f"{len(known & named)} devices that the owner knows take part, {self.least_known} must; "
                "add known devices"
            )
        if self.most_neurons and assign.piece == 0:
            self._check_first_layer(assign, mine, prints)
        feeds = assign.piece == 0 and assign.pass_end > assign.boundary
        noise = assign.training.clipping.noise
        if feeds and not noise >= self.least_noise:
            raise PolicyError(
                f"steps on this device's samples would have noise of {noise:g} times the clip, "
                f"the owner asks for {self.least_noise:g}; set privacy.noise or a smaller epsilon"
            )

    def check_first(self, assign: pb.Assign, drawn: bool, given: Sequence[str]) -> None:
        """Raise PolicyError if the host's own weights would be the first. `drawn` tells whether this device
        has drawn a seed with others, `given` are the arrays that it leaves to the host.
        """
        host_has_them = assign.piece >= 0 and not (assign.from_generation or assign.boundary)
        if self.first_weights != "joint" or not host_has_them:
            return
        if not drawn or given:
            what = f"the array {given[0]!r} is the host's" if drawn else "this device drew no seed of them"
            raise PolicyError(
                f"first weights must be drawn jointly, and {what}; set privacy.first_weights = 'joint'"
            )

    def check_heirs(self, heirs: Iterable[pb.Peer]) -> None:
        """Raise PolicyError if one of these devices may not read snapshots: a stranger."""
        for heir in heirs:
            print_ = fingerprint(heir.identity)
            if not self.strangers and print_ not in self.known:
                raise PolicyError(f"heir {heir.device} ({print_}) is not known to the owner")

    def check_use(self, used: int) -> None:
        """Raise PolicyError if the bytes that were `used` today are as many as may be."""
        if self.bytes_a_day and used >= self.bytes_a_day:
            raise PolicyError(
                f"{used} bytes were sent and received today, the owner allows {self.bytes_a_day}; "
                "try tomorrow"
            )

    def check_energy(self, joules: float, *, metered: bool) -> None:
        """Raise PolicyError if the joules of today are as many as may be, or nothing can count them."""
        if self.joules_a_day and not metered:
            raise PolicyError(
                "the owner bounds joules a day, and no meter of this device can be read; leave joules_a_day "
                "out"
            )
        if self.joules_a_day and joules >= self.joules_a_day:
            raise PolicyError(
                f"{joules:.0f} joules were spent today, the owner allows {self.joules_a_day}; try tomorrow"
            )

    def check_sum(self, peers: Iterable[pb.Peer], own: bytes) -> None:
        """Raise PolicyError if too few of the devices in a secure sum are known to the owner: others could be
        the host's own, whose values it subtracts.
        """
        prints = {fingerprint(peer.identity) for peer in peers} - {fingerprint(own)}
        if not self.strangers and (strange := prints - {*self.known}):
            raise PolicyError(f"a secure sum with a stranger ({min(strange)}); add it to {FILE}")
        if len(prints & {*self.known}) < self.least_known:
            raise PolicyError(
                f"{len(prints & {*self.known})} devices that the owner knows are in a secure sum, "
                f"{self.least_known} must be; add known devices"
            )

    def _check_first_layer(self, assign: pb.Assign, mine: set[int], prints: dict[int, str]) -> None:
        """Raise PolicyError if one identity would hold more of the first layer than it may."""
        held: Counter[str] = Counter()
        for piece in assign.pieces:
            if piece.device not in mine and len(piece.neurons) > 1:
                held[prints[piece.device]] += max(piece.neurons[1].stop - piece.neurons[1].start, 0)
        for print_, neurons in held.items():
            if neurons > self.most_neurons:
                raise PolicyError(
                    f"the device {print_} would hold {neurons} neurons of the first layer, the owner allows "
                    f"{self.most_neurons}; cut the network into more pieces"
                )

    @staticmethod
    def _named(assign: pb.Assign) -> set[int]:
        """Return the devices that hold something, provide, or can read snapshots."""
        return {
            *(piece.device for piece in assign.pieces),
            *(piece.device for piece in assign.provided),
            *(transfer.device for transfer in assign.transfers),
            *assign.heirs,
        }


def load_assignment_policy(home: Path) -> AssignmentPolicy | None:
    """Return the policy in HOME/assignments.json, None if there is none: then everything is allowed.

    Raises PolicyError if it is damaged: then nothing is allowed.
    """
    path = home / FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        policy = _policy_of(content)
        listed = home / device_list.FILE
        if policy.signers and listed.exists():
            devices = device_list.read_list(listed.read_text(), policy.signers)
            policy = replace(policy, known=(*policy.known, *devices.values()))
        return policy
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise PolicyError(
            f"{FILE} cannot be read ({error}), so that no assignment is allowed; mend it on the device"
        ) from error


def take_list(home: Path, link: str) -> dict[str, str]:
    """Keep the list of devices in a link as HOME/devices.json; return fingerprints by name.

    Raises PolicyError if none of the signers in HOME/assignments.json signed it: then nothing changes.
    """
    text = device_list.list_of_link(link)
    policy = load_assignment_policy(home)
    devices = device_list.read_list(text, () if policy is None else policy.signers)
    write_atomically(home / device_list.FILE, text.encode(), private=True)
    return devices


def _policy_of(fields: dict[str, object]) -> AssignmentPolicy:
    default = AssignmentPolicy()
    names = (
        "most_neurons",
        "least_known",
        "known",
        "strangers",
        "modes",
        "signers",
        "bytes_a_day",
        "joules_a_day",
        "first_weights",
        "least_noise",
        "hours",
    )
    if unknown := fields.keys() - {*names}:
        raise ValueError(f"{', '.join(sorted(unknown))} is no condition; there are {', '.join(names)}")
    values: dict[str, object] = {}
    for name, value in fields.items():
        like = getattr(default, name)
        if isinstance(like, tuple):
            kind = int if name == "hours" else str
            if not isinstance(value, list) or any(type(each) is not kind for each in value):
                raise ValueError(f"{name} is {value!r}, which is no list of {kind.__name__}")
            values[name] = tuple(value)
        elif type(like) is float:
            if type(value) not in (int, float) or not 0 <= float(str(value)) < inf:
                raise ValueError(f"{name} is {value!r}; give a number of 0 or more")
            values[name] = float(str(value))
        elif type(value) is not type(like) or (type(like) is int and int(str(value)) < 0):
            wanted = {bool: "true or false", int: "a whole number of 0 or more", str: "text"}
            raise ValueError(f"{name} is {value!r}; give {wanted.get(type(like), type(like).__name__)}")
        else:
            values[name] = value
    policy = AssignmentPolicy(**values)  # type: ignore[arg-type]
    if len(policy.hours) != 2 or not all(0 <= hour <= 24 for hour in policy.hours):
        raise ValueError(f"hours are {list(policy.hours)}; give the first and the last, as in [22, 6]")
    if policy.first_weights not in FIRST:
        raise ValueError(f"first_weights is {policy.first_weights!r}; there are {', '.join(FIRST)}")
    if not {*policy.modes} <= {*MODES}:
        raise ValueError(f"modes are {list(policy.modes)}; there are {', '.join(MODES)}")
    return policy


def tell_refusal(home: Path, run: str, reason: str) -> None:
    """Keep a refusal where the owner finds it, HOME/refusals.jsonl, and log it."""
    log.warning("an assignment of run %s is refused: %s", run, reason)
    path = home / REFUSALS
    line = json.dumps({"time": time.time(), "run": run, "reason": reason}) + "\n"
    try:
        long = path.exists() and path.stat().st_size > MAX_REFUSALS
        with path.open("w" if long else "a") as file:
            file.write(line)
    except OSError as error:
        log.warning("the refusal could not be kept: %s", error)
