"""A bundle brought to a phone: unpacked once, checked each time, and only ever there as a whole."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.adb.services.files import Progress
from crowdlearn_host.bundle import Archive, Bundle
from crowdlearn_host.bundle.bundle import LISTING
from crowdlearn_host.errors import FleetError

UNPACK_SECONDS = 300.0
TRY_SECONDS = 120.0

MakeBundle = Callable[[str], Bundle]
"""The bundle for an ABI, by its name; takes a minute the first time."""


@dataclass(frozen=True)
class Installed:
    """The words before the arguments of `crowdlearn-device` on the phone, and the bytes that were sent."""

    command: tuple[str, ...]
    sent: int


async def install_bundle(
    device: AdbDevice, bundle: Bundle, home: str, progress: Progress | None = None
) -> Installed:
    """Have the bundle on a phone, below `home`; bundles that it takes the place of are removed.

    Raises FleetError if there is too little room, the phone damages what it stores, or its shell may not run
    programs there. Nothing is half there then, and no folder that it made.
    """
    folder = f"{home}/bundles"
    try:
        return await _installed(device, bundle, home, folder, progress)
    except BaseException:
        if device.lost is None:
            for each in (folder, home):
                await device.shell(f"rmdir {shlex.quote(each)} 2>/dev/null")  # if it is empty
        raise


async def _installed(
    device: AdbDevice, bundle: Bundle, home: str, folder: str, progress: Progress | None
) -> Installed:
    (await device.shell(f"mkdir -p {shlex.quote(folder)}")).check(f"making {folder}")
    missing = [x for x in (bundle.python, bundle.device) if not await _whole(device, folder, x)]
    total, sent = sum(archive.packed for archive in missing), 0
    if missing:
        await _remove_others(device, folder, bundle)
        await _refuse_without_room(device, home, sum(x.packed + x.unpacked for x in missing))
    for archive in missing:

        def report(done: int, _: int, before: int = sent) -> None:
            if progress:
                progress(before + done, total)

        await _bring(device, folder, archive, report)
        sent += archive.packed
    command = tuple(bundle.command(folder))
    if missing:
        await _try(device, command[0], folder)
    return Installed(command, sent)


async def _whole(device: AdbDevice, folder: str, archive: Archive, place: str = "") -> bool:
    """Return whether every file is there as it was made: the listing by its own hash, the rest by the
    listing.
    """
    inner = shlex.quote(f"{folder}/{place or archive.digest}")
    result = await device.shell(
        f"cd {inner} 2>/dev/null && sha256sum -c {LISTING} >/dev/null 2>&1 && sha256sum {LISTING}",
        timeout=UNPACK_SECONDS,
    )
    return result.exit_code == 0 and result.stdout[:64].decode(errors="replace") == archive.digest


async def _bring(device: AdbDevice, folder: str, archive: Archive, progress: Progress) -> None:
    part = f"{archive.digest}.part"
    packed, unpacked, final = (
        shlex.quote(f"{folder}/{name}") for name in (f"{part}.tar.gz", part, archive.digest)
    )
    try:
        await device.push(archive.path, f"{folder}/{part}.tar.gz", progress=progress)
        unpack = f"rm -rf {unpacked} {final} && mkdir {unpacked} && tar -xzf {packed} -C {unpacked}"
        (await device.shell(unpack, timeout=UNPACK_SECONDS)).check(f"unpacking {archive.path.name}")
        if not await _whole(device, folder, archive, part):
            raise FleetError(
                f"{device.serial}: {archive.path.name} is damaged on the phone: its storage or the "
                "connection is faulty, try again"
            )
        (await device.shell(f"mv {unpacked} {final}")).check(f"storing {archive.path.name}")
    finally:
        if device.lost is None:
            await device.shell(f"rm -rf {unpacked} {packed}", timeout=UNPACK_SECONDS)


async def _remove_others(device: AdbDevice, folder: str, bundle: Bundle) -> None:
    listing = await device.shell(f"ls {shlex.quote(folder)}")
    keep = {bundle.python.digest, bundle.device.digest}
    for name in listing.stdout.decode(errors="replace").split():
        if name not in keep and re.fullmatch(r"[0-9a-f]{64}(\.part(\.tar\.gz)?)?", name):
            await device.shell(f"rm -rf {shlex.quote(f'{folder}/{name}')}", timeout=UNPACK_SECONDS)


async def _refuse_without_room(device: AdbDevice, home: str, needed: int) -> None:
    output = (await device.shell(f"df -k {shlex.quote(home)}")).stdout.decode(errors="replace")
    row = re.search(r"^\S+\s+\d+\s+\d+\s+(\d+)\s", output, re.M)
    if row and (free := int(row[1]) * 1024) < needed:
        raise FleetError(
            f"{device.serial}: {free / 1e6:.0f} MB are free, and the device runtime needs "
            f"{needed / 1e6:.0f} MB below {home} while it is unpacked; make room"
        )


async def _try(device: AdbDevice, loader: str, folder: str) -> None:
    result = await device.shell(f"{shlex.quote(loader)} --version", timeout=TRY_SECONDS)
    if result.exit_code:
        output = (result.stderr + result.stdout).decode(errors="replace").strip()[-200:]
        await device.shell(f"rm -rf {shlex.quote(folder)}", timeout=UNPACK_SECONDS)
        raise FleetError(
            f"{device.serial}: its shell may not run programs below {folder} ({output}); the bundle was "
            "removed, use the app on this phone"
        )
