"""Caps on what a virtual phone's programs may use: control groups where allowed, else resource limits."""

import os
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from crowdlearn_host.emulator.hardware.profiles import DeviceProfile

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000
MIB = 1 << 20
REMOVAL_ATTEMPTS = 100
REMOVAL_SECONDS = 0.01


@dataclass(frozen=True)
class Limits:
    """The caps for every process that is added; `kind` names the means, for the user."""

    kind: str
    folders: tuple[Path, ...]
    memory: int
    niceness: int

    def add(self, pid: int) -> None:
        """Put a process under the caps."""
        for folder in self.folders:
            with suppress(ProcessLookupError):
                (folder / "cgroup.procs").write_text(str(pid))
        if self.kind == "rlimit":
            with suppress(ProcessLookupError, PermissionError):
                resource.prlimit(pid, resource.RLIMIT_DATA, (self.memory, self.memory))
                os.setpriority(os.PRIO_PROCESS, pid, self.niceness)


def make_limits(profile: DeviceProfile, name: str, *, root: Path = CGROUPS) -> Limits:
    """Return caps as the profile says, under control groups called `name` if this computer lets us make them.

    Memory that a program shares with the other phones (the imported modules) is not counted by control
    groups; RLIMIT_DATA does count it.
    """
    memory = profile.memory_share * MIB
    quota = round(profile.cpu_share * PERIOD_MICROSECONDS)
    v2 = {root / name: {"cpu.max": f"{quota} {PERIOD_MICROSECONDS}", "memory.max": str(memory)}}
    v1 = {
        root / "cpu" / name: {"cpu.cfs_period_us": str(PERIOD_MICROSECONDS), "cpu.cfs_quota_us": str(quota)},
        root / "memory" / name: {"memory.limit_in_bytes": str(memory)},
    }
    controllers = root / "cgroup.controllers"
    is_v2 = controllers.exists() and {"cpu", "memory"} <= set(controllers.read_text().split())
    groups = v2 if is_v2 else v1
    try:
        for folder, values in groups.items():
            folder.mkdir(exist_ok=True)
            for file, value in values.items():
                (folder / file).write_text(value)
    except OSError:
        remove_groups(tuple(groups))
        # Slower phones get fewer turns; there is no share without control groups.
        return Limits("rlimit", (), memory, round(19 * (1 - profile.cpu_share)))
    return Limits("cgroup v2" if is_v2 else "cgroup v1", tuple(groups), memory, 0)


def remove_groups(folders: tuple[Path, ...]) -> None:
    """Remove control groups whose processes have ended."""
    for folder in folders:
        # A killed process leaves its group a moment after it is gone for everyone else.
        for _ in range(REMOVAL_ATTEMPTS):
            try:
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(REMOVAL_SECONDS)
