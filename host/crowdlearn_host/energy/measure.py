"""Measurement of all phones at hand, and of this computer beside them, in one experiment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crowdlearn_device.errors import MeterError

from crowdlearn_host.devices.discovery import Found
from crowdlearn_host.errors import FleetError

from .computer import computer_subject
from .experiment import OnStep, count_windows, run_rounds
from .figures import Figures
from .phone import phone_subject
from .subject import Program, Subject

ROUNDS, QUICK_ROUNDS = 5, 2
SECONDS = 600.0
QUICK_WINDOW = 0.2
"""Seconds of a window that suffice for virtual phones, whose meters have no noise."""
LEAST_WINDOW = 0.2
LEAST_PERCENT, MOST_PERCENT = 30, 80
"""Charge between which a battery's voltage is flat enough for figures to be compared."""


@dataclass(frozen=True)
class Measured:
    """The figures of every device, and of those that could not be measured why not, by serial."""

    figures: tuple[Figures, ...]
    missing: dict[str, str]
    window: float
    rounds: int

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of all devices."""
        return [row for figures in self.figures for row in figures.rows()]

    def devices(self) -> list[dict[str, Any]]:
        """Return the meter, constants and dropped windows of each device."""
        return [
            {
                "device": figures.subject.name,
                "model": figures.subject.model,
                "virtual": figures.subject.virtual,
                "meter": figures.subject.meter.name if figures.subject.meter else None,
                "unread": dict(figures.subject.unread),
                "dropped": dict(figures.dropped),
                "rails": figures.rail_watts,
                "constants": asdict(figures.constants),
                "notes": list(figures.notes),
            }
            for figures in self.figures
        ]


async def measure(
    found: Sequence[Found],
    programs: Sequence[Program],
    on_step: OnStep,
    *,
    seconds: float = SECONDS,
    quick: bool = False,
    meter: str = "",
    here: bool = True,
    key: Path | None = None,
) -> Measured:
    """Measure programs on phones and `here`, in interleaved rounds that take so many seconds together.

    Raises FleetError if nothing is to be measured or the time is too short, and MeterError if a phone lacks
    the chosen `meter`.
    """
    missing: dict[str, str] = {}
    async with AsyncExitStack() as opened:
        subjects: list[Subject] = []
        if here:
            computer = opened.enter_context(computer_subject())
            await computer.meet_meter()
            subjects.append(computer)
        notes: dict[str, list[str]] = {}
        for number, item in enumerate(found, 1):
            on_step(f"preparing {item.serial}", number, len(found))
            try:
                phone = await opened.enter_async_context(phone_subject(item, key))
                await phone.check_unplugged()
                await phone.meet_meter(meter)
                percent = phone.facts.battery_percent
                if not phone.virtual and percent is not None and not LEAST_PERCENT <= percent <= MOST_PERCENT:
                    notes.setdefault(phone.name, []).append(
                        f"its battery is at {percent} %; between {LEAST_PERCENT} and {MOST_PERCENT} % "
                        "figures can be compared"
                    )
            except (FleetError, MeterError) as error:
                missing[item.serial] = str(error)
                continue
            subjects.append(phone)
        if not subjects:
            raise FleetError(f"no device can be measured: {'; '.join(missing.values()) or 'there is none'}")
        for subject in subjects:
            on_step(f"bringing the programs to {subject.name}", 1 + subjects.index(subject), len(subjects))
            await subject.install(list(programs))
        rounds = QUICK_ROUNDS if quick else ROUNDS
        window = QUICK_WINDOW if quick else seconds / max(count_windows(subjects, programs, rounds), 1)
        if window < LEAST_WINDOW:
            raise FleetError(
                f"{seconds:.0f} s are {window:.2g} s for each of "
                f"{count_windows(subjects, programs, rounds)} windows; at least {LEAST_WINDOW} s are needed: "
                "give more --seconds, or fewer phones"
            )
        windows = await run_rounds(subjects, programs, rounds, window, on_step)
    figures = tuple(
        Figures(subject, of_subject, programs, notes.get(subject.name, ()))
        for subject, of_subject in zip(subjects, windows, strict=True)
    )
    return Measured(figures, missing, window, rounds)
