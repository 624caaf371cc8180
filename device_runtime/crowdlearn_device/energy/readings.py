"""Readings of energy meters, each with where it comes from and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from crowdlearn_device.errors import MeterError

RESOLUTIONS = 10
"""Steps of a meter's resolution that a difference must have before it is told."""


class Provenance(StrEnum):
    """The way in which a figure came about."""

    MEASURED = "measured"
    """The provenance of readings by a sensor of the device."""
    MODELLED = "modelled"
    """Computed from what the device did, by constants that were measured elsewhere."""
    EMULATED = "emulated"
    """Told by a virtual phone, whose own model it is."""


class Covers(StrEnum):
    """The part of a device whose energy a meter counts."""

    PHONE = "whole phone"
    RAIL = "rail"
    PACKAGE = "processor package"
    PROCESS = "process"


@dataclass(frozen=True)
class Reading:
    """Energy that a meter has counted up to a moment, in joules since a time of its own.

    `resolution` is its smallest step, in joules; `seconds` is on a monotonic clock of the device; `celsius`
    is the battery's or the package's temperature, if it is told. `source` names what was read.
    """

    joules: float
    seconds: float
    source: str
    provenance: Provenance
    covers: Covers
    resolution: float
    celsius: float | None = None
    unit = "J"


@dataclass(frozen=True)
class Power:
    """The reading of a meter without a counter: the watts drawn at a moment, on the same terms as a
    Reading; `resolution` is in watts.
    """

    watts: float
    seconds: float
    source: str
    provenance: Provenance
    covers: Covers
    resolution: float
    celsius: float | None = None
    unit = "W"


@dataclass(frozen=True)
class Used:
    """Energy used between two readings of one meter, in joules over `seconds`."""

    joules: float
    seconds: float
    source: str
    provenance: Provenance
    covers: Covers
    resolution: float

    @property
    def watts(self) -> float:
        """Return the mean power."""
        return self.joules / self.seconds


def used(first: Reading, last: Reading) -> Used:
    """Return the energy between two readings of one meter.

    Raises MeterError if they are of two meters, out of order, or nearer than the meter can tell.
    """
    if (first.source, first.covers) != (last.source, last.covers):
        raise MeterError(
            f"readings of {first.source} and {last.source} cannot be compared; read one meter twice"
        )
    seconds, joules = last.seconds - first.seconds, last.joules - first.joules
    if seconds <= 0 or joules < 0:
        raise MeterError(
            f"{first.source}: {joules:.3g} J in {seconds:.3g} s; the counter ran backward, measure again"
        )
    if joules < RESOLUTIONS * first.resolution:
        needed = RESOLUTIONS * first.resolution
        raise MeterError(
            f"{first.source}: {joules:.3g} J in {seconds:.3g} s is too little for a meter that counts in "
            f"steps of {first.resolution:.3g} J; measure until {needed:.3g} J are used"
        )
    return Used(joules, seconds, first.source, first.provenance, first.covers, first.resolution)


def integrated(samples: list[Power]) -> Used:
    """Return the energy under a series of powers, by the trapezoidal rule; its resolution is the spread of
    one step.

    Raises MeterError if there are fewer than two, or they are of several meters.
    """
    if len(samples) < 2 or len({(s.source, s.covers) for s in samples}) != 1:
        raise MeterError("a meter that reports power only has to be read twice at least; measure for longer")
    first, last = samples[0], samples[-1]
    parts = [(b.watts + a.watts) / 2 * (b.seconds - a.seconds) for a, b in pairwise(samples)]
    watts = [sample.watts for sample in samples]
    step = (last.seconds - first.seconds) / (len(samples) - 1)
    return Used(
        sum(parts),
        last.seconds - first.seconds,
        first.source,
        first.provenance,
        first.covers,
        (max(watts) - min(watts)) * step,
    )
