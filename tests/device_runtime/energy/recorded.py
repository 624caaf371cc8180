"""What real phones said of their batteries, retyped from public bug reports and documentation.

`says` is the answer as reported, shortened to the lines about the battery; `by` is the way it was asked. What
it means is in SI units; `charger` tells that energy cannot be read from it, for a charger adds to it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recorded:
    """One answer of one phone, with what it means."""

    phone: str
    maker: str
    source: str
    by: str
    says: str
    volts: float
    charger: bool
    coulombs: float | None = None
    percent: int | None = None
    celsius: float | None = None


def _dumpsys(*lines: str) -> str:
    return "\n  ".join(("Current Battery Service state:", *lines)) + "\n"


RECORDED = (
    Recorded(
        "Pixel 3a",
        "Google",
        "https://github.com/MatteCarra/AccA/issues/35 (runs on USB power, charging disabled)",
        "uevent",
        "NAME=battery\nSTATUS=Not charging\nCAPACITY=44\nVOLTAGE_NOW=3815175\nCURRENT_NOW=976\nTEMP=313\n",
        3.815175,
        charger=True,
        percent=44,
        celsius=31.3,
    ),
    Recorded(
        "Pixel C",
        "Google",
        "https://github.com/google/syzkaller/issues/79 (its charge counter tells nothing)",
        "dumpsys",
        _dumpsys(
            "AC powered: true",
            "USB powered: false",
            "Wireless powered: false",
            "Max charging current: 2400000",
            "Max charging voltage: 5000000",
            "Charge counter: 0",
            "status: 2",
            "level: 19",
            "scale: 100",
            "voltage: 3764",
            "temperature: 275",
        ),
        3.764,
        charger=True,
        percent=19,
        celsius=27.5,
    ),
    Recorded(
        "Mi 8",
        "Xiaomi",
        "https://github.com/MatteCarra/AccA/issues/27 (its current is negative while it charges)",
        "uevent",
        "NAME=battery\nSTATUS=Charging\nCAPACITY=50\nVOLTAGE_NOW=3888173\nCURRENT_NOW=-326171\nTEMP=290\n"
        "CHARGE_COUNTER=1528169\nCHARGE_FULL=3346000\n",
        3.888173,
        charger=True,
        coulombs=1.528169 * 3600,
        percent=50,
        celsius=29.0,
    ),
    Recorded(
        "Redmi Note 14",
        "Xiaomi",
        "https://github.com/d4rken-org/amply/pull/52 (its charge counter is in milliampere-hours)",
        "dumpsys",
        _dumpsys(
            "AC powered: true",
            "USB powered: false",
            "Dock powered: false",
            "Max charging current: 12400000",
            "Charge counter: 4274",
            "status: 2",
            "level: 80",
            "scale: 100",
            "voltage: 4228",
            "The last voltage value sent via the battery changed broadcast: 4232",
            "temperature: 364",
        ),
        4.228,
        charger=True,
        coulombs=4.274 * 3600,
        percent=80,
        celsius=36.4,
    ),
    Recorded(
        "OnePlus 7",
        "OnePlus",
        "https://github.com/VR-25/acc/issues/195 (LineageOS 20, nothing plugged in, no current told)",
        "dumpsys",
        _dumpsys(
            "AC powered: false",
            "USB powered: false",
            "Wireless powered: false",
            "Max charging current: 0",
            "Charge counter: 2849000",
            "status: 3",
            "level: 77",
            "scale: 100",
            "voltage: 3985",
            "temperature: 294",
        ),
        3.985,
        charger=False,
        coulombs=2.849 * 3600,
        percent=77,
        celsius=29.4,
    ),
    Recorded(
        "a Samsung phone of 2018",
        "samsung",
        "https://gh0st.tistory.com/6 (current now in milliampere, both charge counters 0)",
        "dumpsys",
        _dumpsys(
            "mBootCompleted: true",
            "AC powered: false",
            "USB powered: true",
            "Charge counter: 0",
            "status: 2",
            "level: 84",
            "scale: 100",
            "voltage: 4063",
            "temperature: 326",
            "current now: 321",
            "charge counter: 0",
        ),
        4.063,
        charger=True,
        percent=84,
        celsius=32.6,
    ),
    Recorded(
        "a Samsung phone of 2023",
        "samsung",
        "https://github.com/zebrunner/mcloud-device/issues/150 (full, on USB)",
        "dumpsys",
        _dumpsys(
            "AC powered: false",
            "USB powered: true",
            "Charge counter: 2967000",
            "status: 5",
            "level: 100",
            "scale: 100",
            "voltage: 4312",
            "temperature: 309",
            "current now: 0",
            "charge counter: 2967000",
        ),
        4.312,
        charger=True,
        coulombs=2.967 * 3600,
        percent=100,
        celsius=30.9,
    ),
    Recorded(
        "Moto G XT1072",
        "motorola",
        "a public test log of Thali (full, on USB; its charge counter is negative)",
        "uevent",
        "POWER_SUPPLY_NAME=battery\nPOWER_SUPPLY_STATUS=Full\nPOWER_SUPPLY_ONLINE=1\nPOWER_SUPPLY_CAPACITY=100\n"
        "POWER_SUPPLY_VOLTAGE_NOW=4311755\nPOWER_SUPPLY_CURRENT_NOW=-8613\nPOWER_SUPPLY_CHARGE_COUNTER=-564\n"
        "POWER_SUPPLY_TEMP=276\n",
        4.311755,
        charger=True,
        percent=100,
        celsius=27.6,
    ),
)
UNITS = {
    "Galaxy A52s 5G": ("samsung", 1e-3, "https://github.com/dubrowgn/wattz/issues/5"),
    "OnePlus 7T": ("OnePlus", 1e-3, "https://github.com/TylerWilliamson/BatteryNotification/issues/13"),
    "realme X2": ("realme", 1e-3, "https://github.com/dubrowgn/wattz/issues/23"),
    "P8 Lite 2017": ("HUAWEI", 1e-3, "https://github.com/community-code/amps/issues/1"),
    "Mi A1": ("Xiaomi", 1e-6, "https://github.com/community-code/amps/issues/1"),
    "Pixel 6a": ("Google", 1e-6, "https://github.com/dijia1124/PlusPlusBattery/issues/71"),
}
"""The unit in which phones were reported to tell current: maker, amperes for 1, source. Of these the OnePlus
7T, the realme X2 and the Mi A1 tell it positive while they discharge.
"""
