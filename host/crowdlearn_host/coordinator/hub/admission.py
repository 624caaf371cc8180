"""Who may take part in a run: what a device must say of itself at first, and the number that it gets."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION

from crowdlearn_host.coordinator.group.restore_points import Device
from crowdlearn_host.coordinator.group.settings import Settings
from crowdlearn_host.errors import FleetError


def hello_of(frame: pb.Frame) -> pb.Hello:
    """Return a device's first message. Raises FleetError if they are no hello, or not one of a device with a
    name and a key.
    """
    hello = frame.hello
    if not frame.HasField("hello"):
        raise FleetError("a device must send Hello first")
    if hello.version != VERSION:
        raise FleetError(
            f"{hello.device[:50]} has protocol version {hello.version}, this host {VERSION}; update the older"
        )
    name = hello.device
    if not name or len(name) > 100 or not name.isprintable() or len(hello.identity) != 32:
        raise FleetError(f"a device with name {name[:100]!r} and a key of {len(hello.identity)} bytes")
    return hello


def samples_of(hello: pb.Hello, number: int, settings: Settings) -> int:
    """Return the samples that a device with this number takes part with: none if it is planned without.

    Raises FleetError if it holds too few, or more than its memory was planned for.
    """
    name, least_rows = hello.device, settings.least_rows
    if number in settings.without_samples:
        return 0
    if not least_rows <= hello.samples < 1 << 32:
        why = "batch norm has no variance of one: " if least_rows > 1 and hello.samples else ""
        raise FleetError(
            f"{name} holds {hello.samples} training samples; {why}"
            f"give it {least_rows} at least, or leave it out"
        )
    most = settings.most_samples.get(number, hello.samples)
    if hello.samples > most:
        raise FleetError(
            f"{name} holds {hello.samples} training samples, and its memory was planned for {most}; "
            "plan again with that many"
        )
    return hello.samples


def check_same(known: Device, hello: pb.Hello, samples: int) -> None:
    """Raise FleetError if a device that comes back has other keys or data."""
    name = hello.device
    if known.identity != hello.identity:
        raise FleetError(
            f"{name} has another identity than when it joined; was it reset? Start a new run with it"
        )
    if known.samples != samples:
        raise FleetError(f"{name} holds {samples} samples, {known.samples} when it joined; restore its data")


class Seats:
    """The numbers of a run's devices: `planned` by name, where the plan names them; others are dealt out in
    `order`, and behind it from 0 on.
    """

    def __init__(
        self, planned: Mapping[str, int], known: Iterable[Device], order: Sequence[int] = ()
    ) -> None:
        self._planned = planned
        self._named = {number: name for name, number in planned.items()}
        self._numbers = {device.name: device.number for device in known}
        self._taken = set(self._numbers.values())
        self._free: Iterator[int] = itertools.chain(order, itertools.count())
        self._returned: list[int] = []

    def forget(self, name: str) -> None:
        """Let others have the number of a device that was refused."""
        number = self._numbers.pop(name, None)
        if number is not None:
            self._taken.discard(number)
            self._returned.append(number)

    def number(self, name: str, wanted: int | None) -> tuple[int, str]:
        """Return the number of a device: what it has, what stands in the plan, what is `wanted` for it, or
        the next. And the device in whose place it comes, where the plan names another.
        """
        if name in self._numbers:
            return self._numbers[name], ""
        number = self._planned.get(name, wanted)
        if number is None or number in self._taken:
            returned, self._returned = self._returned, []
            self._free = itertools.chain(returned, self._free)
            number = next(n for n in self._free if n not in self._taken)
        self._taken.add(number)
        self._numbers[name] = number
        named = self._named.get(number, name)
        return number, named if named != name else ""
