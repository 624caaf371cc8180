"""The description of a run: a TOML file that train, simulate and plan read (docs/training.md shows one)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import tomli_w
from crowdlearn_device.platform.battery import LOWEST_PERCENT
from crowdlearn_device.privacy.mechanisms.reports import ReportNothing, ReportPasses
from crowdlearn_export.graph.memory_curves import MemoryUse
from pydantic import AfterValidator, Field, PositiveInt, ValidationInfo, model_validator

from crowdlearn_host.common.toml_files import (
    ADDRESS,
    NAME,
    Description,
    Location,
    Section,
    load_toml,
    located,
)
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.methods.secure_sharing import check_secure
from crowdlearn_host.models.names import ModelName
from crowdlearn_host.planner.problem.rotations import Rotation
from crowdlearn_host.privacy.dp.budget import Budget

from .augment import AugmentSpec, check_no_noise
from .crowd import CrowdSection
from .effects import OF_RUNS, check_effects
from .loss import CROSS_ENTROPY, LossSpec
from .optimizer import OptimizedSection
from .privacy import RunPrivacySection
from .sharing import SharedWeightsSection
from .validation import ValidationSection

DEFAULT_WIRE: Literal["int8"] = "int8"
"""The shortest that costs no accuracy (docs/benchmarks/wire_dtype.md)."""

DIGITS = "digits"
"""The data set that is built in, of scikit-learn."""

PARTS, LEAST_ROWS = 32, 16
"""More parts cost more than they hide (docs/benchmarks/pipeline.md); fewer rows make batch norm noisy."""
LEAST_ROWS_SLOW, LINK_SECONDS = 8, 0.005
"""The least rows if a link needs more than so many seconds for 16: the first and the last micro-batch cross
every link alone.
"""

ALONE_ROWS = 128
"""A micro-batch of a device that holds the whole network: what more would save, memory costs."""


def micro_rows(batch: int, sample_seconds: float = 0.0) -> int:
    """Return samples of a micro-batch, unless they are configured; `sample_seconds` is how long a link is
    busy with what the dominator sends of one sample.
    """
    quick = LINK_SECONDS / sample_seconds if sample_seconds else LEAST_ROWS
    least = min(max(LEAST_ROWS_SLOW, int(quick)), LEAST_ROWS)
    return min(max(least, -(-batch // PARTS)), batch)


class GroupSection(Section):
    """The cut of the network: `pieces` evenly, or a `plan` that `crowdlearn plan --save` wrote.

    The devices form `groups` of equal size, in their order. A plan brings its own groups. A device takes the
    piece planned for its name (ro.serialno, or that of its enrolment), or else for its place in the fleet;
    that is reported. `rotation` is the plan's unless it is given, or else minimal. With `weigh_charge` the
    device with most charge left is dominator next; a simulation has no batteries.

    With `min_pieces` a group that misses devices and has no spare goes on with an even cut into fewer pieces,
    down to that many; without, it waits. With `keep_model` every device takes the group's model at the end,
    or the one that validation chooses.
    """

    pieces: int = Field(default=3, ge=1, le=1000)
    min_pieces: int | None = Field(default=None, ge=1, le=1000)
    plan: Location | None = None
    groups: int = Field(default=1, ge=1)
    rotation: Rotation | None = None
    weigh_charge: bool = False
    keep_model: bool = False

    @model_validator(mode="after")
    def _falls_back_on_fewer(self) -> Self:
        if self.plan is None and self.min_pieces is not None and self.min_pieces > self.pieces:
            raise ValueError(f"min_pieces {self.min_pieces} is more than pieces {self.pieces}; make it less")
        return self


class SharingSection(SharedWeightsSection):
    """Sharing between groups, which wait for each other only if it is `secure` or `synchronous`. With the
    latter, and `training.kernels` by size, a run repeats exactly. Without it a secure sum for which enough
    groups have come waits for others `wait` times as long as those took, and at least
    `training.grace_seconds`: a slower group is in a later sum. Of four groups or more, `audit` names those
    that upload what is unlike the others': by the `norms` of their moves, and by the `losses` of what they
    upload on some of the host's samples; it changes nothing.
    """

    synchronous: bool = False
    wait: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    audit: Literal["none", "norms", "losses"] = "norms"


class TrainingSection(OptimizedSection):
    """Mini-batches, the loss, the optimizer and its learning rate. Counts are samples unless said otherwise.

    Without `micro_batch` the plan's is taken, or else a mini-batch is cut as finely as its messages are
    worth (spec/micro_batch.py): batch norm takes the statistics of a micro-batch. `in_flight` bounds how
    many are under way at once. `momentum` is that of sgd alone; `betas` and `eps` are adam's and adamw's.
    `schedule` lowers the learning rate with every sharing: linear and cosine to a hundredth, step by
    `step_factor` every `step_epochs` epochs; in the first `warmup` mini-batches it rises. `clip_norm` bounds
    the norm of a mini-batch's gradients over the whole network.
    `augment` changes samples at random while they are fed, in its order; those that validate or test stay.
    `wire` is how sums and errors travel between pieces; int8 is rounded up or down at random. With
    `staleness` 1 a mini-batch enters before the one ahead of it has updated the weights, which keeps
    links and devices busy: its gradient is that of the weights before that update. At a pass's end and
    every `snapshot_every` mini-batches the weights are complete. Where ExecuTorch's own `kernels` and
    XNNPACK's are near each other, each device takes the faster ones when they are `measured`, at a program's
    first loading. Chosen by_size they are alike on all devices. With less `memory` than the `fastest`
    programs take, what gradients need is made again, by three operations in a row (`balanced`) or eight
    (`least`). Without it the plan's is taken, or else `balanced`. Devices hold weights that are `frozen` as
    float32 or, rounded, as float16 or int8, in less memory.
    """

    epochs: PositiveInt = 5
    batch: int = Field(default=32, ge=2, le=65536)
    micro_batch: int | None = Field(default=None, ge=2)
    in_flight: int = Field(default=PARTS, ge=1, le=64)
    loss: LossSpec = CROSS_ENTROPY
    augment: tuple[AugmentSpec, ...] = ()
    momentum: float = Field(default=0.9, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    snapshot_every: int = Field(default=100, ge=1)
    staleness: int = Field(default=0, ge=0, le=1)
    kernels: Literal["measured", "by_size"] = "measured"
    memory: MemoryUse | None = None
    wire: Literal["float32", "float16", "int8"] = DEFAULT_WIRE
    grace_seconds: float = Field(default=60.0, ge=0)

    def micro_rows(self, planned: int = 0, *, pieces: int = 2) -> int:
        """Return samples of a micro-batch, `planned` if the plan has them; if one piece is the whole network,
        no piece waits for a part. Raises ConfigError if `micro_batch` is more.
        """
        if planned and self.micro_batch and self.micro_batch > planned:
            raise ConfigError(
                f"training.micro_batch is {self.micro_batch}, the plan's memory is that of {planned}; "
                "leave it out or plan again with --micro-batch"
            )
        usual = micro_rows(self.batch) if pieces > 1 else ALONE_ROWS
        return min(self.micro_batch or planned or usual, self.batch)


class CheckpointSection(Section):
    """Global models: the newest `keep` and the most accurate one stay. They are tested after every "epoch",
    once all groups have ended it, after each "group" has, or "never" before the end.
    """

    keep: int = Field(default=5, ge=1)
    evaluate: Literal["epoch", "group", "never"] = "epoch"


class MetricsSection(Section):
    """The figures of a run. Prometheus may ask for those of the host at `listen`: HOST:PORT, path /metrics.

    `report` is how often devices send the host the loss of their samples, and how many were classified
    correctly: for every "mini-batch"; for every "pass", the mean over all samples of a device; or "nothing".
    The test split's loss and accuracy are the host's own and stay.
    `own` are functions `file.py:name` of scores float32 [N, outputs] and targets [N, ...], as NumPy has them,
    that give a number: further metrics of every evaluation, by their names. `on_devices` are functions of
    the same as tensors that give a number for each sample: they are traced like a model, devices compute
    them while they train, and report means as `report` says.
    """

    listen: str | None = Field(default=None, pattern=ADDRESS)
    own: tuple[ModelName, ...] = ()
    on_devices: tuple[ModelName, ...] = ()
    report: Literal["mini-batch", "pass", "nothing"] = "mini-batch"

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """Return the names of the mechanisms by which devices report as is asked."""
        return {"mini-batch": (), "pass": (ReportPasses.name,), "nothing": (ReportNothing.name,)}[self.report]


class FleetSection(Section):
    """The devices of a run: adb serials (HOST:PORT or USB), every virtual phone that runs (empty), or
    `virtual` new ones; and with `listen` as many as are `joining` by dialling this computer there
    (docs/joining.md). What those send each other is relayed by `relays` processes of their own, each for some
    of the groups; 0: by that of the run. They run where `relay_engine` says: on this computer ("local") or on
    the nodes of a Ray cluster ("ray").

    A device whose battery falls to `lowest_battery` percent and is not charged leaves, and takes part again
    once it has more; -1 for never. A device that dials in decides that itself.

    `runtime` is the form of the device runtime on a phone reached over adb: the "app"; the phone's "shell",
    which gets a bundle if it has no runtime; or "auto", the app if it is installed, else the shell. New
    virtual phones of an `arch` ("arm64", "x86_64") run the bundle for it. `isolation` is where programs run
    on a phone reached over adb: in a "process" of their own that is held to computing (docs/security.md), or
    in that of the device runtime ("none"), which is a little faster. A device that dials in decides that
    itself. `keep_awake` has phones reached over adb not sleep while they are connected, as far as Android
    lets their shell (docs/real-phones.md).
    """

    phones: tuple[str, ...] = ()
    virtual: int = Field(default=0, ge=0, le=1000)
    profile: str = "pixel-8"
    arch: Literal["", "arm64", "x86_64"] = ""
    runtime: Literal["auto", "shell", "app"] = "auto"
    isolation: Literal["process", "none"] = "process"
    keep_awake: bool = True
    listen: str | None = Field(default=None, pattern=ADDRESS)
    joining: int = Field(default=0, ge=0)
    relays: int = Field(default=0, ge=0, le=256)
    relay_engine: Literal["local", "ray"] = "local"
    lowest_battery: int = Field(default=LOWEST_PERCENT, ge=-1, le=100)

    @model_validator(mode="after")
    def _listens_for_somebody(self) -> Self:
        if (self.listen is None) != (self.joining == 0):
            raise ValueError("listen (HOST:PORT) and joining (how many devices) go together")
        if self.relay_engine != "local" and not self.relays:
            raise ValueError(f"relay_engine {self.relay_engine!r} needs relays (how many)")
        return self


def _located(data: str, info: ValidationInfo) -> str:
    return data if data == DIGITS else str(located(Path(data), info))


class RunSpec(Description):
    """A whole run.

    `model` is `mlp:784-400-10`, a paper's model, or `file.py:function` (models/named.py tells more).

    `data` is a folder on this computer that is dealt out to the phones at random (for emulation and tests),
    or "digits". `device_data` is a folder on each phone whose samples stay there; `data` is then used for its
    test split alone, and `input_shape` tells the shape of a sample where there is none.
    """

    name: str = Field(default="run", pattern=NAME)
    model: ModelName
    data: Annotated[str, AfterValidator(_located)] | None = None
    device_data: str | None = None
    input_shape: tuple[PositiveInt, ...] | None = None
    group: GroupSection = GroupSection()
    training: TrainingSection = TrainingSection()
    sharing: SharingSection = SharingSection()
    validation: ValidationSection | None = None
    checkpoints: CheckpointSection = CheckpointSection()
    metrics: MetricsSection = MetricsSection()
    fleet: FleetSection = FleetSection()
    privacy: RunPrivacySection = RunPrivacySection()
    crowd: CrowdSection = CrowdSection()

    @property
    def budget(self) -> Budget | None:
        """Return the budget of DP-SGD; None if steps are plain."""
        privacy, training = self.privacy, self.training
        if not privacy.private:
            return None
        return Budget(privacy.epsilon, privacy.delta, privacy.noise, training.batch, training.epochs)

    @property
    def joint_weights(self) -> bool:
        """Return True if devices draw the first weights together."""
        chosen = self.privacy.first_weights
        return chosen == "joint" or (chosen == "auto" and self.device_data is not None)

    @property
    def secret_order(self) -> bool:
        """Return True if dominators draw the order of their samples from a secret."""
        order = self.privacy.order
        return order == "secret" or (order == "auto" and self.device_data is not None)

    @model_validator(mode="after")
    def _nothing_is_in_vain(self) -> Self:
        check_effects(self, OF_RUNS)
        return self

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.privacy.sums != "shares":
            return self
        group, training = self.group, self.training
        whole = group.pieces >= 4 and group.pieces % 3 == 1
        if (not whole and group.plan is None) or group.min_pieces is not None:
            raise ValueError(
                "privacy.sums = 'shares' has a dominator and triples of helpers: set group.pieces = 4, 7 for "
                "two triples, 10 for three, ..., or a plan made with --sums shares; leave out min_pieces, as "
                "further devices are spares"
            )
        if training.clip_norm:
            raise ValueError(
                "privacy.sums = 'shares' clips no gradients, whose norms stay on shares: leave out "
                "training.clip_norm"
            )
        if training.staleness or training.micro_batch not in (None, training.batch):
            raise ValueError(
                "privacy.sums = 'shares' takes whole mini-batches, one after the other: leave out "
                "training.micro_batch and staleness"
            )
        return self

    @model_validator(mode="after")
    def _sums_fit(self) -> Self:
        sharing = self.sharing
        check_no_noise(self.training.augment, private=self.privacy.private)
        sharing.check_sums(private=self.privacy.private)
        if sharing.audit == "losses" and self.data is None:
            raise ValueError(
                'sharing.audit = "losses" takes samples of the host: give data, or audit = "norms"'
            )
        if not sharing.secure:
            return self
        if sharing.combine != "mean" or sharing.audit == "losses":
            named = "combine" if sharing.combine != "mean" else "audit"
            raise ValueError(f"sharing.secure reveals sums alone: leave out sharing.{named}")
        if self.privacy.sums == "shares":
            raise ValueError(
                "sharing.secure sums what holders of pieces share, and helpers on shares hold pieces in "
                "common: leave out privacy.sums or sharing.secure"
            )
        if self.group.plan is None:
            check_secure(self.group.groups, sharing.omega, sharing.values)
        return self

    @model_validator(mode="after")
    def _noise_fits(self) -> Self:
        training = self.training
        if not self.privacy.private:
            return self
        self.privacy.check_noise_on_shares(training.batch)
        if training.staleness or training.weight_decay or training.clip_norm:
            raise ValueError(
                "with privacy.epsilon or noise leave out training.staleness, weight_decay and clip_norm: the "
                "account of noise is that of plain steps"
            )
        if self.device_data is not None and self.privacy.order == "seed":
            raise ValueError(
                "with privacy.epsilon or noise the draws of a device must be its secret: leave out "
                "privacy.order = 'seed', by which any device could subtract the noise"
            )
        return self

    @model_validator(mode="after")
    def _pieces_are_inherited(self) -> Self:
        if self.group.min_pieces is not None and self.privacy.heirs not in ("all", "shared"):
            raise ValueError(
                "group.min_pieces goes on without a lost device, so another one must be able to read its "
                "piece: set privacy.heirs = 'shared' or privacy.heirs = 'all', or leave min_pieces out"
            )
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read the TOML file at `path`; `overrides` are settings such as "training.epochs=3".

        Raises ConfigError naming file, key, value and what is allowed.
        """
        return load_toml(path, cls, overrides=overrides)

    def to_toml(self) -> str:
        """Return the description as TOML, with absolute paths, and without what is as it is by default."""
        values = self.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        if self.training.optimizer != "sgd":  # whose learning rate is another one by default
            values["training"]["learning_rate"] = self.training.learning_rate
        return tomli_w.dumps(values)

    @property
    def devices(self) -> int:
        """Return devices that take part; if the fleet does not tell, as many as the groups need."""
        named = (len(self.fleet.phones) or self.fleet.virtual) + self.fleet.joining
        return named or self.group.groups * self.group.pieces

    @model_validator(mode="after")
    def _validates(self) -> Self:
        if self.validation is None:
            return self
        if self.checkpoints.evaluate != "epoch":
            raise ValueError(
                "validation chooses among epochs: leave out checkpoints.evaluate, or the table [validation]"
            )
        if self.validation.share and (self.data is None or self.device_data is not None):
            raise ValueError(
                "validation.share holds back training samples of this computer, and they are on the phones: "
                "set validation.share = 0, and put a validation.npz into the data folder"
            )
        if not self.sharing.theta:
            raise ValueError(
                "validation chooses among models that groups share, and sharing.theta = 0 shares nothing: "
                "leave out one of them"
            )
        if self.data is None:
            raise ValueError("validation needs data, a folder with validation.npz; or leave the table out")
        return self

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if self.data is None and self.device_data is None:
            raise ValueError("give data (a folder on this computer) or device_data (a folder on each phone)")
        if self.data is None and self.input_shape is None:
            raise ValueError("with device_data alone, input_shape must be the shape of a sample")
        return self

    @model_validator(mode="after")
    def _has_devices(self) -> Self:
        named = len(self.fleet.phones) or self.fleet.virtual
        needed = self.group.groups * self.group.pieces
        if named and self.group.plan is None and named + self.fleet.joining < needed:
            raise ValueError(
                f"{needed} devices are needed, one for each of {self.group.pieces} pieces in "
                f"{self.group.groups} group(s), and the fleet has {named + self.fleet.joining}; "
                "add devices or ask for fewer pieces"
            )
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunSpec:
    """Read a description of a run. Raises ConfigError naming file, key, value and what is allowed."""
    return RunSpec.load(path, overrides)
