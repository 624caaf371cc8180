"""The base of the ways to hold frozen weights: what devices have of them, and how programs widen it.

Descriptions of runs and graphs name these ways, so that nothing here imports torch before it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

SPACING = ".spacing"
"""The end of the name of an array of spacings, behind the name of the weight that it belongs to."""


class Held(ABC):
    """A way to hold a weight [rows, ...]: codes of one `dtype` in its shape and, if `spaced`, a float32 for
    each row, the spacing of its codes. A row is that of a source neuron, so that pieces hold whole rows.
    """

    kind: ClassVar[str]
    """The name of this way, as `training.frozen` gives it."""
    dtype: ClassVar[str]
    spaced: ClassVar[bool] = False

    @abstractmethod
    def encoded(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Return codes [rows, ...] and, if `spaced`, spacings [rows] of a float32 weight [rows, ...], all as
        float32. What `decoded` gives of them is encoded as the same again.
        """

    def decoded(self, codes: Tensor, *spacings: Tensor) -> Tensor:
        """Return the weight that a program computes with: float32 [rows, ...]. Codes are of `dtype`."""
        return codes.float() if codes.element_size() < 4 else codes

    def widened(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return arrays by name as programs compute with them, each [rows, ...]; spacings stay there."""
        if not self.spaced:
            return {name: self.decoded(array) for name, array in arrays.items()}
        spaced = [name for name in arrays if name + SPACING in arrays]
        return {**arrays, **{name: self.decoded(arrays[name], arrays[name + SPACING]) for name in spaced}}
