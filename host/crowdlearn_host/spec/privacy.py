"""What a group's devices may learn of each other's samples: the section `privacy` of a run's description."""

from __future__ import annotations

from typing import Literal

from crowdlearn_device.privacy.dp.draws import most_drawn
from crowdlearn_device.protocol.targets import TargetSpec
from pydantic import Field

from crowdlearn_host.common.toml_files import Section
from crowdlearn_host.errors import ConfigError

LEAST_DRAWN = 32
"""Samples of a mini-batch of DP-SGD on shares at least: so many are never none by chance (1e-14)."""


class PrivacySection(Section):
    """The form in which sums and errors leave a device.

    plain: in the clear to the device that they are for, which can tell samples and labels from them. masked:
    as in plain, but sums that several devices send to one are masked, so that it sees their total only;
    `fraction` are the binary places of such sums. shares: as random shares to triples of helpers
    (docs/privacy.md); normalisation, activations and the loss stay with the dominator. `first_layer` then
    says whether it multiplies the first layer itself ("kept") or is helped with it, too ("shared").

    With `epsilon` or `noise` each mini-batch is a DP-SGD step: samples drawn at random (Poisson), gradients
    clipped to the norm `clip` sample by sample, noise added of `noise` times the clip. Given `epsilon` alone,
    the noise is what keeps a sample of any device within it, at `delta`, to the run's end. Given both,
    training ends before an epoch that would exceed it. With `label_epsilon` each device changes its labels by
    randomised response before anything learns from them, which hides a label, and no image, within it.
    """

    epsilon: float | None = Field(default=None, gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    noise: float | None = Field(default=None, gt=0)
    label_epsilon: float | None = Field(default=None, gt=0, le=50)
    sums: Literal["plain", "masked", "shares"] = "plain"
    fraction: int = Field(default=14, ge=4, le=20)
    first_layer: Literal["kept", "shared"] = "kept"

    @property
    def masked_fraction(self) -> int:
        """Return the binary places of masked sums; 0 if none are masked."""
        return self.fraction if self.sums == "masked" else 0

    @property
    def private(self) -> bool:
        """Return True if training is DP-SGD."""
        return self.epsilon is not None or self.noise is not None

    def rows_on_shares(self, batch: int) -> int:
        """Return samples for which mini-batches of `batch` on shares have room: with noise, every draw."""
        return most_drawn(batch) if self.private else batch

    def check_noise_on_shares(self, batch: int) -> None:
        """Raise ValueError if steps of DP-SGD in mini-batches of `batch` do not go with `sums`."""
        if not self.private:
            return
        if self.sums == "masked":
            raise ValueError(
                "privacy.epsilon and noise are for privacy.sums = 'plain' or 'shares': masks round all "
                "samples of a mini-batch alike"
            )
        if self.sums == "shares" and batch < LEAST_DRAWN:
            raise ValueError(
                "privacy.epsilon and noise on shares hide how many samples a step draws, and not that it "
                f"draws none: set training.batch = {LEAST_DRAWN} or more"
            )


class RunPrivacySection(PrivacySection):
    """The settings of what devices of a run may learn of each other, beside `sums` and `first_layer`.

    `order` says where the order in which a dominator feeds its samples, and the rounding of its messages,
    come from. It is a "secret" of the device; or the run's "seed", which is public and which repeats a run
    exactly; or "auto", secret if the samples lie on the devices (`device_data`), else the seed.

    `first_weights` come from a seed that all devices draw together ("joint"), which neither the host nor a
    device can steer; or from the run's "seed", which repeats a run exactly; or "auto", joint if the samples
    lie on the devices.

    `heirs` are the devices that can read the snapshot of a piece beside its owner, should that be lost. They
    are "spares", devices without a piece; or "all", which are the spares or, without any, every device; or
    the "owner" alone; or "shared": of all other devices of the group, `heirs_needed` together, and fewer not.
    If too few can read it, a group waits until the lost device is back.

    `max_leak` is the largest part of a dominator's samples that a follower may re-identify by the sums that
    it gets. `max_label_leak` is the largest part of their labels that it may read. A plan
    keeps to both (`crowdlearn plan RUN.toml`), and a run takes no other plan.

    With `sticky` a device holds the same piece whenever the same device is dominator, in every epoch. So it
    does not collect views of one sample by ever more neurons. A plan's turns are so in any case.

    `owners` lists devices, by name, that are one person's: no two of an owner's are helpers of one triple,
    who together could read everything.
    """

    order: Literal["auto", "secret", "seed"] = "auto"
    first_weights: Literal["auto", "joint", "seed"] = "auto"
    heirs: Literal["spares", "all", "owner", "shared"] = "spares"
    heirs_needed: int = Field(default=2, ge=2, le=255)
    owners: tuple[tuple[str, ...], ...] = ()
    max_leak: float | None = Field(default=None, ge=0, le=1)
    max_label_leak: float | None = Field(default=None, ge=0, le=1)
    sticky: bool = False

    def recovery(self, pieces: int, devices: int) -> str:
        """Return in words what it takes to restore the piece of a lost device, in groups of `devices`."""
        others, spares = devices - 1, devices - pieces
        if self.heirs == "shared" and others >= self.heirs_needed:
            together = f"any {self.heirs_needed} of the {others} other devices together"
            return f"from {together}; one alone reads nothing"
        if self.heirs in ("spares", "all") and spares > 0:
            return f"from any of {spares} spares, each of which can read it alone"
        if self.heirs == "all" and others > 0:
            return f"from any of the {others} other devices, each of which can read it alone"
        return "only with that device itself: no other can read it"


def check_label_epsilon(epsilon: float | None, targets: TargetSpec) -> None:
    """Raise ConfigError if labels are to change at random, and a target is not one class."""
    if epsilon is not None and (not targets.are_classes or targets.shape):
        raise ConfigError(
            "privacy.label_epsilon changes classes, and a target here is not one class; leave it out"
        )
