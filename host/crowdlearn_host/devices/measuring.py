"""What was measured on a phone: a slice program's speed, the link's rates and round trip."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from crowdlearn_device.program.kernels import KernelChoice, Timed

from crowdlearn_host.adb.carriers.silence import Watched, silence_reported
from crowdlearn_host.adb.deployment.runtimes import shell_runtime
from crowdlearn_host.adb.deployment.shell import HOME, FileStore
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.errors import FleetError

PINGS = 10
LINK_BYTES = 1 << 20
STEP_SECONDS = 2.0
ANSWER_SECONDS = 120.0
_PROGRAMS = "measured"
_PROBE = f"{HOME}/probe"


@dataclass(frozen=True)
class MeasuredLink:
    """A link as measured: round trip in seconds, rates in bytes a second, seen from the phone: up is from it
    to this computer.
    """

    round_trip: float
    up: float
    down: float


@dataclass(frozen=True)
class Probe:
    """A slice program to time: its files by name, the hash of its manifest, MACs of a sample, and how many
    samples a step has. `kernels` is another one, of methods in two forms, and `sizes` has by method how many
    multiplications its products take.
    """

    files: Mapping[str, bytes]
    sha256: str
    macs_a_sample: float
    batch: int = 32
    kernels: Probe | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasuredKernels:
    """The choice of a phone between the kernels of its ABI: XNNPACK's for products of `worthwhile`
    multiplications and more, as far as was tried; None if it chose ExecuTorch's own for all. `methods` has
    what was timed; nothing if the phone is `emulated`.
    """

    abi: str
    emulated: bool
    worthwhile: int | None
    methods: Mapping[str, Timed]


async def measure_link(device: AdbDevice) -> MeasuredLink:
    """Time a byte there and back, and a megabyte each way. Raises FleetError."""
    round_trip = await _round_trip(device)
    content = os.urandom(LINK_BYTES)
    down = await _seconds(lambda: device.push(content, _PROBE))
    up = await _seconds(lambda: device.pull(_PROBE))
    await device.shell(f"rm -f {_PROBE}")
    return MeasuredLink(round_trip, LINK_BYTES / up, LINK_BYTES / down)


async def measure_macs(
    device: AdbDevice, probe: Probe, *, seconds: float = STEP_SECONDS, program: Sequence[str] | None = None
) -> float:
    """Return multiply-accumulates a second of the phone on a slice program, forward and backward, one thread.

    `program` is the words that run the device runtime, which is looked for, or brought, without them. Raises
    FleetError when the phone cannot have it, or cannot run the slice program.
    """
    output = await _measured(device, probe, seconds, program)
    try:
        answer = json.loads(output.splitlines()[-1])
        samples = int(answer["steps"]) * int(answer["batch"])
        rate = samples * probe.macs_a_sample / float(answer["seconds"])
    except (ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise FleetError(
            f"{device.serial}: crowdlearn-device measure answered {output[:200]!r}: {error}"
        ) from error
    if not 0 < rate < float("inf"):
        raise FleetError(f"{device.serial}: crowdlearn-device measure answered {output[:200]!r}")
    return rate


async def measure_kernels(
    device: AdbDevice, probe: Probe, *, program: Sequence[str] | None = None
) -> MeasuredKernels:
    """Return what a phone chose between ExecuTorch's own kernels and XNNPACK's for the methods of a probe.

    Raises FleetError when the phone cannot have the runtime, or cannot run the program.
    """
    output = await _measured(device, probe, 0.0, program)
    try:
        choice = KernelChoice.from_json(json.dumps(json.loads(output.splitlines()[-1])["kernels"]))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FleetError(
            f"{device.serial}: crowdlearn-device measure answered {output[:200]!r}: {error}"
        ) from error
    worthwhile = None
    for name in sorted(choice.methods, key=lambda name: probe.sizes.get(name, 0), reverse=True):
        if choice.methods[name].backend != "xnnpack":
            break
        worthwhile = probe.sizes.get(name, 0)
    return MeasuredKernels(choice.abi, choice.emulated, worthwhile, choice.methods)


async def _measured(device: AdbDevice, probe: Probe, seconds: float, program: Sequence[str] | None) -> bytes:
    """Return what `crowdlearn-device measure` answers for a probe. Raises FleetError."""
    command = program or (await shell_runtime(device)).command
    folder = f"{HOME}/{_PROGRAMS}"
    await FileStore(device, folder).install(probe.files)
    words = ["measure", "--programs", folder, "--program", probe.sha256, "--seconds", str(seconds)]
    line = shlex.join([*command, *words, "--threads", "1"])
    return (await device.shell(line, timeout=ANSWER_SECONDS + seconds)).check("crowdlearn-device measure")


async def measure_messages(device: AdbDevice, *, program: Sequence[str] | None = None) -> float:
    """Return the seconds that a message between devices takes of the phone's processor, at its sender and its
    receiver together. Raises FleetError when the phone cannot have the runtime, or answers nothing like it.
    """
    command = program or (await shell_runtime(device)).command
    line = shlex.join([*command, "messages"])
    output = (await device.shell(line, timeout=ANSWER_SECONDS)).check("crowdlearn-device messages")
    try:
        seconds = float(json.loads(output.splitlines()[-1])["message_seconds"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FleetError(f"{device.serial}: crowdlearn-device messages answered {output[:200]!r}") from error
    if not 0 < seconds < 1:
        raise FleetError(f"{device.serial}: crowdlearn-device messages answered {output[:200]!r}")
    return seconds


async def _round_trip(device: AdbDevice) -> float:
    stream = Watched(await device.open("exec:cat"))

    async def ping() -> None:
        await stream.write(b"x")
        if not await stream.read():
            raise FleetError(f"{device.serial} does not echo")

    try:
        with silence_reported(device.serial, "an echo"):
            return statistics.median([await _seconds(ping) for _ in range(PINGS)])
    finally:
        stream.abort()


async def _seconds(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started
