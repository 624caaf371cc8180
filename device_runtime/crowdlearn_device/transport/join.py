"""A device that dials the host: TLS to a certificate it knows by hash, and a token it was enrolled with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from crowdlearn_device.data.dataset import NO_DATA, Dataset, load_dataset
from crowdlearn_device.energy.spending import Spending
from crowdlearn_device.errors import JoinError
from crowdlearn_device.member.fetching import Fetching
from crowdlearn_device.member.member import Member
from crowdlearn_device.platform.battery import Condition
from crowdlearn_device.program.executor import Load, load_program
from crowdlearn_device.protocol.frames import MAX_FRAME
from crowdlearn_device.security.assignment_policy import own_identity
from crowdlearn_device.security.daily_use import DailyUse
from crowdlearn_device.security.proof import bound_to_pin
from crowdlearn_device.state.pruning import prune_programs

from .driver import Driver, Watch
from .pinned import other_than, pinned_context
from .retry import Retry
from .serve import TRY_LATER

log = logging.getLogger("crowdlearn")

FIRST_RETRY, LAST_RETRY = 0.5, 30.0
"""Seconds between attempts to reach the host."""
REFUSED = 1008
"""The WebSocket's close code for a device that is not welcome, for a reason that stays."""
MOST_MOVES = 2
"""The most times that a device is sent on in a row: by a service to a run, and by that to a relay."""


async def join_host(
    home: Path,
    data: Path | None,
    name: str,
    url: str,
    token: str,
    pin: str,
    stopping: asyncio.Event | None = None,
    battery: Condition | None = None,
    *,
    once: bool = False,
    watch: Watch | None = None,
    load_with: Load = load_program,
    use: DailyUse | None = None,
    spending: Callable[[], Spending] = Spending,
) -> None:
    """Take part in whatever the host at `url` trains, reconnecting until `stopping` is set and others have
    taken over what this device holds; `once` returns after a run. `load_with` loads programs, in this
    process or beside it. `use` and `spending` are as in `serve_device`.

    Raises JoinError if the address or pin is malformed, the certificate is another, or the host refuses
    this device.
    """
    netloc, pin = _checked(url, pin)
    home.mkdir(parents=True, exist_ok=True)
    identity = own_identity(home)

    def load() -> Dataset:
        return NO_DATA if data is None else load_dataset(data)

    samples = len(load())
    context = pinned_context()
    retry = Retry(FIRST_RETRY, LAST_RETRY)
    leaving = stopping or asyncio.Event()

    async def member_of() -> Member:
        prune_programs(home)
        state = None if battery is None else await asyncio.to_thread(battery.state)
        fetching = Fetching.into(home, load_with)
        return Member(
            name,
            home,
            identity,
            samples,
            load,
            fetching.store,
            token,
            binding=bound_to_pin(pin),
            state=state,
            fetching=fetching,
            counted=use,
        )

    target, moves = url, 0
    while not leaving.is_set():
        if battery is not None and (why := battery.low()):
            log.info("not joining: %s", why)
            if watch is not None:
                watch.resting(why)
            await _wait(leaving, LAST_RETRY)
            continue
        try:
            async with connect(
                target, ssl=context, compression=None, max_size=MAX_FRAME, ping_interval=None, proxy=None
            ) as connection:
                _check_certificate(connection, pin)
                log.info("connected to %s", urlsplit(target).netloc)
                member = await member_of()
                began = time.monotonic()
                driver = Driver(connection, member, leaving, battery, watch=watch, spending=spending)
                ended = await driver.run()
                if member.device >= 0:
                    retry.lasted(time.monotonic() - began)
                if member.finished is not None:
                    log.info("finished: %s", member.finished)
                    if once:
                        return
            if member.relay and moves < MOST_MOVES:
                target, moves = _relay(url, member.relay), moves + 1
                continue
            if member.again:
                target, moves = url, 0
                log.info("no place at %s now, again in %.0f s", netloc, member.again)
                await _wait(leaving, max(member.again, FIRST_RETRY))
                continue
            if ended.close_code == REFUSED:
                raise JoinError(f"{netloc} refuses this device: {ended.close_reason}")
            if ended.close_code == TRY_LATER:
                log.info("%s is to be tried again: %s", netloc, ended.close_reason)
        except (OSError, WebSocketException) as error:
            log.info("%s cannot be reached (%s)", netloc, error)
        target, moves = url, 0
        await retry.pause(leaving)


def _checked(url: str, pin: str) -> tuple[str, str]:
    """Return HOST:PORT of a host's address, and its pin in lower-case digits. Raises JoinError if either is
    malformed.
    """
    address = urlsplit(url)
    if address.scheme != "wss" or not address.hostname:
        raise JoinError(f"{url} is not an address of a host; it has the form wss://HOST:PORT")
    digits = pin.replace(":", "").lower()
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise JoinError(
            f"pin {digits[:80]!r} is not a SHA-256 hash; copy the one that crowdlearn enrol prints"
        )
    return address.netloc, digits


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _relay(url: str, relay: str) -> str:
    """Return the address of a relay, HOST:PORT, of the host at `url`. Raises JoinError if it is none."""
    host, _, port = relay.rpartition(":")
    if not (port.isdecimal() and 0 < int(port) < 1 << 16) or len(host) > 255 or set(host) & set("/@?# "):
        raise JoinError(
            f"the host names {relay[:80]!r} as its relay, which is not HOST:PORT; update the older side"
        )
    known = urlsplit(url).hostname or ""
    host = host or (f"[{known}]" if ":" in known else known)
    return f"wss://{host}:{port}"


def _check_certificate(connection: ClientConnection, pin: str) -> None:
    """Check the host's certificate before anything secret is sent: the token is in the first frame, not in
    the handshake.
    """
    if found := other_than(pin, connection.transport.get_extra_info("ssl_object")):
        raise JoinError(
            f"the host's certificate has the hash {found}, not the pin; another computer answers there, or "
            "the host has a new certificate: enrol again"
        )
