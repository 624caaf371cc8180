"""What a phone says about itself: properties, generated files, reports of `dumpsys`."""

import time
from collections.abc import Callable
from functools import partial

from crowdlearn_host.emulator.hardware.filesystem import Generated
from crowdlearn_host.emulator.hardware.power import PowerState
from crowdlearn_host.emulator.hardware.profiles import DeviceProfile

# Skin temperatures from which Android reports light, moderate, severe, critical (a common vendor choice).
THROTTLING_CELSIUS = (39.0, 43.0, 45.0, 50.0)
EMPTY_MILLIVOLTS, FULL_MILLIVOLTS = 3500, 4350
_BATTERY = "/sys/class/power_supply/battery"
_CPU = "/sys/devices/system/cpu"


def properties(profile: DeviceProfile, name: str, abi: str) -> dict[str, str]:
    """The properties that `getprop` shows. A virtual phone says that it is one."""
    return {
        "ro.product.name": profile.device,
        "ro.product.model": profile.model,
        "ro.product.device": profile.device,
        "ro.product.manufacturer": profile.manufacturer,
        "ro.product.cpu.abi": abi,
        "ro.product.cpu.abilist": abi,
        "ro.soc.model": profile.soc,
        "ro.build.version.release": profile.android,
        "ro.build.version.sdk": str(profile.api_level),
        "ro.serialno": name,
        "ro.boot.qemu": "1",
        "ro.crowdlearn.virtual": "1",
        "sys.boot_completed": "1",
    }


def generated_files(
    profile: DeviceProfile, power: Callable[[], PowerState], used_memory: Callable[[], int]
) -> dict[str, Generated]:
    """Files under /proc and /sys; `used_memory` gives the bytes that the phone's programs hold."""
    started = time.monotonic()
    files: dict[str, Generated] = {
        "/proc/meminfo": lambda: _meminfo(profile, used_memory()),
        "/proc/cpuinfo": lambda: _cpuinfo(profile),
        "/proc/uptime": lambda: f"{time.monotonic() - started:.2f} 0.00\n".encode(),
        "/sys/class/thermal/thermal_zone0/type": lambda: b"skin\n",
        "/sys/class/thermal/thermal_zone0/temp": lambda: _number(power().celsius * 1000),
        f"{_BATTERY}/type": lambda: b"Battery\n",
        f"{_BATTERY}/present": lambda: b"1\n",
        f"{_BATTERY}/technology": lambda: b"Li-ion\n",
        f"{_BATTERY}/capacity": lambda: _number(level(power())),
        f"{_BATTERY}/status": lambda: _status(power()).encode() + b"\n",
        f"{_BATTERY}/temp": lambda: _number(power().celsius * 10),
        f"{_BATTERY}/voltage_now": lambda: _number(millivolts(power()) * 1000),
        f"{_BATTERY}/charge_full_design": lambda: _number(profile.battery * 1000),
        f"{_BATTERY}/charge_counter": lambda: _number(profile.battery * 1000 * power().charge),
        f"{_CPU}/possible": lambda: f"0-{profile.cores - 1}\n".encode(),
        f"{_CPU}/online": lambda: f"0-{profile.cores - 1}\n".encode(),
    }
    for core, mhz in enumerate(_core_mhz(profile)):
        for name in ("cpuinfo_max_freq", "scaling_cur_freq"):
            files[f"{_CPU}/cpu{core}/cpufreq/{name}"] = partial(_number, mhz * 1000)
    return files


def level(power: PowerState) -> int:
    """The battery level in percent."""
    return round(power.charge * 100)


def battery_facts(power: PowerState) -> dict[str, str]:
    """Return what the kernel says of a battery that changes with its charge, by file."""
    return {"capacity": str(level(power)), "status": _status(power)}


def millivolts(power: PowerState) -> int:
    """The voltage of the cell, taken as linear in its charge."""
    return round(EMPTY_MILLIVOLTS + (FULL_MILLIVOLTS - EMPTY_MILLIVOLTS) * power.charge)


def thermal_status(power: PowerState) -> int:
    """Android's scale: 0 none, 1 light, 2 moderate, 3 severe, 4 critical."""
    return sum(power.celsius >= limit for limit in THROTTLING_CELSIUS)


def report_battery(profile: DeviceProfile, power: PowerState) -> str:
    """`dumpsys battery`."""
    status = {"Charging": 2, "Discharging": 3, "Full": 5}[_status(power)]
    return (
        "Current Battery Service state:\n"
        "  AC powered: false\n"
        f"  USB powered: {str(power.plugged).lower()}\n"
        "  Wireless powered: false\n"
        f"  Charge counter: {round(profile.battery * 1000 * power.charge)}\n"
        f"  status: {status}\n"
        "  health: 2\n"
        "  present: true\n"
        f"  level: {level(power)}\n"
        "  scale: 100\n"
        f"  voltage: {millivolts(power)}\n"
        f"  temperature: {round(power.celsius * 10)}\n"
        "  technology: Li-ion\n"
        f"  modelled energy used (mJ): {round(power.used_joules * 1000)}\n"
    )


def report_thermal(power: PowerState) -> str:
    """`dumpsys thermalservice`."""
    status = thermal_status(power)
    skin = f"\tTemperature{{mValue={power.celsius:.1f}, mType=3, mName=skin, mStatus={status}}}\n"
    return (
        "IsStatusOverride: false\n"
        f"Thermal Status: {status}\n"
        f"Cached temperatures:\n{skin}"
        "HAL Ready: true\n"
        f"Current temperatures from HAL:\n{skin}"
    )


def report_memory(profile: DeviceProfile, used: int) -> str:
    """`dumpsys meminfo`."""
    total = profile.memory * 1024
    free = _available(profile, used)
    return f"Total RAM: {total:,}K (status normal)\n Free RAM: {free:,}K\n Used RAM: {total - free:,}K\n"


def _meminfo(profile: DeviceProfile, used: int) -> bytes:
    available = _available(profile, used)
    rows = {"MemTotal": profile.memory * 1024, "MemFree": available // 2, "MemAvailable": available}
    return "".join(f"{name + ':':<16}{value:>8} kB\n" for name, value in rows.items()).encode()


def _cpuinfo(profile: DeviceProfile) -> bytes:
    cores = "".join(f"processor\t: {core}\nCPU architecture: 8\n\n" for core in range(profile.cores))
    return f"{cores}Hardware\t: {profile.soc}\n".encode()


def _available(profile: DeviceProfile, used: int) -> int:
    return max(profile.memory_share * 1024 - used // 1024, 0)


def _status(power: PowerState) -> str:
    if not power.plugged:
        return "Discharging"
    return "Full" if level(power) == 100 else "Charging"


def _core_mhz(profile: DeviceProfile) -> list[int]:
    return [cluster.mhz for cluster in profile.clusters for _ in range(cluster.cores)]


def _number(value: float) -> bytes:
    return f"{round(value)}\n".encode()
