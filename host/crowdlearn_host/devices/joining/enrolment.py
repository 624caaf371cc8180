"""Which devices may join: a token each, of which the host keeps the hash alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from pathlib import Path

from crowdlearn_device.platform.files import write_atomically

from crowdlearn_host.common.files import turn
from crowdlearn_host.errors import FleetError


class Enrolment:
    """The enrolled devices, in a file of `home`."""

    def __init__(self, home: Path) -> None:
        self._path = home / "enrolled.json"
        self._read: tuple[tuple[int, int, int], dict[str, str]] | None = None

    def enrol(self, device: str) -> str:
        """A new token for `device`; one it had before is void. Raises FleetError for an impossible name."""
        if not device or len(device) > 100 or not device.isprintable():
            raise FleetError(f"{device[:100]!r} is no name for a device; give 1 to 100 printable characters")
        token = secrets.token_urlsafe(24)
        with turn(self._path):
            hashes = {**self._hashes(), device: _hash(token)}
            write_atomically(self._path, json.dumps(hashes, indent=1).encode())
        return token

    def admits(self, device: str, token: str) -> bool:
        """Return whether `device` showed the token it was given last."""
        return hmac.compare_digest(self._hashes().get(device, ""), _hash(token))

    def _hashes(self) -> dict[str, str]:
        """Read anew where the file is another: a crowd asks often."""
        try:
            found = self._path.stat()
            version = found.st_ino, found.st_size, found.st_mtime_ns
            if self._read is None or self._read[0] != version:
                self._read = version, dict(json.loads(self._path.read_text()))
            return self._read[1]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise FleetError(f"{self._path} is damaged ({error}); delete it and enrol again") from error


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
