"""The present of a run on phones: which device holds which piece and what each one does, from the events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class DeviceNow:
    """A device of the run: `piece` is the one that it holds in its `group`, if any; `passes` it made as the
    dominator.
    """

    name: str
    group: int = 0
    connected: bool = False
    piece: int | None = None
    does: str = ""
    passes: int = 0


@dataclass(frozen=True)
class GroupNow:
    """A group: what it is doing, in words, and the devices that hold its pieces, the dominator first."""

    number: int
    does: str
    holders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Now:
    """All devices by name and groups by number; `over` once no group goes on."""

    devices: tuple[DeviceNow, ...] = ()
    groups: tuple[GroupNow, ...] = ()
    over: bool = False


@dataclass
class _Reading:
    devices: dict[str, DeviceNow] = field(default_factory=dict)
    groups: dict[int, GroupNow] = field(default_factory=dict)

    def change(self, device: str, **fields: Any) -> None:
        self.devices[device] = replace(self.devices.get(device, DeviceNow(device)), **fields)

    def group(self, number: int, does: str) -> None:
        self.groups[number] = replace(self.groups.get(number, GroupNow(number, "")), does=does)


def now(events: Iterable[Mapping[str, Any]]) -> Now:
    """Return the state that the events lead to."""
    reading = _Reading()
    for event in events:
        take(reading, event)
    groups = tuple(reading.groups[number] for number in sorted(reading.groups))
    over = bool(groups) and all(group.does.startswith(("done", "stopped")) for group in groups)
    return Now(tuple(reading.devices[name] for name in sorted(reading.devices)), groups, over)


def take(reading: _Reading, event: Mapping[str, Any]) -> None:
    """Note one event."""
    device, number = str(event.get("device", "")), int(event.get("group", 0))
    match event.get("event"):
        case "joined":
            reading.change(device, group=number, connected=True, does="waits")
            if number not in reading.groups:
                reading.group(number, "waits for devices")
        case "left":
            reading.change(device, connected=False, piece=None, does=f"gone: {event.get('reason', '')}")
        case "leaving":
            reading.change(device, does=f"is to leave: {event.get('reason', '')}")
        case "declined":
            reading.change(device, connected=False, does=f"declines: {event.get('reason', '')}")
        case "fault":
            reading.change(device, does=f"fault: {event.get('reason', '')}")
        case "assigned":
            _assigned(reading, number, event)
        case "pass":
            known = reading.devices.get(device, DeviceNow(device))
            reading.change(device, passes=known.passes + 1)
        case "recovering" | "paused" as kind:
            reading.group(number, f"{kind}: {event.get('why', '')}")
        case "shared":
            reading.group(number, f"shared round {int(event.get('round', 0)) + 1}")
        case "done":
            reading.group(number, "done")
        case "stopped":
            reading.group(number, f"stopped: {event.get('reason', '')}")


def _assigned(reading: _Reading, number: int, event: Mapping[str, Any]) -> None:
    holders = tuple(map(str, event.get("holders", ())))
    spares = set(map(str, event.get("spares", ())))
    dominator = str(event.get("dominator", ""))
    epoch, boundary = int(event.get("epoch", 0)) + 1, event.get("boundary", 0)
    for name, device in list(reading.devices.items()):
        if device.group != number or not device.connected:
            continue
        if name in holders:
            piece = holders.index(name)
            does = "feeds its samples: dominator" if name == dominator else "computes its slice: follower"
            reading.change(name, piece=piece, does=does)
        else:
            reading.change(name, piece=None, does="spare" if name in spares else "waits")
    does = f"trains epoch {epoch}, from mini-batch {boundary}" if dominator else "prepares to share"
    reading.groups[number] = GroupNow(number, does, holders)
