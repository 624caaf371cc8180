"""Battery and temperature of a virtual phone, modelled from what its programs do."""

from dataclasses import dataclass, replace

from crowdlearn_host.emulator.hardware.profiles import CELL_VOLTS, DeviceProfile


@dataclass(frozen=True)
class Radio:
    """The cost of a radio: watts of one that is on, joules for each byte sent and received."""

    watts: float
    sent: float
    received: float


def _measured(base_milliwatts: float, up: float, down: float) -> Radio:
    """Convert from milliwatts, and milliwatts for a megabit a second each way."""
    return Radio(base_milliwatts / 1e3, up * 8e-9, down * 8e-9)


RADIOS = {"wifi": _measured(132.86, 283.17, 137.01), "lte": _measured(1288.04, 438.39, 51.97)}
"""The radio of each kind of link, measured on phones. A phone in a run sends more often than LTE's tail lasts
(11.6 s), so its radio is taken to stay on.
"""
RADIO_SOURCE = (
    "Huang et al., A Close Examination of Performance and Power Characteristics of 4G LTE, MobiSys 2012"
)
# Assumed: a USB port of 5 W, a room of 25 degrees, 4 kelvin per watt, settling within five minutes.
CHARGER_WATTS = 5.0
EMPTY_MILLIVOLTS, FULL_MILLIVOLTS = 3500, 4350
ROOM_CELSIUS = 25.0
KELVIN_A_WATT = 4.0
SETTLING_SECONDS = 300.0


def cpu_watts(profile: DeviceProfile) -> float:
    """Return watts that the whole processor draws beyond its rest, all cores computing at their highest
    clocks.
    """
    power = profile.power
    cores = sum(
        cluster.cores * power.core(k, cluster.mhz) + power.shared[k]
        for k, cluster in enumerate(profile.clusters)
    )
    return CELL_VOLTS * 1e-3 * (power.active + cores)


def idle_watts(profile: DeviceProfile) -> float:
    """Return watts of the processor at rest, the screen being off."""
    return CELL_VOLTS * 1e-3 * profile.power.idle


@dataclass(frozen=True)
class PowerState:
    """Charge as a part of a full battery, degrees Celsius, and joules used since the phone started: by the
    processor beyond its rest, by the radio, and by the rest. `watts` is the power of the last stretch;
    `thermal_override` the thermal status that was set for a test, as Android allows.
    """

    charge: float = 0.8
    celsius: float = ROOM_CELSIUS
    cpu_joules: float = 0.0
    radio_joules: float = 0.0
    rest_joules: float = 0.0
    plugged: bool = True
    watts: float = 0.0
    computing: bool = False
    thermal_override: int | None = None

    @property
    def used_joules(self) -> float:
        """Return all of them."""
        return self.cpu_joules + self.radio_joules + self.rest_joules


def millivolts(power: PowerState) -> int:
    """Return the voltage of the cell, taken as linear in its charge."""
    return round(EMPTY_MILLIVOLTS + (FULL_MILLIVOLTS - EMPTY_MILLIVOLTS) * power.charge)


@dataclass(frozen=True)
class Activity:
    """The load in a stretch of time; `busy` is the part of the whole processor that was in use, more than 1
    if the phone would have taken longer.
    """

    seconds: float
    busy: float
    sent: int
    received: int


def spend(state: PowerState, profile: DeviceProfile, activity: Activity, link: str = "wifi") -> PowerState:
    """Return the state after an activity. Cores compute at their highest clock or rest, so a computation
    costs the same however it is spread over time and cores.
    """
    seconds, radio = activity.seconds, RADIOS[link]
    cpu = cpu_watts(profile) * activity.busy * seconds
    on_air = radio.watts * seconds + radio.sent * activity.sent + radio.received * activity.received
    rest = idle_watts(profile) * seconds
    joules = cpu + on_air + rest
    gained = CHARGER_WATTS * seconds if state.plugged else 0.0
    watts = joules / seconds if seconds else 0.0
    settled = ROOM_CELSIUS + KELVIN_A_WATT * watts
    towards = min(seconds / SETTLING_SECONDS, 1.0)
    charge = state.charge + (gained - joules) / (profile.coulombs * millivolts(state) / 1000)
    return replace(
        state,
        charge=min(max(charge, 0.0), 1.0),
        celsius=state.celsius + (settled - state.celsius) * towards,
        cpu_joules=state.cpu_joules + cpu,
        radio_joules=state.radio_joules + on_air,
        rest_joules=state.rest_joules + rest,
        watts=watts,
        computing=activity.busy > 0,
    )
