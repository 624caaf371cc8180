"""Fleet: the devices at hand by class, what they can do, and what may be asked of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from crowdlearn_host.common.toml_files import Description, Section, load_toml

UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _bytes(value: object) -> object:
    """Read '64 MiB' as a number of bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    if match is None:
        return value
    if match[2] not in UNITS:
        raise ValueError(f"unit {match[2]!r} is none of {', '.join(unit for unit in UNITS if unit)}")
    return int(float(match[1]) * UNITS[match[2]])


Bytes = Annotated[int, Field(gt=0), BeforeValidator(_bytes)]


class DeviceClass(Section):
    """Devices alike: their number or names, samples each holds, rates, and hard caps.

    `max_seconds` and `max_macs` cap the computing of one sample, forward and backward; `max_uplink` caps the
    bytes that a device sends for one sample of any dominator. `max_joules` caps what a device spends on an
    epoch beyond what it spends idle, and so does `battery_share` as a share of `battery_joules`; both need
    joules per MAC and byte, whose origin is in `energy_provenance` and `energy_source`. A device without
    samples is never the dominator. Devices of classes with the same `owner` are one person's, and no two of
    them are in one triple of helpers. `message_seconds` is what a message between devices takes of a
    processor, at its sender and its receiver together: micro-batches are as large as that is worth.
    """

    name: str = Field(min_length=1, max_length=100)
    owner: str = Field(default="", max_length=100)
    count: int = Field(default=0, ge=0, le=10_000)
    devices: tuple[str, ...] = ()
    samples: int = Field(default=0, ge=0, le=10**9)
    macs_per_second: PositiveFloat
    message_seconds: PositiveFloat | None = None
    uplink_bytes_per_second: PositiveFloat | None = None
    downlink_bytes_per_second: PositiveFloat | None = None
    max_seconds: PositiveFloat | None = None
    max_macs: PositiveInt | None = None
    max_memory: Bytes | None = None
    max_uplink: Bytes | None = None
    joules_per_mac: PositiveFloat | None = None
    joules_per_byte_sent: PositiveFloat | None = None
    joules_per_byte_received: PositiveFloat | None = None
    idle_watts: float | None = Field(default=None, ge=0)
    energy_provenance: Literal["", "measured", "modelled", "emulated"] = ""
    energy_source: str = Field(default="", max_length=1000)
    battery_joules: PositiveFloat | None = None
    max_joules: PositiveFloat | None = None
    battery_share: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _names(self) -> DeviceClass:
        if bool(self.devices) == bool(self.count):
            raise ValueError(f"class {self.name}: give either count or devices")
        if len(set(self.devices)) != len(self.devices):
            raise ValueError(f"class {self.name}: a device is named twice")
        if self.battery_share is not None and self.battery_joules is None:
            raise ValueError(
                f"class {self.name}: battery_share needs battery_joules, what a full battery holds"
            )
        if self.joules_limit is not None and self.power is None:
            raise ValueError(
                f"class {self.name}: a cap on energy needs joules_per_mac, joules_per_byte_sent and "
                "joules_per_byte_received"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Return the devices' names; numbered where only their count is known."""
        return self.devices or tuple(f"{self.name}-{k + 1}" for k in range(self.count))

    @property
    def power(self) -> tuple[float, float, float] | None:
        """Return joules per MAC, per byte sent and per byte received, if all of them are told."""
        constants = self.joules_per_mac, self.joules_per_byte_sent, self.joules_per_byte_received
        mac, sent, received = constants
        return None if mac is None or sent is None or received is None else (mac, sent, received)

    @property
    def joules_limit(self) -> float | None:
        """Return joules that a device may spend on an epoch."""
        share = self.battery_share and self.battery_joules and self.battery_share * self.battery_joules
        return min((limit for limit in (self.max_joules, share) if limit is not None), default=None)

    @property
    def macs_limit(self) -> float | None:
        """Return MACs per sample that a device may be asked for."""
        limits = [self.max_macs, self.max_seconds and self.max_seconds * self.macs_per_second]
        return min((float(limit) for limit in limits if limit is not None), default=None)


class Fleet(Description):
    """Every class of devices; the file's tables are [[class]]."""

    classes: tuple[DeviceClass, ...] = Field(alias="class", min_length=1, max_length=100)

    @model_validator(mode="after")
    def _distinct(self) -> Fleet:
        names = [name for kind in self.classes for name in kind.names]
        if len(set(names)) != len(names) or len({kind.name for kind in self.classes}) != len(self.classes):
            raise ValueError("classes and devices need names of their own")
        if not any(kind.samples for kind in self.classes):
            raise ValueError("no device holds samples, so none can be the dominator; set samples")
        return self

    @property
    def size(self) -> int:
        """Return devices in the fleet."""
        return sum(len(kind.names) for kind in self.classes)


def load_fleet(path: str | Path) -> Fleet:
    """Read a fleet. Raises ConfigError naming the file, the key and what is allowed."""
    return load_toml(path, Fleet)


def deal(fleet: Fleet, groups: int) -> tuple[tuple[str, ...], ...]:
    """Return the fleet's devices dealt out in turn, so that groups are as alike as can be."""
    names = [name for kind in fleet.classes for name in kind.names]
    return tuple(tuple(names[k::groups]) for k in range(groups))


def turning(fleet: Fleet, groups: int) -> tuple[int, int]:
    """Return turns of an epoch at which the dominator changes, over all groups, and the groups in which every
    device dominates.
    """
    holds = {name: bool(kind.samples) for kind in fleet.classes for name in kind.names}
    turns = complete = 0
    for devices in deal(fleet, groups):
        dominators = sum(holds[name] for name in devices)
        if dominators > 1:
            turns += dominators
            complete += dominators == len(devices)
    return turns, complete
