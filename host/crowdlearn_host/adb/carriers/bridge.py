"""A blocking adb-shell transport as a socket: two threads carry whole messages between them."""

import socket
import struct
import threading
from contextlib import suppress

from adb_shell.exceptions import AdbTimeoutError
from adb_shell.transport.base_transport import BaseTransport

from crowdlearn_host.adb.wire.messages import HEADER_BYTES, MAX_PAYLOAD

POLL_SECONDS = 1.0
WRITE_SECONDS = 10.0


def bridge(transport: BaseTransport) -> socket.socket:
    """Return a socket that speaks for a connected transport; closing it ends the threads and closes the
    transport.

    USB carries a header and its payload as separate transfers, so bytes cannot simply be passed on.
    """
    near, far = socket.socketpair()
    stopped = threading.Event()
    for carry in (_to_transport, _from_transport):
        name = f"adb-{carry.__name__.strip('_')}"
        threading.Thread(target=carry, args=(transport, far, stopped), name=name, daemon=True).start()
    return near


def _to_transport(transport: BaseTransport, far: socket.socket, stopped: threading.Event) -> None:
    with suppress(Exception):
        while header := _exactly(far, HEADER_BYTES):
            transport.bulk_write(header, WRITE_SECONDS)
            if length := _length(header):
                transport.bulk_write(_exactly(far, length), WRITE_SECONDS)
    stopped.set()
    far.close()


def _from_transport(transport: BaseTransport, far: socket.socket, stopped: threading.Event) -> None:
    with suppress(Exception):
        while not stopped.is_set():
            try:
                header = bytes(transport.bulk_read(HEADER_BYTES, POLL_SECONDS))
            except AdbTimeoutError:
                continue
            except Exception as error:
                # A USB read that found nothing in time is not the end; adb-shell has no common class for it.
                if "timeout" in str(error).lower() or "timed out" in str(error).lower():
                    continue
                break
            while len(header) < HEADER_BYTES:
                header += bytes(transport.bulk_read(HEADER_BYTES - len(header), WRITE_SECONDS))
            far.sendall(header)
            left = _length(header)
            while left:
                data = bytes(transport.bulk_read(left, WRITE_SECONDS))
                far.sendall(data)
                left -= len(data)
    with suppress(OSError):
        far.shutdown(socket.SHUT_RDWR)
    transport.close()


def _length(header: bytes) -> int:
    (length,) = struct.unpack_from("<I", header, 12)
    if length > MAX_PAYLOAD:
        raise ValueError(f"adb payload of {length} bytes")
    return int(length)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            return b""
        data += piece
    return bytes(data)
