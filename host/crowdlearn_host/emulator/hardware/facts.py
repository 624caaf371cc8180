"""The facts that a phone reports of itself: properties, generated files, reports of `dumpsys`."""

import time
from collections.abc import Callable
from functools import partial

from crowdlearn_device.energy.gauge import VIRTUAL

from crowdlearn_host.emulator.hardware.filesystem import Generated
from crowdlearn_host.emulator.hardware.power import CHARGER_WATTS, PowerState, millivolts
from crowdlearn_host.emulator.hardware.profiles import CELL_VOLTS, DeviceProfile

# Skin temperatures from which Android reports light, moderate, severe, critical (a common vendor choice).
THROTTLING_CELSIUS = (39.0, 43.0, 45.0, 50.0)
_BATTERY = "/sys/class/power_supply/battery"
_CPU = "/sys/devices/system/cpu"


def properties(profile: DeviceProfile, name: str, abi: str) -> dict[str, str]:
    """Return the properties that `getprop` shows. One of them marks a virtual phone."""
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
    """Return files under /proc and /sys; `used_memory` gives the bytes that the phone's programs hold."""
    started = time.monotonic()
    files: dict[str, Generated] = {
        "/proc/meminfo": lambda: _meminfo(profile, used_memory()),
        "/proc/cpuinfo": lambda: _cpuinfo(profile),
        "/proc/uptime": lambda: f"{time.monotonic() - started:.2f} 0.00\n".encode(),
        "/sys/class/thermal/thermal_zone0/type": lambda: b"skin\n",
        "/sys/class/thermal/thermal_zone0/temp": lambda: _number(power().celsius * 1000),
        f"{_BATTERY}/type": lambda: b"Battery\n",
        f"{_BATTERY}/model_name": lambda: VIRTUAL.encode() + b"\n",
        f"{_BATTERY}/current_now": lambda: _number(microamperes(power())),
        f"{_BATTERY}/uevent": lambda: _uevent(profile, power()).encode(),
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
    core = 0
    for cluster, steps in zip(profile.clusters, profile.power.cores, strict=True):
        clocks = [mhz for mhz, _ in steps if mhz < cluster.mhz] + [cluster.mhz]
        for _ in range(cluster.cores):
            folder = f"{_CPU}/cpu{core}/cpufreq"
            files[f"{folder}/cpuinfo_max_freq"] = partial(_number, cluster.mhz * 1000)
            files[f"{folder}/scaling_available_frequencies"] = partial(_kilohertz, clocks)
            files[f"{folder}/scaling_cur_freq"] = partial(_clock, clocks, power)
            core += 1
    return files


def level(power: PowerState) -> int:
    """Return the battery level in percent."""
    return round(power.charge * 100)


def battery_facts(power: PowerState) -> dict[str, str]:
    """Return the kernel's facts of a battery that change with its charge, by file."""
    return {"capacity": str(level(power)), "status": _status(power)}


def microamperes(power: PowerState) -> int:
    """Return the current of the last stretch, negative while it leaves the battery, as the kernel has it."""
    charger = CHARGER_WATTS if power.plugged else 0.0
    return round(1e9 * (charger - power.watts) / millivolts(power))


def thermal_status(power: PowerState) -> int:
    """Return the status on Android's scale: 0 none, 1 light, 2 moderate, 3 severe, 4 critical."""
    if power.thermal_override is not None:
        return power.thermal_override
    return sum(power.celsius >= limit for limit in THROTTLING_CELSIUS)


def report_battery(profile: DeviceProfile, power: PowerState) -> str:
    """Write what `dumpsys battery` prints."""
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


def report_stats(profile: DeviceProfile, power: PowerState) -> str:
    """Write what `dumpsys batterystats` prints: what Android computes from the maker's power profile, here
    the model's.
    """
    total, shell = (
        joules / 3.6 / CELL_VOLTS for joules in (power.used_joules, power.cpu_joules + power.radio_joules)
    )
    return (
        "Battery History: a virtual phone keeps none\n\n"
        "  Estimated power use (mAh):\n"
        f"    Capacity: {profile.battery}, Computed drain: {total:.4f}, actual drain: 0\n"
        "    Global\n"
        f"      idle: {power.rest_joules / 3.6 / CELL_VOLTS:.4f} apps: 0\n"
        f"  UID 2000: {shell:.4f} ( cpu={power.cpu_joules / 3.6 / CELL_VOLTS:.4f} )\n"
        f"  Profile: {profile.power.source}\n"
    )


def rails(power: PowerState) -> dict[str, float]:
    """Return joules by the rails of the model; a maker's rails have other names."""
    return {
        "MODELLED_CPU": power.cpu_joules,
        "MODELLED_RADIO": power.radio_joules,
        "MODELLED_REST": power.rest_joules,
    }


def report_thermal(power: PowerState) -> str:
    """Write what `dumpsys thermalservice` prints."""
    status = thermal_status(power)
    skin = f"\tTemperature{{mValue={power.celsius:.1f}, mType=3, mName=skin, mStatus={status}}}\n"
    return (
        f"IsStatusOverride: {str(power.thermal_override is not None).lower()}\n"
        f"Thermal Status: {status}\n"
        f"Cached temperatures:\n{skin}"
        "HAL Ready: true\n"
        f"Current temperatures from HAL:\n{skin}"
    )


def report_memory(profile: DeviceProfile, used: int) -> str:
    """Write what `dumpsys meminfo` prints."""
    total = profile.memory * 1024
    free = _available(profile, used)
    return f"Total RAM: {total:,}K (status normal)\n Free RAM: {free:,}K\n Used RAM: {total - free:,}K\n"


def _uevent(profile: DeviceProfile, power: PowerState) -> str:
    fields = {
        "NAME": "battery",
        "MODEL_NAME": VIRTUAL,
        "STATUS": _status(power),
        "PRESENT": 1,
        "TECHNOLOGY": "Li-ion",
        "CAPACITY": level(power),
        "VOLTAGE_NOW": millivolts(power) * 1000,
        "CURRENT_NOW": microamperes(power),
        "CHARGE_COUNTER": round(profile.battery * 1000 * power.charge),
        "TEMP": round(power.celsius * 10),
    }
    return "".join(f"POWER_SUPPLY_{name}={value}\n" for name, value in fields.items())


def _kilohertz(clocks: list[int]) -> bytes:
    return (" ".join(str(1000 * mhz) for mhz in clocks) + "\n").encode()


def _clock(clocks: list[int], power: Callable[[], PowerState]) -> bytes:
    return _number(1000 * (clocks[-1] if power().computing else clocks[0]))


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


def _number(value: float) -> bytes:
    return f"{round(value)}\n".encode()
