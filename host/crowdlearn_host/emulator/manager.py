"""Make, list and stop virtual phones; their state is a folder each under HOME/phones."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from crowdlearn_device.platform.confinement import landlock_version

from crowdlearn_host.adb.carriers.keys import default_key_path, load_signer
from crowdlearn_host.common.home import default_home
from crowdlearn_host.emulator.hardware.profiles import find_profile
from crowdlearn_host.emulator.hardware.radio_link import LinkModel
from crowdlearn_host.emulator.launch import readable, start, wait_ready
from crowdlearn_host.emulator.processes.limits import remove_groups
from crowdlearn_host.emulator.processes.program_file import runner
from crowdlearn_host.emulator.settings import (
    CONTROL_SOCKET,
    KEYS_FILE,
    MAX_REQUEST,
    PRELOAD,
    PROGRAMS,
    SETTINGS_FILE,
    PhoneInfo,
    Settings,
)
from crowdlearn_host.errors import FleetError

AS_ROOT = "CROWDLEARN_PHONES_AS_ROOT"
"""The variable that allows phones that run as root with nothing to confine them."""
STOP_SECONDS = 10.0
DEFAULT_PROFILE = "pixel-8"


def up(
    count: int,
    profile: str = DEFAULT_PROFILE,
    home: Path | None = None,
    *,
    auto_accept: bool = False,
    keys: Sequence[Path] | None = None,
    programs: Mapping[str, str] = PROGRAMS,
    preload: Sequence[str] = PRELOAD,
    ports: Sequence[int] = (),
    limited: bool = False,
    link: LinkModel | None = None,
    machine: str = "",
    wireless: bool = False,
    die_with_caller: bool = False,
) -> list[PhoneInfo]:
    """Start `count` new phones and wait until they answer.

    A phone trusts the private adb `keys`, by default the one of the user that starts it, and those accepted
    later (`accept`); `auto_accept` trusts any key that is shown. `programs` names MODULE:FUNCTION for the
    phone's programs, `preload` the modules that these share; `ports` fixes adb ports, else free ones are
    taken. The phones outlive the caller unless `die_with_caller`; `limited` caps processor and memory, `link`
    the network. Phones of a `machine` ("arm64", "x86_64") run programs of it that lie in their files;
    `wireless` ones require TLS, as wireless debugging does. Raises FleetError, and leaves none behind then.
    """
    find_profile(profile)
    if machine:
        runner(machine)
        programs, preload = {}, ()
    if os.geteuid() == 0 and not landlock_version() and not os.environ.get(AS_ROOT):
        raise FleetError(
            "virtual phones do not run as root where nothing confines their programs: start them as another "
            f"user, or set {AS_ROOT}=1"
        )
    trusted = _public_keys([default_key_path()] if keys is None else keys)
    folder = _phones_folder(home)
    made = []
    for index, name in enumerate(_free_names(folder, count)):
        port = ports[index] if index < len(ports) else 0
        (folder / name / KEYS_FILE).write_bytes(trusted)
        made.append(
            Settings(
                name,
                port,
                profile,
                auto_accept,
                dict(programs),
                tuple(preload),
                limited,
                link,
                machine,
                wireless,
            )
        )
    try:
        return _start_all(folder, made, die_with_caller=die_with_caller)
    except BaseException:
        for settings in made:
            shutil.rmtree(folder / settings.name, ignore_errors=True)
        raise


def _public_keys(private: Sequence[Path]) -> bytes:
    """Return the public halves of adb keys, one a line; a pair that is missing is made. Raises FleetError."""
    for path in private:
        load_signer(path)
    return b"".join(Path(f"{path}.pub").read_bytes().strip() + b"\n" for path in private)


def power_on(home: Path, names: Sequence[str], *, die_with_caller: bool = False) -> list[PhoneInfo]:
    """Start phones that were switched off, with all that they hold, and wait until they answer.

    Raises FleetError if one does not exist or does not start.
    """
    folder = _phones_folder(home)
    return _start_all(
        folder, [Settings.load(folder / name) for name in names], die_with_caller=die_with_caller
    )


def power_off(home: Path, names: Sequence[str]) -> None:
    """Switch phones off; what they hold stays."""
    folder = _phones_folder(home)
    _end([info for name in names if (info := PhoneInfo.load(folder / name))], signal.SIGTERM)


def list_phones(home: Path | None = None) -> list[PhoneInfo]:
    """Return the phones that run, by name."""
    folder = _phones_folder(home)
    infos = [PhoneInfo.load(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    return [info for info in infos if info and info.alive]


def down(home: Path | None = None, names: Sequence[str] | None = None) -> list[str]:
    """Switch phones off (all of them without `names`) and remove their folders; returns their names.

    Raises FleetError for a name that does not exist.
    """
    folder = _phones_folder(home)
    present = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if unknown := [repr(name) for name in names or () if name not in present]:
        raise FleetError(f"there is no phone {', '.join(unknown)}; there are: {', '.join(present) or 'none'}")
    stopping = [name for name in present if names is None or name in names]
    infos = [info for name in stopping if (info := PhoneInfo.load(folder / name))]
    _end(infos, signal.SIGTERM)
    for info in infos:
        remove_groups(tuple(map(Path, info.groups)))
    for name in stopping:
        shutil.rmtree(folder / name)
    return stopping


def kill(name: str, home: Path | None = None) -> None:
    """End a phone without warning, as an empty battery does; its files stay. Raises FleetError."""
    info = PhoneInfo.load(_running(home, name))
    _end([info] if info else [], signal.SIGKILL)


def unplug(name: str, home: Path | None = None) -> None:
    """Pull the cable: connections are lost, new ones refused, and the battery is no longer charged."""
    _ask(_running(home, name), "unplug")


def plug(name: str, home: Path | None = None) -> None:
    """Put the cable back. Raises FleetError."""
    _ask(_running(home, name), "plug")


def drain(name: str, percent: int, home: Path | None = None) -> None:
    """Take the charger away and set the battery to a level; at 0 the phone goes off. Raises FleetError."""
    if not 0 <= percent <= 100:
        raise FleetError(f"{percent} is not a battery level: 0 to 100")
    _ask(_running(home, name), f"drain {percent}")


def waiting(name: str, home: Path | None = None) -> list[str]:
    """Return the fingerprints of the keys that computers show to a phone and that it does not trust.

    Raises FleetError.
    """
    output = _ask(_running(home, name), "waiting", answers="keys ")
    return [key for key in output.split(",") if key]


def accept(name: str, key: str, home: Path | None = None) -> None:
    """Accept the key of this fingerprint, which a computer shows to the phone. Raises FleetError."""
    _ask(_running(home, name), f"accept {key}")


@contextmanager
def running(
    count: int,
    home: Path,
    *,
    profile: str = DEFAULT_PROFILE,
    auto_accept: bool = False,
    keys: Sequence[Path] | None = None,
    programs: Mapping[str, str] = PROGRAMS,
    preload: Sequence[str] = PRELOAD,
    limited: bool = False,
    link: LinkModel | None = None,
    machine: str = "",
    wireless: bool = False,
) -> Iterator[list[PhoneInfo]]:
    """Yield phones for the length of a block; they die with the caller, however it ends."""
    infos = up(
        count,
        profile,
        home,
        auto_accept=auto_accept,
        keys=keys,
        programs=programs,
        preload=preload,
        limited=limited,
        link=link,
        machine=machine,
        wireless=wireless,
        die_with_caller=True,
    )
    try:
        yield infos
    finally:
        remaining = {path.name for path in _phones_folder(home).iterdir()}
        down(home, [info.name for info in infos if info.name in remaining])


@contextmanager
def kept(
    count: int, home: Path, *, profile: str = DEFAULT_PROFILE, machine: str = ""
) -> Iterator[list[PhoneInfo]]:
    """Yield phones for the length of a block that keep what they hold: the next block finds it again.

    They die with the caller, however it ends. Nothing else may start phones in `home` meanwhile.
    """
    folder = _phones_folder(home)
    for path in folder.iterdir():
        if path.is_dir() and not (path / SETTINGS_FILE).exists():
            shutil.rmtree(path)  # a start was killed before it made this phone, which holds nothing
    there = sorted((p.name for p in folder.iterdir() if p.is_dir()), key=lambda name: (len(name), name))
    there = there[:count]
    infos = power_on(home, there, die_with_caller=True)
    if len(there) < count:
        infos += up(count - len(there), profile, home, machine=machine, die_with_caller=True)
    try:
        yield infos
    finally:
        power_off(home, [info.name for info in infos])


def _start_all(folder: Path, made: Sequence[Settings], *, die_with_caller: bool) -> list[PhoneInfo]:
    starting = []
    try:
        for settings in made:
            path = folder / settings.name
            starting.append((path, start(path, settings, die_with_caller=die_with_caller)))
        for path, (process, ready) in starting:
            wait_ready(path, process, ready)
    except BaseException:
        for _, (process, _) in starting:
            process.kill()
            process.wait()
        raise
    finally:
        for _, (_, ready) in starting:
            os.close(ready)
    return [info for path, _ in starting if (info := PhoneInfo.load(path))]


def _phones_folder(home: Path | None) -> Path:
    folder = (home or default_home()) / "phones"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _free_names(folder: Path, count: int) -> list[str]:
    if not 1 <= count <= 1000:
        raise FleetError(f"{count} phones are not possible; start 1 to 1000")
    names: list[str] = []
    number = 0
    while len(names) < count:
        name = f"phone-{number}"
        number += 1
        try:
            # mkdir claims the name, also against another `up` at the same time.
            (folder / name).mkdir(mode=0o700)
        except FileExistsError:
            continue
        names.append(name)
    return names


def _running(home: Path | None, name: str) -> Path:
    infos = list_phones(home)
    if name not in [info.name for info in infos]:
        names = ", ".join(info.name for info in infos)
        raise FleetError(f"no phone {name!r} is running; there are: {names or 'none'}")
    return _phones_folder(home) / name


def _end(infos: Sequence[PhoneInfo], number: signal.Signals) -> None:
    handles: dict[int, int] = {}
    for info in infos:
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(info.pid)
            if info.alive:  # looked at after its process is held: else the number may be a stranger's by now
                handles[info.pid] = handle
            else:
                os.close(handle)
    for attempt in (number, signal.SIGKILL):
        for handle in handles.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, attempt)
        deadline = time.monotonic() + STOP_SECONDS
        for handle in handles.values():
            readable(handle, deadline - time.monotonic())
    for pid, handle in handles.items():
        os.close(handle)
        # A phone that this process started itself stays in the process table until it is waited for.
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _ask(folder: Path, request: str, *, answers: str = "") -> str:
    """Return what the phone answers behind the word `answers`, or "" if that is "ok". Raises FleetError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(STOP_SECONDS)
            # Through the open folder the path is short whatever the folder's own path is.
            control.connect(f"/proc/self/fd/{handle}/{CONTROL_SOCKET}")
            control.sendall(request.encode() + b"\n")
            answer = control.recv(MAX_REQUEST).decode().strip()
    except OSError as error:
        raise FleetError(f"{folder.name} does not answer: {error}") from error
    finally:
        os.close(handle)
    if answers and f"{answer} ".startswith(answers):
        return answer[len(answers) :]
    if answer != "ok":
        raise FleetError(f"{folder.name}: {answer}")
    return ""
