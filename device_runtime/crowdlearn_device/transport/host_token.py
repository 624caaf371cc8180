"""The token by which a device that serves knows its host: it admits no web page and no other program."""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import stat
from http import HTTPStatus
from pathlib import Path

from websockets.http11 import Request

from crowdlearn_device.errors import JoinError
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.security.proof import bound_to_token

log = logging.getLogger("crowdlearn")

TOKEN_BYTES = 32
MAX_TOKEN = 4096


class HostToken:
    """A token in a file, which the host may replace at any time, and the check of requests against it."""

    def __init__(self, token: Path) -> None:
        """Make a token if there is none: without one, no request is admitted."""
        self._token = token
        if not token.exists():
            write_atomically(token, secrets.token_hex(TOKEN_BYTES).encode(), private=True)
            log.info("a program that connects must show the token in %s", token)
        elif token.is_file() and not token.is_symlink() and token.stat().st_mode & 0o077:
            with contextlib.suppress(OSError):  # an app's shared folder knows no modes
                token.chmod(0o600)

    def refusal(self, request: Request) -> tuple[HTTPStatus, str] | None:
        """Return why a request is refused; None if it is admitted."""
        if "Origin" in request.headers:
            return HTTPStatus.FORBIDDEN, "this device serves no web page\n"
        given = request.headers.get_all("Authorization")
        expected = self._expected()
        shown = given[0].removeprefix("Bearer ").encode(errors="replace") if len(given) == 1 else b""
        if expected and len(given) == 1 and hmac.compare_digest(expected, shown):
            return None
        return HTTPStatus.UNAUTHORIZED, "the token pushed to this device is needed\n"

    @property
    def binding(self) -> bytes:
        """Return what a connection that was let in is bound to (proof.py)."""
        return bound_to_token(self._expected())

    def _expected(self) -> bytes:
        try:
            with self._token.open("rb") as file:
                return file.read(MAX_TOKEN).strip()
        except OSError:
            return b""


def token_of(path: Path) -> str:
    """Return the token in a file. Raises JoinError if there is none, or others than its owner can read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(MAX_TOKEN).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise JoinError(f"{path} cannot be read as a token ({error}); write what 'enrol' printed") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise JoinError(f"{path} can be read by others; make it yours alone: chmod 600 {path}")
    if not token:
        raise JoinError(f"{path} is empty; write what 'crowdlearn enrol' printed for this device")
    return token
