"""Commands by which the shell keeps a phone awake: `cmd power`, `settings` and `svc power`."""

from __future__ import annotations

from crowdlearn_host.emulator.commands.usage import UsageError
from crowdlearn_host.emulator.hardware.profiles import DeviceProfile
from crowdlearn_host.emulator.hardware.wakefulness import LOCKS, Wakefulness
from crowdlearn_host.emulator.shell.shell import CommandFunction, Io, Shell

LOCKS_SINCE = 36
"""The API level from which a virtual phone's shell lends wake locks. Android's source has the command; since
which release is not known here.
"""
STAY_ON = "stay_on_while_plugged_in"
CHARGERS = {"false": 0, "ac": 1, "usb": 2, "wireless": 4, "true": 7}
MOST_CHARACTERS = 1000


def power_service(profile: DeviceProfile, wakefulness: Wakefulness) -> CommandFunction:
    """Make `cmd power`, of which wake locks are known."""

    async def power(shell: Shell, words: list[str], io: Io) -> int:
        if profile.api_level < LOCKS_SINCE or words[1:2] != ["set-wakelock"]:
            raise UsageError(f"unknown command: {' '.join(words[1:2])}", 255)
        match words[2:]:
            case ["list"]:
                lines = [
                    f"Display -1, wakelock type: {kind}: refCount={count}"
                    for kind, count in _held(wakefulness)
                ]
                await io.write("\n".join(["Wakelocks:", *lines, ""]).encode())
            case ["acquire", kind] if kind in LOCKS:
                wakefulness.locks[kind] += 1
            case ["release", kind] if kind in LOCKS and wakefulness.locks[kind]:
                wakefulness.locks[kind] -= 1
            case ["release", kind] if kind in LOCKS:
                raise UsageError(f"WakeLock under-locked {kind}", 255)
            case _:
                raise UsageError("only list, acquire LOCK and release LOCK are known", 255)
        return 0

    return power


def wakefulness_commands(wakefulness: Wakefulness) -> dict[str, CommandFunction]:
    """Make `settings`, of which the global ones are known, and `svc power stayon`."""

    async def settings(shell: Shell, words: list[str], io: Io) -> int:
        match words[1:]:
            case ["get", "global", name]:
                value = wakefulness.setting(name)
                await io.write(f"{'null' if value is None else value}\n".encode())
            case ["put", "global", name, value] if len(name) + len(value) <= MOST_CHARACTERS:
                wakefulness.set(name, value)
            case ["delete", "global", name]:
                there = wakefulness.setting(name) is not None
                wakefulness.set(name, None)
                await io.write(f"Deleted {int(there)} rows\n".encode())
            case _:
                raise UsageError("only get, put and delete of global settings are known", 255)
        return 0

    async def svc(shell: Shell, words: list[str], io: Io) -> int:
        match words[1:]:
            case ["power", "stayon", charger] if charger in CHARGERS:
                wakefulness.set(STAY_ON, str(CHARGERS[charger]))
            case _:
                raise UsageError(f"only power stayon {'|'.join(CHARGERS)} is known", 1)
        return 0

    return {"settings": settings, "svc": svc}


def _held(wakefulness: Wakefulness) -> list[tuple[str, int]]:
    return [(kind, count) for kind, count in sorted(wakefulness.locks.items()) if count]
