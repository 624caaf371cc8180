"""The crowd that a service forms for a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crowdlearn_host.common.toml_files import Location, Section


class CrowdSection(Section):
    """The devices that `crowdlearn serve` gives a run, of those that are there.

    A run gets `group.groups` groups at least and `most_groups` at most, with a device for each piece. It gets
    `spares` times as many devices more, which take over when others go. It begins with the least once these
    have been there for `wait` seconds, and as soon as there are devices for all it may have. `selection` is
    how devices are chosen (docs/how-to/add-a-selection.md). With a `fleet` (fleet.toml) that names devices by
    class, only these take part, and the run is planned for those that were chosen.
    """

    most_groups: int = Field(default=0, ge=0, le=10_000)
    spares: float = Field(default=0.25, ge=0, le=4)
    wait: float = Field(default=30.0, ge=0)
    selection: Literal["able", "anyone"] = "able"
    fleet: Location | None = None
