"""The sharing of weights between groups, as runs and simulations describe it."""

from __future__ import annotations

from typing import Literal

from crowdlearn_device.privacy.aggregation.projection import LARGEST_BOUND
from pydantic import Field

from crowdlearn_host.common.toml_files import Section
from crowdlearn_host.methods.secure_sharing import check_norm_bound


class SharedWeightsSection(Section):
    """The weights that groups share after every epoch, or after `every` passes: the top `theta` of the
    weights, averaged over the last `omega` uploads (0: as many as there are groups), downloaded if uploaded
    more than omega * `tau` times.

    `secure` sums what groups share, so that the host gets nothing but sums of all groups, of which there must
    be eight; theta is then the same lot of weights for all. With `noise` a group's move of a round is clipped
    to the norm `clip`, and noise of `noise` times that lies in the sum: what a whole group did stays within
    an epsilon of its own, at `privacy.delta`. With `norm_bound` a move is clipped to that, and the host
    checks it by random projections (docs/privacy.md). `combine` takes a weight's uploads together: their
    mean, or, against groups that upload wrong weights, the mean without a quarter at either end ("trimmed"),
    or the "median".
    """

    every: int = Field(default=0, ge=0)
    theta: float = Field(default=1.0, ge=0, le=1)
    tau: float = Field(default=0.5, ge=0, le=1)
    omega: int = Field(default=0, ge=0)
    values: Literal["float32", "float16", "int8"] = "float32"
    secure: bool = False
    clip: float = Field(default=1.0, gt=0)
    noise: float | None = Field(default=None, gt=0)
    norm_bound: float | None = Field(default=None, gt=0, le=LARGEST_BOUND)
    combine: Literal["mean", "trimmed", "median"] = "mean"

    def check_sums(self, *, private: bool) -> None:
        """Raise ValueError if an option is of sums that are not asked for; `private` training is DP-SGD."""
        if self.noise is not None and not (self.secure and self.theta == 1):
            raise ValueError("sharing.noise lies in secure sums of all weights: set secure, and theta = 1")
        if self.norm_bound is not None:
            all_weights, noise = self.secure and self.theta == 1, self.noise is not None
            check_norm_bound(all_weights=all_weights, noise=noise, private=private)
