"""What a virtual phone is told when it is made, and what it says when it runs: JSON files in its folder."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from crowdlearn_host.emulator.hardware.radio_link import LinkModel
from crowdlearn_host.errors import FleetError

SETTINGS_FILE = "settings.json"
INFO_FILE = "phone.json"
FILES = "root"
"""The folder, below a phone's, in which its own files lie."""
CONTROL_SOCKET = "control"
MAX_REQUEST = 4096
KEYS_FILE = "adb_keys"
"""The keys of computers that a phone trusts, one a line."""
PROGRAMS = {"crowdlearn-device": "crowdlearn_device.cli:main"}
# What the programs of phones import sooner or later: once for all of them.
PRELOAD = (
    "crowdlearn_device.cli",
    "crowdlearn_device.program.executor",
    "torch",
    "executorch.extension.pybindings._portable_lib",
)


@dataclass(frozen=True)
class Settings:
    """The settings with which a phone is made: `port` 0 takes a free one; `programs` names MODULE:FUNCTION
    for each program, `preload` the modules that they share; `limited` caps what they use as the profile
    says. A phone of a `machine` ("arm64", "x86_64") runs programs of it that lie in its files;
    one that is `wireless` wants TLS, as wireless debugging does.
    """

    name: str
    port: int = 0
    profile: str = "pixel-8"
    auto_accept: bool = False
    programs: dict[str, str] = field(default_factory=lambda: dict(PROGRAMS))
    preload: tuple[str, ...] = PRELOAD
    limited: bool = False
    link: LinkModel | None = None
    machine: str = ""
    wireless: bool = False

    def save(self, folder: Path) -> None:
        """Write the settings into the phone's folder."""
        write_json(folder / SETTINGS_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the settings in a phone's folder. Raises FleetError when they are damaged."""
        content = read_json(folder / SETTINGS_FILE)
        try:
            link = LinkModel(**content.pop("link")) if content.get("link") else None
            return cls(**{**content, "link": link})
        except TypeError as error:
            raise FleetError(f"{folder / SETTINGS_FILE} is damaged: {error}") from error


@dataclass(frozen=True)
class PhoneInfo:
    """A running phone: its adb address, its process, and when that started (to tell a reused number).

    `limits` says how its programs are capped: "cgroup v1", "cgroup v2" with the folders in `groups`, "rlimit"
    or "none"; `confined` what holds them to the phone's files: "landlock" with its version, or "none".
    """

    name: str
    serial: str
    pid: int
    started: int
    profile: str
    limits: str
    groups: tuple[str, ...]
    confined: str = "none"

    def save(self, folder: Path) -> None:
        """Write it into the phone's folder."""
        write_json(folder / INFO_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return the last state that the phone of a folder wrote; None when it never ran. Raises FleetError
        when damaged.
        """
        path = folder / INFO_FILE
        if not path.exists():
            return None
        content = read_json(path)
        try:
            return cls(**{**content, "groups": tuple(content["groups"])})
        except (KeyError, TypeError) as error:
            raise FleetError(f"{path} is damaged: {error}") from error

    @property
    def alive(self) -> bool:
        """Return True if the process runs."""
        return process_start(self.pid) == self.started


def process_start(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def write_json(path: Path, content: object) -> None:
    """Replace a JSON file as a whole."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object. Raises FleetError when the file is missing or something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FleetError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise FleetError(f"{path} does not hold a JSON object")
    return content
