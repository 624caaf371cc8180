"""An invitation to join a host, as the link that `crowdlearn enrol` shows and a device's camera reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode, urlsplit

from crowdlearn_device.errors import JoinError

SCHEME, ACTION = "crowdlearn", "join"
MOST_CHARACTERS = 2000
_PIN = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Invitation:
    """A device's name at a host (`address` is HOST:PORT), its token, and the SHA-256 of the certificate."""

    address: str
    name: str
    token: str
    pin: str

    @property
    def url(self) -> str:
        return f"wss://{self.address}"

    def link(self) -> str:
        """Return it as a link."""
        fields = {"host": self.address, "name": self.name, "token": self.token, "pin": self.pin}
        return f"{SCHEME}://{ACTION}?{urlencode(fields)}"


def read_invitation(link: str) -> Invitation:
    """Return the invitation of a link. Raises JoinError if it is none."""
    try:
        parts = urlsplit(link.strip()[: MOST_CHARACTERS + 1])
        fields = parse_qs(parts.query, strict_parsing=True, max_num_fields=8)
        host, name, token, pin = (fields[key][0] for key in ("host", "name", "token", "pin"))
        address = urlsplit(f"//{host}")
        if (parts.scheme, parts.netloc) != (SCHEME, ACTION) or len(link) > MOST_CHARACTERS:
            raise ValueError("another kind of link")
        if not address.hostname or not address.port or address.path or not _PIN.fullmatch(pin):
            raise ValueError("no address or pin of a host")
    except (ValueError, KeyError) as error:
        raise JoinError(
            f"{link[:60]!r} is no invitation ({error}); scan what 'crowdlearn enrol' shows"
        ) from error
    return Invitation(host, name, token, pin)
