"""The form that the device runtime has on a phone: the app, a program of its shell, or a bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crowdlearn_host.adb.deployment.app import NO_APP, PACKAGE, AppDeployment
from crowdlearn_host.adb.deployment.bundle import MakeBundle, install_bundle
from crowdlearn_host.adb.deployment.shell import HOME, Deployment, RuntimeDeployment
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.adb.services.files import Progress
from crowdlearn_host.bundle import ABIS, Bundle, make_bundle
from crowdlearn_host.common.home import cache_home
from crowdlearn_host.errors import FleetError

PROGRAM = "crowdlearn-device"
START_SECONDS = 240.0
"""A slow phone reads a hundred megabytes first; one emulated on a busy computer takes a minute to import."""
Runtime = Literal["auto", "shell", "app"]
"""`auto` is the app if the phone has it, else `shell`: the phone's own program, or else a bundle."""


@dataclass(frozen=True)
class ShellRuntime:
    """The words before arguments of `crowdlearn-device` in a phone's shell; `sent` bytes brought it there."""

    kind: Literal["program", "bundle"]
    command: tuple[str, ...]
    sent: int


def default_bundle(abi: str) -> Bundle:
    """Return the bundle that is made once for all runs of this computer. Raises FleetError."""
    return make_bundle(abi, cache_home() / "bundles")


async def has_app(device: AdbDevice) -> bool:
    """Return whether the app is installed."""
    found = await device.shell(f"pm path {PACKAGE}")
    return found.exit_code == 0 and found.stdout.startswith(b"package:")


async def has_program(device: AdbDevice) -> bool:
    """Return whether the phone's shell finds the device runtime, as virtual phones do."""
    return (await device.shell(f"which {PROGRAM}")).exit_code == 0


async def shell_runtime(
    device: AdbDevice, make: MakeBundle = default_bundle, progress: Progress | None = None, home: str = HOME
) -> ShellRuntime:
    """Return the device runtime of the phone's shell, which gets a bundle if it has none. Raises
    FleetError.
    """
    if await has_program(device):
        return ShellRuntime("program", (PROGRAM,), 0)
    bundle = await asyncio.to_thread(make, await _abi(device))
    installed = await install_bundle(device, bundle, home, progress)
    return ShellRuntime("bundle", installed.command, installed.sent)


async def check_runtime(device: AdbDevice, runtime: Runtime) -> None:
    """Raise FleetError unless the phone has a runtime of this kind, or can have it; nothing is brought."""
    app = runtime != "shell" and await has_app(device)
    if runtime == "app" and not app:
        raise FleetError(NO_APP)
    if not (app or await has_program(device)) and (abi := await _abi(device)) not in ABIS:
        raise FleetError(f"there is no bundle for {abi or 'its processor'}; there are: {', '.join(ABIS)}")


async def _abi(device: AdbDevice) -> str:
    """Return the first ABI of the phone that there is a bundle for, or else all that it names."""
    output = (await device.shell("getprop ro.product.cpu.abilist")).stdout.decode(errors="replace").strip()
    return next((name for name in output.split(",") if name in ABIS), output)


async def deployment_for(
    device: AdbDevice,
    runtime: Runtime,
    arguments: Sequence[str],
    *,
    apk: Path | None = None,
    make: MakeBundle = default_bundle,
    progress: Progress | None = None,
) -> tuple[Deployment, int]:
    """Return the deployment of a runtime, and the bytes that brought the runtime there. Raises FleetError."""
    if runtime == "app" or (runtime == "auto" and await has_app(device)):
        return AppDeployment(device, apk=apk, arguments=arguments), 0
    found = await shell_runtime(device, make, progress)
    deployment = RuntimeDeployment(
        device, program=found.command, arguments=arguments, start_seconds=START_SECONDS
    )
    return deployment, found.sent
