"""Energy constants of one phone, fitted to its own measurements."""

from __future__ import annotations

from crowdlearn_device.errors import MeterError

from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.devices.constants import Constants
from crowdlearn_host.devices.facts import DeviceFacts
from crowdlearn_host.devices.measuring import Probe
from crowdlearn_host.errors import FleetError

from .experiment import OnStep, count_windows, run_rounds
from .figures import Figures
from .measure import ROUNDS
from .phone import PhoneSubject
from .subject import Program

VIRTUAL_SECONDS = 12.0
"""The time of all rounds on a virtual phone, whose meter has no noise."""


async def calibrate(
    device: AdbDevice,
    facts: DeviceFacts,
    way: str,
    probe: Probe,
    on_step: OnStep,
    *,
    seconds: float,
    meter: str = "",
) -> Constants:
    """Measure a connected phone at rest, computing the probe, sending and receiving, and fit constants to it.

    Raises FleetError if it is on a charger or fails, or its meter cannot be read, with what to do.
    """
    subject = PhoneSubject(device, facts, way)
    program = Program("probe", probe.macs_a_sample, probe.batch, probe.files, probe.sha256)
    async with subject.unplugged():
        try:
            await subject.check_unplugged()
            await subject.meet_meter(meter)
            if subject.meter is None:
                why = "; ".join(dict.fromkeys(subject.unread.values()))
                raise FleetError(f"{facts.serial}: no meter: {why}")
            await subject.install([program])
            whole = min(seconds, VIRTUAL_SECONDS) if facts.virtual else seconds
            window = whole / count_windows([subject], [program], ROUNDS)
            (windows,) = await run_rounds([subject], [program], ROUNDS, window, on_step)
        except MeterError as error:
            raise FleetError(str(error)) from error
        finally:
            await subject.tidy()
    figures = Figures(subject, windows, [program])
    if figures.failure:
        raise FleetError(figures.failure)
    return figures.constants
