"""A look at the devices of a run before anything is exported for them: whether they answer, whether they can
have the runtime, and whether the samples that they hold can be trained on. Samples and labels stay there.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from crowdlearn_device.data.unit import Unit
from crowdlearn_device.protocol.targets import CLASSES, TargetSpec

from crowdlearn_host.adb.deployment.runtimes import Runtime, check_runtime, shell_runtime
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.devices.discovery import dial, named
from crowdlearn_host.errors import FleetError

ANSWER_SECONDS = 120.0


@dataclass(frozen=True)
class Wanted:
    """The samples that a model takes: their `folder` on each device, the shape of one, the number of outputs,
    the targets, and the least number of samples. `unit` is that of the test data, if there is some. If only
    some devices are ever the dominator, `dominators` has their names.
    """

    folder: str
    sample: tuple[int, ...]
    outputs: int
    targets: TargetSpec
    least: int
    unit: Unit | None = None
    dominators: frozenset[str] = frozenset()


async def survey(
    serials: Sequence[str], wanted: Wanted | None, key: Path | None = None, runtime: Runtime = "auto"
) -> None:
    """Ask all devices at once. Raises FleetError that names every device that does not answer, that cannot
    have the runtime, or whose samples do not fit.
    """
    answers = await asyncio.gather(*(_ask(serial, wanted, key, runtime) for serial in serials))
    if refusals := [answer for answer in answers if answer]:
        raise FleetError("; ".join(refusals))


async def _ask(serial: str, wanted: Wanted | None, key: Path | None, runtime: Runtime) -> str:
    """Return why the device cannot take part; "" if it can."""
    try:
        async with await dial(serial, key=key) as device:
            await check_runtime(device, runtime)
            if wanted is not None:
                await _look(device, wanted)
    except (FleetError, OSError) as error:
        return named(serial, error)
    return ""


async def _look(device: AdbDevice, wanted: Wanted) -> None:
    if wanted.dominators:
        name = (await device.shell("getprop ro.serialno")).stdout.decode(errors="replace").strip()
        if name not in wanted.dominators:
            return
    shape = "x".join(map(str, wanted.sample))
    command = (await shell_runtime(device)).command
    words = [
        *command,
        "samples",
        f"--data={wanted.folder}",
        f"--shape={shape}",
        f"--classes={wanted.outputs}",
    ]
    if wanted.targets != CLASSES:
        words.append(f"--targets={json.dumps(asdict(wanted.targets))}")
    if wanted.unit is not None:
        words.append(f"--unit={wanted.unit.to_json()}")
    output = (await device.shell(shlex.join(words), timeout=ANSWER_SECONDS)).check(
        "crowdlearn-device samples"
    )
    try:
        samples = int(json.loads(output.splitlines()[-1])["samples"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FleetError(f"crowdlearn-device samples answered {output[:200]!r}") from error
    if samples < wanted.least:
        raise FleetError(f"{wanted.folder} holds {samples} samples; at least {wanted.least} are needed")
