"""The loss of a run, as a configuration names it: loss = "mse", or a table with options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeFloat, model_validator

from crowdlearn_host.common.toml_files import Section
from crowdlearn_host.models.names import ModelName


class LossKind(StrEnum):
    """Every loss, by name."""

    cross_entropy = "cross_entropy"
    mse = "mse"
    l1 = "l1"
    huber = "huber"
    bce = "bce"
    own = "own"


OPTIONS = {
    "cross_entropy": {"label_smoothing", "class_weights"},
    "huber": {"delta"},
    "own": {"function", "takes"},
}
"""The options of each loss that has some."""


class LossSection(Section):
    """The loss: cross_entropy over classes; mse, l1 or huber between numbers; bce for yes and no of each
    output; own for a `function` of scores and targets that gives the loss of each sample, of what it `takes`.

    `label_smoothing` is cross_entropy's share of the target that is spread over all classes, and
    `class_weights` by how much each class counts, in their order. huber is squared
    up to a difference of `delta`.
    """

    kind: LossKind = LossKind.cross_entropy
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)
    class_weights: tuple[NonNegativeFloat, ...] | None = None
    delta: float | None = Field(default=None, gt=0)
    function: ModelName | None = None
    takes: Literal["numbers", "shares", "classes"] | None = None

    @model_validator(mode="after")
    def _has_its_own_options(self) -> Self:
        if self.kind == "own" and not self.function:
            raise ValueError('loss own needs a function: {kind = "own", function = "file.py:name"}')
        if unknown := [name for name in self.options if name not in OPTIONS.get(self.kind, set())]:
            raise ValueError(f"loss {self.kind} has no {', no '.join(unknown)}; leave it out")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Return the options that are given."""
        names = ("label_smoothing", "class_weights", "delta", "function", "takes")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


def _by_name(given: Any) -> Any:
    return {"kind": given} if isinstance(given, str) else given


LossSpec = Annotated[LossSection, BeforeValidator(_by_name)]
CROSS_ENTROPY = LossSection.model_validate({})
"""The loss by default."""
