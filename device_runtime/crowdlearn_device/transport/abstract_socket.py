"""A Unix socket in the abstract namespace, which adb reaches and no other app of the phone.

The kernel tells who connects. Android lets apps of one user connect to each other's abstract sockets, so the
user id is looked at before anything is read; the token is asked for besides.
"""

from __future__ import annotations

import os
import socket
import struct

from crowdlearn_device.errors import JoinError

SOCKET = "crowdlearn"
"""The name under which hosts find the app through adb."""
LISTENING = "listening"
"""The file in the app's inbox that is there once the app can be reached."""
ROOT, SHELL = 0, 2000
"""The users under which Android's adb daemon runs."""
PREFIX = "CROWDLEARN_SOCKET_PREFIX"
"""The variable with the prefix of every name: virtual phones of one computer share a namespace, phones do
not.
"""
_CREDENTIALS = struct.Struct("3i")


def listen_abstract(name: str) -> socket.socket:
    """Return a socket that listens under a name. Raises JoinError if another program does."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(f"\0{os.environ.get(PREFIX, '')}{name}")
    except OSError as error:
        listening.close()
        raise JoinError(
            f"another program of this phone listens as {name!r} ({error.strerror}); stop it first"
        ) from error
    listening.listen()
    listening.setblocking(False)
    return listening


def is_welcome(connection: socket.socket) -> bool:
    """Return whether the peer is adb's daemon or this user itself."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return user in (ROOT, SHELL, os.getuid())
