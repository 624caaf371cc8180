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
