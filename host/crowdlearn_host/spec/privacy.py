"""What a group's devices may learn of each other's samples: the section `privacy` of a run's description."""

from __future__ import annotations

from typing import Literal

from crowdlearn_host.common.toml_files import Section


class PrivacySection(Section):
    """The form in which sums and errors leave a device.

    plain: in the clear to the device that they are for, which can tell samples and labels from them. shares:
    as random shares to three helpers (docs/privacy.md); normalisation, activations and the loss stay with the
    dominator. `first_layer` then says whether it multiplies the first layer itself ("kept") or is helped with
    it, too ("shared").
    """

    sums: Literal["plain", "shares"] = "plain"
    first_layer: Literal["kept", "shared"] = "kept"


class RunPrivacySection(PrivacySection):
    """The settings of what devices of a run may learn of each other, beside `sums` and `first_layer`.

    `order` says where the order in which a dominator feeds its samples, and the rounding of its messages,
    come from. It is a "secret" of the device; or the run's "seed", which everybody knows and which repeats a
    run exactly; or "auto", secret if the samples lie on the devices (`device_data`), else the seed.

    `heirs` are the devices that can read the snapshot of a piece beside its owner, should that be lost. They
    are "spares", devices without a piece; or "all", which are the spares or, without any, every device; or
    the "owner" alone. If nobody can read it, a group waits until the lost device is back.
    """

    order: Literal["auto", "secret", "seed"] = "auto"
    heirs: Literal["spares", "all", "owner"] = "spares"
