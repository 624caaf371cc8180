"""The facts that a phone reports of itself: model, processor, memory, storage, battery, temperature."""

import re
from dataclasses import dataclass

from crowdlearn_device.security.assignment_policy import FINGERPRINT

from crowdlearn_host.adb.deployment.app import HOME as APP_HOME
from crowdlearn_host.adb.deployment.app import PACKAGE
from crowdlearn_host.adb.deployment.runtimes import PROGRAM
from crowdlearn_host.adb.deployment.shell import HOME
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.bundle import ABIS
from crowdlearn_host.errors import FleetError

_MARK = "==="
_SECTIONS = {
    "properties": "getprop",
    "memory": "cat /proc/meminfo",
    "frequencies": "cat /sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq",
    "battery": "dumpsys battery",
    "thermal": "dumpsys thermalservice",
    "storage": "df -k /data",
    "pages": "getconf PAGE_SIZE",
    "identity": f"cat {HOME}/{FINGERPRINT} || cat {APP_HOME}/{FINGERPRINT}",
    "runtime": f"which {PROGRAM}; pm path {PACKAGE}",
}
THERMAL_NAMES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
CHARGING, FULL = 2, 5


@dataclass(frozen=True)
class DeviceFacts:
    """One phone; memory, storage and pages in bytes, clocks in MHz by core. None is what it does not tell.

    `runtimes` are the forms that the device runtime has on it or can have: "app", "program", "bundle".
    `fingerprint` is that of its identity, as it says itself, once the device runtime has run there.
    """

    serial: str
    name: str
    manufacturer: str
    model: str
    android: str
    api_level: int | None
    abi: str
    core_mhz: tuple[int, ...]
    memory: int | None
    memory_available: int | None
    storage_free: int | None
    battery_percent: int | None
    charging: bool | None
    celsius: float | None
    thermal: str | None
    virtual: bool
    page_size: int | None
    runtimes: tuple[str, ...]
    fingerprint: str | None = None


async def read_facts(device: AdbDevice) -> DeviceFacts:
    """Ask a connected phone. Raises FleetError when it does not answer."""
    command = "; ".join(f"echo {_MARK}{name}; {command} 2>/dev/null" for name, command in _SECTIONS.items())
    result = await device.shell(command)
    return parse_facts(device.serial, result.stdout.decode(errors="replace"))


def parse_facts(serial: str, text: str) -> DeviceFacts:
    """Return the facts in the answers of a phone. Raises FleetError when it is none."""
    sections = dict.fromkeys(_SECTIONS, "")
    for part in text.split(_MARK)[1:]:
        name, _, body = part.partition("\n")
        sections[name.strip()] = body
    properties = dict(re.findall(r"^\[([\w.]+)\]: \[(.*)\]\s*$", sections["properties"], re.M))
    if "ro.product.model" not in properties:
        raise FleetError(f"{serial} does not answer as an Android phone: it has no property ro.product.model")
    status = _number(r"^\s*status: (\d+)", sections["battery"])
    tenths = _number(r"^\s*temperature: (-?\d+)", sections["battery"])
    thermal = _number(r"^Thermal Status: (\d+)", sections["thermal"])
    return DeviceFacts(
        serial=serial,
        name=properties.get("ro.serialno", serial),
        manufacturer=properties.get("ro.product.manufacturer", ""),
        model=properties["ro.product.model"],
        android=properties.get("ro.build.version.release", ""),
        api_level=_number(r"^(\d+)$", properties.get("ro.build.version.sdk", "")),
        abi=properties.get("ro.product.cpu.abi", ""),
        core_mhz=tuple(
            int(khz) // 1000 for khz in re.findall(r"^(\d{1,9})\s*$", sections["frequencies"], re.M)
        ),
        memory=_kilobytes(r"^MemTotal:\s+(\d+)", sections["memory"]),
        memory_available=_kilobytes(r"^MemAvailable:\s+(\d+)", sections["memory"]),
        storage_free=_kilobytes(r"^\S+\s+\d+\s+\d+\s+(\d+)\s", sections["storage"]),
        battery_percent=_number(r"^\s*level: (\d+)", sections["battery"]),
        charging=None if status is None else status in (CHARGING, FULL),
        celsius=None if tenths is None else tenths / 10,
        thermal=None if thermal is None or thermal >= len(THERMAL_NAMES) else THERMAL_NAMES[thermal],
        virtual=properties.get("ro.crowdlearn.virtual") == "1",
        page_size=_number(r"^(\d+)\s*$", sections["pages"]),
        runtimes=_runtimes(sections["runtime"], properties),
        fingerprint=_fingerprint(sections["identity"]),
    )


def _runtimes(text: str, properties: dict[str, str]) -> tuple[str, ...]:
    abis = properties.get("ro.product.cpu.abilist", properties.get("ro.product.cpu.abi", "")).split(",")
    found = {
        "app": "package:" in text,
        "program": f"/{PROGRAM}" in text,
        "bundle": bool(ABIS.keys() & set(abis)),
    }
    return tuple(name for name, there in found.items() if there)


def _fingerprint(text: str) -> str | None:
    found = re.search(r"^([0-9a-f]{4}( [0-9a-f]{4}){7})\s*$", text, re.M)
    return found[1] if found else None


def _number(pattern: str, text: str) -> int | None:
    found = re.search(pattern, text, re.M)
    return int(found[1]) if found and len(found[1]) < 19 else None


def _kilobytes(pattern: str, text: str) -> int | None:
    number = _number(pattern, text)
    return None if number is None else number * 1024
