"""Battery and temperature of a virtual phone, modelled from what its programs do."""

from dataclasses import dataclass, replace

from crowdlearn_host.emulator.hardware.profiles import DeviceProfile

# Two watts for the whole CPU cluster at full load, the budget of a phone's processor:
# https://www.androidauthority.com/arms-secret-recipe-for-power-efficient-processing-409850/
CPU_WATTS = 2.0
# Huang et al., MobiSys 2012, power model of Wi-Fi: base 132.86 mW, 283.17 mW per Mbit/s up, 137.01 down.
RADIO_WATTS = 0.13286
SENT_JOULES_A_BYTE = 0.28317 * 8e-6
RECEIVED_JOULES_A_BYTE = 0.13701 * 8e-6
# Assumed: a USB port of 5 W, a room of 25 degrees, 4 kelvin per watt, settling within five minutes.
CHARGER_WATTS = 5.0
ROOM_CELSIUS = 25.0
KELVIN_A_WATT = 4.0
SETTLING_SECONDS = 300.0


@dataclass(frozen=True)
class PowerState:
    """Charge as a part of a full battery, degrees Celsius, joules used since the phone started."""

    charge: float = 0.8
    celsius: float = ROOM_CELSIUS
    used_joules: float = 0.0
    plugged: bool = True


@dataclass(frozen=True)
class Activity:
    """The load in a stretch of time; `busy` is the part of the whole processor that was in use."""

    seconds: float
    busy: float
    sent: int
    received: int


def spend(state: PowerState, profile: DeviceProfile, activity: Activity) -> PowerState:
    """The state after an activity."""
    seconds = activity.seconds
    joules = (
        (CPU_WATTS * min(activity.busy, 1.0) + RADIO_WATTS) * seconds
        + SENT_JOULES_A_BYTE * activity.sent
        + RECEIVED_JOULES_A_BYTE * activity.received
    )
    gained = CHARGER_WATTS * seconds if state.plugged else 0.0
    charge = state.charge + (gained - joules) / profile.capacity_joules
    settled = ROOM_CELSIUS + KELVIN_A_WATT * (joules / seconds if seconds else 0.0)
    towards = min(seconds / SETTLING_SECONDS, 1.0)
    return replace(
        state,
        charge=min(max(charge, 0.0), 1.0),
        celsius=state.celsius + (settled - state.celsius) * towards,
        used_joules=state.used_joules + joules,
    )
