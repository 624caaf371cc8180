"""The augmentations of a run, as a configuration names them: augment = ["flip", {kind = "crop"}]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from crowdlearn_device.data.augmentation.base import Augmentation
from crowdlearn_device.data.augmentation.registry import check_augmentations, make_augmentation
from crowdlearn_device.errors import DataError
from crowdlearn_device.protocol import wire_pb2 as pb
from pydantic import BeforeValidator, Field, model_validator

from crowdlearn_host.common.toml_files import Section
from crowdlearn_host.errors import ConfigError


class AugmentSection(Section):
    """One random change of samples while they are fed. Images: crop (`padding`), flip (`probability`), erase
    (`size`). Signals and numbers: shift (`most` positions), noise (`std`), scale and offset (`most`).
    """

    kind: Literal["crop", "flip", "erase", "noise", "scale", "offset", "shift"]
    padding: int | None = Field(default=None, ge=0)
    probability: float | None = Field(default=None, ge=0, le=1)
    size: int | None = Field(default=None, ge=1)
    std: float | None = Field(default=None, ge=0)
    most: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _has_its_own_options(self) -> Self:
        self.rule  # noqa: B018  it raises ValueError
        return self

    @property
    def options(self) -> dict[str, float]:
        """Return the options that are given."""
        given = {name: getattr(self, name) for name in ("padding", "probability", "size", "std", "most")}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def rule(self) -> Augmentation:
        """Return the augmentation itself."""
        return make_augmentation(self.kind, self.options)

    @property
    def message(self) -> pb.Augmentation:
        """Return what devices are sent."""
        return pb.Augmentation(kind=self.kind, options=self.options)


def _by_name(given: Any) -> Any:
    return {"kind": given} if isinstance(given, str) else given


AugmentSpec = Annotated[AugmentSection, BeforeValidator(_by_name)]


def check_augment(chain: Sequence[AugmentSection], sample: tuple[int, ...], *, integers: bool) -> None:
    """Raise ConfigError if samples of this shape cannot be changed so; `integers` are codes, not numbers."""
    try:
        check_augmentations([each.rule for each in chain], sample, integers=integers)
    except DataError as error:
        raise ConfigError(str(error)) from error


def check_no_noise(chain: Sequence[AugmentSection], *, private: bool) -> None:
    """Raise ValueError if samples are to change in a run whose account of noise is of plain samples."""
    if chain and private:
        raise ValueError(
            "training.augment and privacy.epsilon or noise do not go together: DP-SGD draws its samples "
            "itself; leave one out"
        )
