"""The packages that a bundle is made of, each with its version and hashes: `pinned_packages.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from crowdlearn_device.platform.files import not_to_read

from crowdlearn_host.errors import FleetError

MAX_BYTES = 1 << 20
DEFAULT = Path(__file__).with_name("pinned_packages.json")


@dataclass(frozen=True)
class PinnedPackage:
    """A package; `sha256` by architecture, "any" where one file is for all."""

    name: str
    version: str
    sha256: Mapping[str, str]

    def hash_for(self, architecture: str) -> str:
        """Return the hash of the file for an architecture, "" where there is none."""
        return self.sha256.get(architecture) or self.sha256.get("any", "")


@dataclass(frozen=True)
class PinnedPackages:
    """Debian packages of `suite`, and wheels for its `python` ("3.13")."""

    suite: str
    python: str
    debian: tuple[PinnedPackage, ...]
    wheels: tuple[PinnedPackage, ...]

    @classmethod
    def load(cls, path: Path = DEFAULT) -> Self:
        """Return the pinned packages in a file. Raises FleetError."""
        try:
            if why := not_to_read(path, MAX_BYTES):
                raise ValueError(why)
            content = json.loads(path.read_text())
            debian, wheels = (
                tuple(PinnedPackage(**pin) for pin in content[key]) for key in ("debian", "wheels")
            )
            return cls(content["suite"], content["python"], debian, wheels)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise FleetError(
                f"{path} does not hold the pinned packages of a bundle ({error}); "
                "write it anew with: crowdlearn bundle --repin FILE"
            ) from error

    def to_json(self) -> str:
        """Return the text of a file that `load` reads."""
        return json.dumps(asdict(self), indent=1) + "\n"
