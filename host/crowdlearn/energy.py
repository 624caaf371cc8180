"""Energy: meters of phones over adb, measurements with them, and constants fitted to those.

    from crowdlearn import energy

    programs = energy.make_programs("paper-mlp", "", (3,), 32)
    measured = event_loop.run(energy.measure(energy.discover(), programs, print, quick=True))
    print(energy.as_csv(measured.rows()))

docs/energy.md tells the columns, and where each number comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazily

if TYPE_CHECKING:
    from crowdlearn_host.devices.constants import Constants
    from crowdlearn_host.devices.discovery import Found, discover
    from crowdlearn_host.energy.figures import COLUMNS, Figures, as_csv
    from crowdlearn_host.energy.measure import Measured, measure
    from crowdlearn_host.energy.meters import METERS, readable_of
    from crowdlearn_host.energy.plot import draw
    from crowdlearn_host.energy.programs import make_programs
    from crowdlearn_host.energy.published import PUBLISHED, Published, deviation
    from crowdlearn_host.energy.subject import Program
    from crowdlearn_host.energy.table import comparisons, sources, steps

__all__ = [
    "COLUMNS",
    "METERS",
    "PUBLISHED",
    "Constants",
    "Figures",
    "Found",
    "Measured",
    "Program",
    "Published",
    "as_csv",
    "comparisons",
    "deviation",
    "discover",
    "draw",
    "make_programs",
    "measure",
    "readable_of",
    "sources",
    "steps",
]

__getattr__, __dir__ = lazily(__name__, __file__)
