"""What `crowdlearn simulate` reads: one TOML file, every key checked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from crowdlearn_host.common.toml_files import Description, Location, Section
from crowdlearn_host.methods.base import SharingStrategy
from crowdlearn_host.methods.registry import STRATEGIES
from crowdlearn_host.methods.round_schedule import renews
from crowdlearn_host.methods.secure_sharing import check_secure
from crowdlearn_host.models.names import ModelName
from crowdlearn_host.planner.problem.rotations import DEFAULT_ROTATION, Rotation
from crowdlearn_host.privacy.dp.budget import Budget

from .augment import AugmentSpec, check_no_noise
from .effects import OF_SIMULATIONS, check_effects
from .loss import CROSS_ENTROPY, LossSpec
from .optimizer import OptimizedSection
from .privacy import PrivacySection
from .sharing import SharedWeightsSection
from .validation import ValidationSection


class PartitionConfig(Section):
    """The distribution of training samples over devices.

    iid: equal parts at random. dealt: the same, as training deals samples to phones. dirichlet: equal parts,
    each device with class shares drawn from Dirichlet(`alpha`). shards: samples sorted by label, `shards`
    parts of them a device. files: one `device-*.npz` a device in the data folder.
    """

    kind: Literal["iid", "dealt", "dirichlet", "shards", "files"] = "iid"
    alpha: float = Field(default=0.5, gt=0, le=1000)
    shards: int = Field(default=2, ge=1, le=1000)


class TrainingConfig(OptimizedSection):
    """Mini-batches, the loss, the optimizer and its learning rate, as phones have them.

    `schedule` lowers the learning rate from round to round. `wire` is how sums and errors would travel
    between pieces; its rounding is emulated on every partial sum and error that one piece would send another,
    mini-batches being whole. With `staleness` 1 a gradient is that of the weights before the last update, but
    for a pass's first. So phones compute whose mini-batches overlap through a whole pass. Batch norm takes
    the statistics of `micro_batch` samples; 0 leaves a mini-batch whole, and -1 cuts it as phones do by
    default (spec/micro_batch.py).
    """

    epochs: int = Field(default=50, ge=1, le=100_000)
    batch: int = Field(default=32, ge=2, le=65_536)
    loss: LossSpec = CROSS_ENTROPY
    augment: tuple[AugmentSpec, ...] = ()
    wire: Literal["float32", "float16", "int8"] = "float32"
    staleness: int = Field(default=0, ge=0, le=1)
    micro_batch: int = Field(default=0, ge=-1)


AS_PHONES = -1
"""A micro-batch as phones choose it, by what they train."""


class SharingConfig(SharedWeightsSection):
    """Sharing between simulated groups, if it is `enabled`."""

    enabled: bool = True
    theta: float = Field(default=0.5, ge=0, le=1)


class FedAvgConfig(Section):
    """Federated averaging: a share of the devices trains the whole model for some epochs each round.

    The running statistics of batch norms are those of the averaged weights if `batch_norm` is recompute: the
    devices of the round compute them again on mini-batches of their own, a few thousand samples in all, which
    takes another exchange. With average they are averaged like weights, and lag behind while devices take few
    steps a round. With keep they stay on their device, which goes on with its own; the model that is tested
    has their mean over all devices that have trained.
    """

    fraction: float = Field(default=1.0, gt=0, le=1)
    local_epochs: int = Field(default=1, ge=1, le=1000)
    batch_norm: Literal["recompute", "average", "keep"] = "recompute"


class SimulationConfig(Description):
    """A whole simulated run.

    method = "slicenet" trains devices / group groups; group = 1 with sharing.enabled = false is the
    standalone baseline, devices = group = 1 the centralised one. method = "fedavg" averages whole models;
    there an epoch is a round. method = "alone" shares nothing, as sharing.enabled = false does. `rotation`
    counts what a shuffle moves: every piece, as in the paper, or only the dominator's and its successor's.
    `own_metrics` and `device_metrics` are what metrics.own and metrics.on_devices are of a run on devices.
    `plan` is a file of `crowdlearn plan --save`; without one the network is cut evenly into `pieces`, or with
    0 into one for each device of a group.
    """

    seed: int = Field(default=0, ge=0, lt=2**32)
    model: ModelName = "paper-mlp"
    method: Literal["slicenet", "fedavg", "alone"] = "slicenet"
    devices: int = Field(default=120, ge=1, le=100_000)
    group: int = Field(default=12, ge=1, le=10_000)
    pieces: int = Field(default=0, ge=0, le=10_000)
    rotation: Rotation = DEFAULT_ROTATION
    plan: Location | None = None
    partition: PartitionConfig = PartitionConfig()
    training: TrainingConfig = TrainingConfig.model_validate({})
    sharing: SharingConfig = SharingConfig()
    fedavg: FedAvgConfig = FedAvgConfig()
    validation: ValidationSection | None = None
    own_metrics: tuple[ModelName, ...] = ()
    device_metrics: tuple[ModelName, ...] = ()
    privacy: PrivacySection = PrivacySection()

    @model_validator(mode="after")
    def _validates(self) -> SimulationConfig:
        if self.validation is not None and self.validation.share and self.partition.kind == "files":
            raise ValueError(
                "partition.kind = 'files' gives each device its samples: set validation.share = 0, and put a "
                "validation.npz into the data folder"
            )
        return self

    @model_validator(mode="after")
    def _groups_are_whole(self) -> SimulationConfig:
        if self.pieces > self.group:
            raise ValueError(f"{self.pieces} pieces for groups of {self.group}; make groups larger")
        if self.devices % self.strategy.members(self.group):
            raise ValueError(f"{self.devices} devices do not form groups of {self.group}; choose a divisor")
        return self

    @model_validator(mode="after")
    def _nothing_is_in_vain(self) -> SimulationConfig:
        check_effects(self, OF_SIMULATIONS)
        return self

    @model_validator(mode="after")
    def _shares_fit(self) -> SimulationConfig:
        training = self.training
        if self.privacy.sums != "shares":
            return self
        if self.strategy.members(self.group) < 4:
            raise ValueError(
                "privacy.sums = 'shares' needs groups of a dominator and three helpers: group >= 4"
            )
        if training.clip_norm:
            raise ValueError("privacy.sums = 'shares' clips no gradients: leave out training.clip_norm")
        if training.wire != "float32" or training.micro_batch or training.staleness:
            raise ValueError(
                "privacy.sums = 'shares' has a wire of its own, whole mini-batches and no staleness: leave "
                "out training.wire, micro_batch and staleness"
            )
        return self

    @model_validator(mode="after")
    def _privacy_fits(self) -> SimulationConfig:
        training, sharing = self.training, self.sharing
        check_no_noise(training.augment, private=self.privacy.private)
        sharing.check_sums(private=self.privacy.private)
        if sharing.secure and sharing.enabled:
            if self.method != "slicenet":
                raise ValueError("sharing.secure sums what groups share: set method = 'slicenet'")
            if sharing.combine != "mean":
                raise ValueError("sharing.secure reveals sums alone: leave out sharing.combine")
            check_secure(self.groups, sharing.omega, sharing.values)
        if self.privacy.private:
            self.privacy.check_noise_on_shares(training.batch)
            if self.method == "fedavg":
                raise ValueError("privacy.epsilon and noise are for method = 'slicenet' or 'alone'")
            if training.wire != "float32" or training.staleness or training.weight_decay:
                raise ValueError(
                    "with privacy.epsilon or noise set training.wire = 'float32', and leave out "
                    "staleness and weight_decay: the account of noise is that of plain steps"
                )
        return self

    @property
    def strategy(self) -> SharingStrategy:
        """Return the strategy by which what devices learn becomes one model."""
        chosen = STRATEGIES[self.method]
        return chosen if self.sharing.enabled else chosen.alone()

    @property
    def budget(self) -> Budget:
        """Return the budget of DP-SGD, if `privacy.private`."""
        privacy, training = self.privacy, self.training
        return Budget(privacy.epsilon, privacy.delta, privacy.noise, training.batch, training.epochs)

    @property
    def passes_a_round(self) -> int:
        """Return passes between two sharings."""
        return min(self.sharing.every or self.group, self.group)

    @property
    def rounds_an_epoch(self) -> int:
        """Return sharings in an epoch."""
        return self.strategy.rounds_an_epoch(self.group, self.sharing.every)

    @property
    def groups(self) -> int:
        """Return groups that train side by side; under fedavg every device is one."""
        return self.devices // self.strategy.members(self.group)

    @property
    def omega(self) -> int:
        """Return uploads that the window keeps per weight: sums of all groups, where sharing is secure."""
        uploads = self.sharing.omega or self.groups
        return uploads // self.groups if self.sharing.secure else uploads

    @property
    def rounds(self) -> int:
        """Return sharings in the whole run."""
        return self.training.epochs * self.rounds_an_epoch

    @property
    def renews(self) -> bool:
        """Return True if a sharing replaces a group's whole state."""
        sharing, has_slots = self.sharing, self.training.has_slots
        return self.strategy.windowed and renews(sharing.theta, sharing.tau, has_slots, self.groups)

    def rate(self, number: int) -> float:
        """Return the learning rate of round `number`, counted from 0."""
        return self.training.rate_left(number / self.rounds_an_epoch, self.training.epochs)
