"""Sockets that listen for devices; of those who knock there and have shown no token, few may wait."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from contextlib import suppress
from typing import Any

MAX_STRANGERS = 32
MAX_OF_ADDRESS = 24
"""The most waiting connections of one host: it cannot fill the lobby alone."""
BURST, A_SECOND = 256, 200
"""Connections of one host that are let in at once, and then: the rest are closed before they cost much."""
MAX_HOSTS = 10_000
"""Hosts that are told apart."""
COLLECTED, OLD_COLLECTED = 16, 96
"""Connections that are closed before what they leave behind is collected, what is new of it and all."""
AT_ONCE = 8
"""Connections that are taken before what they have in hand is looked at: each takes 256 kB at once."""
TURNED_AWAY = 256
"""Connections that are turned away at a time, before others of the loop have their turn."""


class Strangers:
    """The connections that are not admitted yet, by their peer; if they are too many, the oldest are
    closed.
    """

    def __init__(self) -> None:
        self._waiting: dict[Any, socket.socket] = {}
        self._left: dict[Any, tuple[float, float]] = {}
        """The connections that each host may still make, and since when."""
        self._closed = 0

    def turns_away(self, address: Any, now: float) -> bool:
        """Count a connection; return whether its host, `address[0]`, makes too many a second."""
        if address[0] not in self._left and len(self._left) >= MAX_HOSTS:
            self._left.clear()
        left, since = self._left.get(address[0], (float(BURST), now))
        left = min(float(BURST), left + (now - since) * A_SECOND) - 1
        self._left[address[0]] = max(left, 0.0), now
        return left < 0

    def knock(self, address: Any, connection: socket.socket) -> None:
        """Count a connection from `address`."""
        self._waiting[address] = connection
        if len(self._waiting) > min(MAX_OF_ADDRESS, MAX_STRANGERS):
            self._waiting = {peer: sock for peer, sock in self._waiting.items() if sock.fileno() >= 0}
        own = [peer for peer in self._waiting if peer[0] == address[0]]
        for peer in own[: max(0, len(own) - MAX_OF_ADDRESS)]:
            self._close(peer)
        while len(self._waiting) > MAX_STRANGERS:
            self._close(next(iter(self._waiting)))

    def _close(self, peer: Any) -> None:
        self._closed += 1
        if self._closed % COLLECTED == 0:
            # A handshake that fails leaves its buffers, 256 kB, in a circle of references.
            gc.collect(2 if self._closed % OLD_COLLECTED == 0 else 1)
        with suppress(OSError):  # its owner, which closes it once it hears of this, may have done so
            self._waiting.pop(peer).shutdown(socket.SHUT_RDWR)

    def admit(self, address: Any) -> None:
        """Count the connection from `address` no more: it is no stranger's."""
        self._waiting.pop(address, None)


class WatchedSocket(socket.socket):
    """A listening socket that tells of every connection before anything is read from it."""

    strangers: Strangers
    _taken = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection, which is the caller's to close; those of a host that makes too many are
        closed before a byte of them is read. Raises BlockingIOError if there is none.
        """
        if self._taken >= AT_ONCE:
            raise BlockingIOError
        for _ in range(TURNED_AWAY):
            connection, address = super().accept()
            if not self.strangers.turns_away(address, time.monotonic()):
                if not self._taken:
                    asyncio.get_running_loop().call_soon(self._go_on)
                self._taken += 1
                self.strangers.knock(address, connection)
                return connection, address
            connection.close()
        raise BlockingIOError

    def _go_on(self) -> None:
        self._taken = 0


def doors(host: str, port: int, strangers: Strangers) -> list[WatchedSocket]:
    """Return one for each address of `host`; for all of this computer where it is empty.

    Raises OSError, and OverflowError for a port that cannot be.
    """
    flags = socket.AI_PASSIVE | (0 if host else socket.AI_ADDRCONFIG)
    made: list[WatchedSocket] = []
    try:
        for family, *_, (name, _, *scope) in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=flags
        ):
            made.append(
                WatchedSocket(fileno=socket.create_server((name, port, *scope), family=family).detach())
            )
            made[-1].strangers = strangers
    except BaseException:
        for door in made:
            door.close()
        raise
    return made
