"""The fuel gauge of a battery, from any of the sources that a phone has: sysfs, a uevent, `dumpsys battery`.

Vendors differ in unit and sign. The kernel's documentation has microampere, negative while discharging;
others report milliampere, or the other sign. So a sign means nothing: a battery that discharges with nothing
plugged in supplies the current that the phone draws.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from crowdlearn_device.errors import MeterError

MILLIAMPERE_MAKERS = ("samsung", "huawei", "honor", "oneplus", "oppo", "realme")
"""Makers whose gauges tell milliampere, as far as public bug reports show."""
LEAST_VOLTS, MOST_VOLTS = 2.4, 9.2
"""The voltages of one cell that is nearly empty, and of two full cells in series."""
MOST_AMPERES = 20.0
"""More than any phone draws."""
LEAST_AMPERES = 0.005
"""Less than any phone draws that answers."""
MICROAMPERE_HOURS = 50_000
"""A charge from which on it is taken for microampere-hours: as milliampere-hours it were no phone's."""
MOST_COULOMBS = 15 * 3600.0
"""15 Ah, more than any phone's battery holds."""
_STATUS = {"1": "unknown", "2": "charging", "3": "discharging", "4": "not charging", "5": "full"}
VIRTUAL = "virtual (modelled)"
"""The model of a virtual phone's battery, wherever it is told."""
_PLUGS = ("ac powered", "usb powered", "wireless powered", "dock powered")


@dataclass(frozen=True)
class Gauge:
    """The reading of a battery's gauge, in SI units; None is what it does not tell.

    `amperes` is what leaves the battery, known only if nothing is plugged in; `coulombs` is the charge left,
    told in steps of `coulombs_step`. A gauge is `modelled` if it is a virtual phone's.
    """

    volts: float
    amperes: float | None
    coulombs: float | None
    percent: int | None
    celsius: float | None
    status: str
    plugged: bool
    coulombs_step: float | None = None
    modelled: bool = False

    @property
    def watts(self) -> float:
        """Return the power that leaves the battery, in watts. Raises MeterError if a charger adds to it, or
        it is not known.
        """
        self.check_unplugged()
        if self.amperes is None:
            raise MeterError(
                "this battery reports no current; measure for minutes by its charge, or use another meter"
            )
        return self.volts * self.amperes

    def check_unplugged(self) -> None:
        """Raise MeterError if a charger is connected: its power goes past the gauge, or into the battery."""
        if self.plugged or self.status in ("charging", "full"):
            raise MeterError(
                f"the phone is on a charger (status: {self.status}); unplug it and reach it by adb over "
                "Wi-Fi, or use a hub that cuts the power"
            )


def read_uevent(text: str, maker: str = "") -> Gauge:
    """Return the gauge of the lines NAME=VALUE of a supply's uevent; `maker` is ro.product.manufacturer."""
    lines = (line.strip().partition("=") for line in text.splitlines())
    fields = {name.removeprefix("POWER_SUPPLY_").lower(): value for name, found, value in lines if found}
    return from_sysfs(fields, maker)


def from_sysfs(fields: Mapping[str, str], maker: str = "") -> Gauge:
    """Return the gauge of a supply's files by name: voltage_now, current_now, charge_counter, status, ..."""
    status = fields.get("status", "unknown").strip().lower()
    # A battery that says "Not charging" is fed by a charger that does not charge it.
    plugged = status in ("charging", "full", "not charging") or fields.get("online", "0").strip() == "1"
    return Gauge(
        _volts(_number(fields, "voltage_now", "voltage_avg")),
        None if plugged else _amperes(_number(fields, "current_now", "current_avg"), maker),
        _coulombs(charge := _number(fields, "charge_counter", "charge_now")),
        _percent(_number(fields, "capacity")),
        _celsius(_number(fields, "temp")),
        status,
        plugged,
        _step(charge),
        fields.get("model_name", "").strip() == VIRTUAL,
    )


def read_dumpsys(text: str, maker: str = "") -> Gauge:
    """Return the gauge of `dumpsys battery`: millivolts, tenths of a degree, and the vendor's own `current
    now`.

    Raises MeterError if it is none, or if Android was told to say something else ("UPDATES STOPPED").
    """
    if "Current Battery Service state" not in text:
        raise MeterError("this is no answer of dumpsys battery; is it an Android phone?")
    if "UPDATES STOPPED" in text:
        raise MeterError("Android's battery readings are overridden; run: dumpsys battery reset")
    found = re.findall(r"^\s*([A-Za-z][A-Za-z ]*?):\s*(\S+)\s*$", text, re.M)
    fields: dict[str, str] = {}
    for name, value in found:
        # Samsung repeats the charge in lower case, with 0 where the first line has the charge.
        fields.setdefault(name.lower(), value)
    status = _STATUS.get(fields.get("status", "1"), "unknown")
    plugged = any(fields.get(plug) == "true" for plug in _PLUGS)
    return Gauge(
        _volts(_number(fields, "voltage")),
        None if plugged else _amperes(_number(fields, "current now"), maker),
        _coulombs(charge := _number(fields, "charge counter")),
        _percent(_number(fields, "level")),
        _celsius(_number(fields, "temperature")),
        status,
        plugged,
        _step(charge),
        "modelled energy used" in text,
    )


def _number(fields: Mapping[str, str], *names: str) -> float | None:
    for name in names:
        try:
            return float(fields[name])
        except (KeyError, ValueError):
            continue
    return None


def _volts(value: float | None) -> float:
    """Convert from microvolts or millivolts, whichever is a battery's."""
    for scale in (1e-6, 1e-3):
        if value is not None and LEAST_VOLTS <= value * scale <= MOST_VOLTS:
            return value * scale
    raise MeterError(f"the battery's voltage reads {value}, which is no cell's; use another meter")


def _amperes(value: float | None, maker: str) -> float | None:
    """Convert from microampere or milliampere, of either sign. Raises MeterError if the unit cannot be
    told.
    """
    if value is None or value == 0:
        return None  # a gauge that tells nothing says 0, while a phone that answers draws something
    size = abs(value)
    if size * 1e-3 > MOST_AMPERES:
        in_amperes = size * 1e-6
    elif maker.lower() in MILLIAMPERE_MAKERS:
        in_amperes = size * 1e-3
    elif size * 1e-6 >= LEAST_AMPERES:
        in_amperes = size * 1e-6
    else:
        raise MeterError(
            f"the battery's current reads {value:.0f}: too little in microampere, and "
            f"{maker or 'its maker'} is not known to report milliampere; use another meter"
        )
    if not LEAST_AMPERES <= in_amperes <= MOST_AMPERES:
        raise MeterError(f"the battery's current reads {value:.0f}, which no phone draws; use another meter")
    return in_amperes


def _coulombs(value: float | None) -> float | None:
    """Convert from microampere-hours, or milliampere-hours where the first would be next to nothing."""
    if value is None or value <= 0:
        return None
    coulombs = value * _charge_unit(value)
    return coulombs if coulombs <= MOST_COULOMBS else None


def _charge_unit(value: float) -> float:
    return 3.6e-3 if value >= MICROAMPERE_HOURS else 3.6


def _step(value: float | None) -> float | None:
    """Return the step in which a charge is told, in coulombs: at best the zeros that its number ends in."""
    if value is None or value <= 0 or _coulombs(value) is None:
        return None
    zeros = len(digits := f"{value:.0f}") - len(digits.rstrip("0"))
    return _charge_unit(value) * 10.0**zeros


def _percent(value: float | None) -> int | None:
    return int(value) if value is not None and 0 <= value <= 100 else None


def _celsius(value: float | None) -> float | None:
    return value / 10 if value is not None and -400 <= value <= 1500 else None
