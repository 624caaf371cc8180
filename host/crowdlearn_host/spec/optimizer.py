"""The optimizer of a run, as a configuration names it: optimizer = "adam", and its numbers beside it."""

from __future__ import annotations

from typing import Any, Self

from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.optimizers.registry import OPTIMIZERS, Kind
from crowdlearn_export.graph.held.registry import LEFT_OUT
from crowdlearn_export.graph.neuron_graph import FrozenAs
from pydantic import Field, field_validator, model_validator

from crowdlearn_host.common.toml_files import Section
from crowdlearn_host.methods.round_schedule import Fall, share_left

ADAPTIVE_RATE = 0.001
"""The learning rate of Adam and AdamW where none is given, as torch.optim has it."""
OPTIONS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum", "nesterov"),
    "adam": ("betas", "eps"),
    "adamw": ("betas", "eps"),
}
"""The options of each optimizer, beside weight_decay and clip_norm, which all have."""


class OptimizedSection(Section):
    """The optimizer, as torch.optim defines it, and its learning rate: 0.1 for sgd, 0.001 for the others,
    unless it is given. `weight_decay` is 0 unless it is given.

    `schedule` lowers the rate from sharing to sharing: linear and cosine to a hundredth; step multiplies it
    by `step_factor` every `step_epochs` epochs. In the first `warmup` mini-batches of a group it rises.
    Gradients are scaled so that their norm over the whole network is at most `clip_norm`, if that is
    not 0. Devices hold weights that are `frozen` as float32 or, rounded, as float16 or int8.
    """

    optimizer: Kind = "sgd"
    learning_rate: float = Field(default=0.1, gt=0, le=100)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=0, ge=0, le=1 << 31)
    schedule: Fall = "constant"
    step_epochs: int = Field(default=0, ge=0)
    step_factor: float = Field(default=0.1, gt=0, le=1)
    frozen: FrozenAs = "float32"

    @field_validator("frozen", mode="before")
    @classmethod
    def _is_a_way_to_hold(cls, given: Any) -> Any:
        if isinstance(given, str) and given in LEFT_OUT:
            raise ValueError(f"weights are not held as {given}: {LEFT_OUT[given]}")
        return given

    @model_validator(mode="before")
    @classmethod
    def _has_its_own_options(cls, given: Any) -> Any:
        kind = given.get("optimizer", "sgd") if isinstance(given, dict) else None
        if not isinstance(kind, str) or kind not in OPTIMIZERS:
            return given
        for name in sorted({name for names in OPTIONS.values() for name in names} - {*OPTIONS[kind]}):
            if name in given and given[name] and given[name] != cls.model_fields[name].default:
                its = " and ".join(OPTIONS[kind])
                raise ValueError(f"optimizer = {kind!r} has no {name}; leave it out ({kind} has {its})")
        if kind == "sgd":
            return given
        return {"learning_rate": ADAPTIVE_RATE, **given, "momentum": 0.0}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.schedule == "step") != (self.step_epochs > 0):
            raise ValueError('schedule = "step" and step_epochs, the epochs of each step, go together')
        self.rule  # noqa: B018  it raises ValueError
        return self

    @property
    def rule(self) -> Optimizer:
        """Return the optimizer itself."""
        options: dict[str, Any] = {"weight_decay": self.weight_decay, "clip_norm": self.clip_norm}
        for name in OPTIONS[self.optimizer]:
            if name == "betas":
                options["beta1"], options["beta2"] = self.betas
            else:
                options[name] = getattr(self, name)
        return OPTIMIZERS[self.optimizer](**options)

    @property
    def has_slots(self) -> bool:
        """Return True if the optimizer keeps arrays beside the weights."""
        return bool(self.rule.slots)

    def rate_left(self, epochs_done: float, epochs: int) -> float:
        """Return the learning rate of a round, so many epochs being over, after any warm-up."""
        steps = int(epochs_done / self.step_epochs) if self.step_epochs else 0
        return self.learning_rate * share_left(self.schedule, epochs_done / epochs, steps, self.step_factor)
