"""Sockets that listen for devices; of those who knock there and have shown no token, few may wait."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

MAX_STRANGERS = 128


class Strangers:
    """Connections that are not admitted yet; where there are too many, the oldest are hung up on."""

    def __init__(self) -> None:
        self._waiting: dict[Any, socket.socket] = {}

    def knock(self, address: Any, connection: socket.socket) -> None:
        """Somebody has connected from `address`."""
        self._waiting[address] = connection
        if len(self._waiting) > MAX_STRANGERS:
            self._waiting = {peer: sock for peer, sock in self._waiting.items() if sock.fileno() >= 0}
        while len(self._waiting) > MAX_STRANGERS:
            with suppress(OSError):  # its owner, which closes it once it hears of this, may have done so
                self._waiting.pop(next(iter(self._waiting))).shutdown(socket.SHUT_RDWR)

    def admit(self, address: Any) -> None:
        """Return who has connected from `address` is no stranger."""
        self._waiting.pop(address, None)


class Door(socket.socket):
    """A listening socket that tells of every connection before anything is read from it."""

    strangers: Strangers

    def accept(self) -> tuple[socket.socket, Any]:
        """Close it, as any socket."""
        connection, address = super().accept()
        self.strangers.knock(address, connection)
        return connection, address


def doors(host: str, port: int, strangers: Strangers) -> list[Door]:
    """One for each address of `host`; for all of this computer where it is empty.

    Raises OSError, and OverflowError for a port that cannot be.
    """
    flags = socket.AI_PASSIVE | (0 if host else socket.AI_ADDRCONFIG)
    made: list[Door] = []
    try:
        for family, *_, (name, _, *scope) in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=flags
        ):
            made.append(Door(fileno=socket.create_server((name, port, *scope), family=family).detach()))
            made[-1].strangers = strangers
    except BaseException:
        for door in made:
            door.close()
        raise
    return made
