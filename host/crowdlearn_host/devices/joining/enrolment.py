"""Which devices may join: a token each, of which the host keeps the hash alone, until a day."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from crowdlearn_device.platform.files import write_atomically

from crowdlearn_host.common.files import turn
from crowdlearn_host.errors import ExpiredToken, FleetError

DAYS, MOST_DAYS = 365, 36500
"""The days for which a token is good by default, and at most."""
DAY_SECONDS = 86400


@dataclass(frozen=True)
class Enrolled:
    """A device that may join: the hash of its token, when that was made and until when it is good, in
    seconds since 1970.
    """

    token: str
    since: float
    until: float


class Enrolment:
    """The enrolled devices, in a file of `home`; `now` is the time in seconds since 1970."""

    def __init__(self, home: Path, now: Callable[[], float] = time.time) -> None:
        self._path, self._now = home / "enrolled.json", now
        self._read: tuple[tuple[int, int, int], dict[str, Enrolled]] | None = None

    def enrol(self, device: str, days: int = DAYS) -> str:
        """Return a new token for `device`, as `enrol_all` does."""
        return self.enrol_all([device], days)[device]

    def enrol_all(self, devices: Sequence[str], days: int = DAYS) -> dict[str, str]:
        """Return new tokens by device, good for so many days; those that they had before are void. Raises
        FleetError for an impossible name; then none is enrolled.
        """
        for device in devices:
            if not device or len(device) > 100 or not device.isprintable():
                raise FleetError(
                    f"{device[:100]!r} is no name for a device; give 1 to 100 printable characters"
                )
        tokens, now = {device: secrets.token_urlsafe(24) for device in devices}, self._now()
        until = now + days * DAY_SECONDS
        with turn(self._path):
            fresh = {device: Enrolled(_hash(token), now, until) for device, token in tokens.items()}
            self._write({**self.devices(), **fresh})
        return tokens

    def revoke(self, device: str) -> None:
        """Let a device join no more. Raises FleetError if it is not enrolled."""
        with turn(self._path):
            devices = self.devices()
            if device not in devices:
                raise FleetError(
                    f"{device[:100]!r} is not enrolled; 'crowdlearn enrol --list' lists those that are"
                )
            self._write({name: entry for name, entry in devices.items() if name != device})

    def admits(self, device: str, token: str) -> bool:
        """Return whether `device` showed the token it was given last, and in time."""
        known = self.devices().get(device)
        shown = hmac.compare_digest(known.token if known else "", _hash(token))
        return shown and known is not None and self._now() < known.until

    def check_in_time(self, device: str, token: str) -> None:
        """Raise ExpiredToken if a token is the one that `device` was given last, and its time is over: the
        clock of this computer may be wrong, so that the device is to come again.
        """
        known = self.devices().get(device)
        if known is None or not hmac.compare_digest(known.token, _hash(token)) or self._now() < known.until:
            return
        until = time.strftime("%Y-%m-%d", time.gmtime(known.until))
        raise ExpiredToken(f"the token of {device[:50]!r} was good until {until}; enrol it, or set the clock")

    def devices(self) -> dict[str, Enrolled]:
        """Return the enrolled devices by name; the file is read anew if it is another: a crowd asks often.

        Raises FleetError if it is damaged.
        """
        try:
            found = self._path.stat()
            version = found.st_ino, found.st_size, found.st_mtime_ns
            if self._read is None or self._read[0] != version:
                content = json.loads(self._path.read_text())
                self._read = version, {str(name): _enrolled(**each) for name, each in content.items()}
            return self._read[1]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise FleetError(f"{self._path} is damaged ({error}); delete it and enrol again") from error

    def _write(self, devices: dict[str, Enrolled]) -> None:
        fields = {name: asdict(each) for name, each in devices.items()}
        write_atomically(self._path, json.dumps(fields, indent=1).encode(), private=True)


def _enrolled(token: str, since: float, until: float) -> Enrolled:
    return Enrolled(str(token), float(since), float(until))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
