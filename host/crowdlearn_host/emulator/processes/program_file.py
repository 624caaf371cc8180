"""Programs that lie in a phone's files: run by this computer's processor, or by an emulator of theirs."""

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from crowdlearn_host.bundle.elf import NotElf, machine_of
from crowdlearn_host.errors import FleetError

ABIS = {"arm64": "arm64-v8a", "x86_64": "x86_64"}
"""The machines that a phone can be of, and Android's names for them."""

EMULATORS = {
    "arm64": ("qemu-aarch64-static", "qemu-aarch64"),
    "x86_64": ("qemu-x86_64-static", "qemu-x86_64"),
}
ENTRY = f"{__name__}:become"
_HERE = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), "")


def runner(machine: str) -> list[str]:
    """Return the words before a program of that machine on this computer, none if it is its own.

    Raises FleetError if there is no emulator.
    """
    if machine == _HERE:
        return []
    found = next((path for name in EMULATORS.get(machine, ()) if (path := shutil.which(name))), None)
    if found is None:
        raise FleetError(
            f"programs for {machine} need QEMU's user mode, which is not here; "
            "install it (Debian: apt-get install qemu-user-static)"
        )
    return [found]


def command(file: Path, shown: str, machine: str) -> list[str]:
    """Return the words that run a program file of a phone of that machine; `shown` is its path there.

    Raises OSError as the phone's shell tells it: no such file, not to be executed, or of another machine.
    """
    with file.open("rb") as content:
        header = content.read(64)
    try:
        known = machine_of(header)
    except NotElf as error:
        raise OSError(8, "not executable: not ELF file", shown) from error
    if not os.access(file, os.X_OK) or not file.stat().st_mode & 0o111:
        raise PermissionError(13, os.strerror(13), shown)
    if known != machine:
        raise OSError(8, "not executable: 64-bit ELF file of another machine", shown)
    return [*runner(machine), str(file)]


def become(words: Sequence[str]) -> NoReturn:
    """Replace this process by a program."""
    os.execv(words[0], list(words))
