"""A library makes a connection and its handshake; our own stream of messages goes on with it."""

from __future__ import annotations

import asyncio
from asyncio.sslproto import SSLProtocol
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.protocol import State

from .message_stream import Handler, MessageStream

READ_UNDER_TLS = 64 << 10
"""The bytes that are read at a time from a connection under TLS. asyncio keeps room for 256 kB of each."""


def taken_over(
    connection: Connection,
    handler: Handler,
    transport: asyncio.Transport | None = None,
    reads: int = READ_UNDER_TLS,
) -> MessageStream:
    """Go on with a library's connection: what has come, and was not read, is given to `handler` once the
    caller waits, and whatever comes from now on; over another `transport` to the same peer, where one is
    given. Under TLS `reads` bytes are read at a time.

    Raises ValueError if the connection compresses.
    """
    if connection.protocol.extensions:
        raise ValueError("make the connection with compression=None; what is sealed cannot be compressed")
    if connection.keepalive_task is not None:
        connection.keepalive_task.cancel()
    client = isinstance(connection, ClientConnection)
    if transport is None:
        transport = connection.transport
        stream = MessageStream(transport, handler, client=client)
        stream.on_lost = connection.connection_lost
    else:
        stream = MessageStream(transport, handler, client=client)
        connection.transport.abort()
    transport.set_protocol(stream)
    _read_little(transport, reads)
    # The library would write its closing frame at once, also between the bytes of a message.
    connection.close = stream.close  # type: ignore[method-assign]
    if transport.is_closing() or connection.protocol.state is not State.OPEN:
        stream.abort()
    loop = asyncio.get_running_loop()
    frames = connection.recv_messages.frames.queue
    if frames:  # the loop does this before it reads on
        loop.call_soon(stream.take_frames, frames)
    if transport is connection.transport and connection.connection_lost_waiter.done():
        stream.on_lost = lambda error: None
        loop.call_soon(stream.connection_lost, None)  # the library was told, and nobody will be again
    return stream


def _read_little(transport: asyncio.Transport, most: int) -> None:
    """Keep room for no more than so many bytes that come under TLS: there may be thousands of connections."""
    under_tls: Any = getattr(transport, "_ssl_protocol", None)
    usual = isinstance(getattr(transport, "_ssl_protocol", None), SSLProtocol)  # and not another loop's
    if usual and hasattr(under_tls, "_ssl_buffer_view"):
        under_tls.max_size = most
        under_tls._ssl_buffer = bytearray(most)
        under_tls._ssl_buffer_view = memoryview(under_tls._ssl_buffer)
