"""What a group is to do: how its network is cut, and how it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.methods.round_schedule import Fall, rounds_an_epoch, share_left
from crowdlearn_host.privacy.dp.budget import Budget

Heirs = Literal["owner", "spares", "all", "shared"]
"""The devices that can read the snapshot of a piece beside its owner: none; each spare; without spares, each
device; or some of all others together, and fewer not.
"""


@dataclass(frozen=True)
class Cut:
    """A division of the network; `programs[piece]` is the hash of the piece's manifest, `takers[piece]` the
    devices that can afford it (no takers: any can afford any piece).
    """

    layout: Layout
    programs: tuple[str, ...]
    takers: tuple[frozenset[int], ...] = ()

    def __len__(self) -> int:
        return len(self.layout)


@dataclass(frozen=True)
class Settings:
    """The task of a group. `fallbacks` cut the network into fewer pieces, for when devices are missing;
    the rotation is the plan's, and so are `turns`, where it names who holds the pieces under a dominator (the
    first of each). Devices share after `every` passes (0: after an epoch), and the learning rate falls with
    every sharing as `fall` says, after it has risen in `warmup` mini-batches.
    A group that is not `alone` takes the global model's weights at the
    beginning of every round; where sharing `renews` all of them, no state moves between devices then. No
    part of a pass has fewer samples than `least_rows`, and so no device. With `whole_program`, the hash of
    the whole network's program, every device gets the group's model at the end; if validation `chooses`,
    the host's of another epoch. `takers` are the devices that
    can afford each piece, as of a Cut; devices `without_samples` are planned to hold none and are never the
    dominator, and `most_samples` tells by device how many its memory was planned for. With `weigh_charge`
    the device with most charge left is dominator next. With `secret_order`
    dominators draw the order of their samples from secrets of their own; with `shares` every three pieces
    behind the dominator's are those of a triple of helpers. `masked` are the binary places of sums that
    travel under masks, 0 if none do. If sharing is `secure`, all groups share by one sum (coordinator/sums).
    `outgoing` are the mechanisms, by name, of all that leaves a device.
    """

    layout: Layout
    programs: tuple[str, ...]
    epochs: int
    batch: int
    micro_batch: int
    in_flight: int
    learning_rate: float
    seed: int
    snapshot_every: int
    staleness: int = 0
    least_rows: int = 1
    wire_type: int = pb.FLOAT32
    rotation: str = "full"
    devices: int = 0
    grace_seconds: float = 60.0
    silence_seconds: float = 30.0
    fallbacks: tuple[Cut, ...] = ()
    turns: tuple[tuple[int, ...], ...] = ()
    fall: Fall = "constant"
    step_epochs: int = 0
    step_factor: float = 0.1
    warmup: int = 0
    every: int = 0
    theta: float = 1.0
    shared_type: int = pb.FLOAT32
    alone: bool = True
    secure: bool = False
    renews: bool = False
    whole_program: str = ""
    chooses: bool = False
    takers: tuple[frozenset[int], ...] = ()
    without_samples: frozenset[int] = frozenset()
    most_samples: Mapping[int, int] = field(default_factory=dict)
    secret_order: bool = False
    label_epsilon: float = 0.0
    """The epsilon of each label, by randomised response on its device; 0: labels are as they are."""
    budget: Budget | None = None
    """The noise of steps of DP-SGD and what may be spent; None: steps are plain."""
    clip: float = 1.0
    """The norm to which such steps clip the gradient of each sample."""
    weigh_charge: bool = False
    shares: bool = False
    masked: int = 0
    maps: tuple[pb.LinearMap, ...] = ()
    """With `shares`, the helpers' maps that are not dense."""
    outgoing: tuple[str, ...] = ()
    augment: tuple[pb.Augmentation, ...] = ()
    """The changes of a dominator's samples while they are fed, in their order."""
    heirs: Heirs = "all"
    owners: tuple[tuple[str, ...], ...] = ()
    """Names of devices by owner: no two of an owner's are helpers of one triple."""
    sticky: bool = False
    """True if a device holds the same piece whenever the same device is dominator."""
    owned: Mapping[int, str] = field(default_factory=dict)
    """The owners of devices by number, as in a plan."""
    heirs_needed: int = 2
    """Heirs that a snapshot takes to be read where it is shared."""

    def rate(self, epoch: int, shared: int, passes: int) -> float:
        """Return the learning rate of the round that begins when `shared` of the epoch's `passes` were
        shared.
        """
        rounds = rounds_an_epoch(passes, self.every)
        done = epoch + (shared // self.every if self.every else 0) / rounds
        steps = int(done / self.step_epochs) if self.step_epochs else 0
        return self.learning_rate * share_left(self.fall, done / self.epochs, steps, self.step_factor)

    def affordable(self, samples: Sequence[int]) -> int:
        """Return the epochs that are trained, as far as the budget pays for devices of so many samples."""
        return self.epochs if self.budget is None else self.budget.affordable(samples)

    def epsilon(self, samples: Sequence[int], epochs: int) -> float:
        """Return the largest epsilon after so many epochs of devices of so many samples; 0 without noise."""
        return 0.0 if self.budget is None else self.budget.total(samples, epochs)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Return every division that may be used, the wanted one first, then by falling number of pieces."""
        fewer = sorted(self.fallbacks, key=len, reverse=True)
        return (Cut(self.layout, self.programs, self.takers), *fewer)
