"""A port that answers HTTP requests, each on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of metrics for Prometheus."""
REQUEST_SECONDS = 10.0
REQUEST_BYTES = 8 << 10
MOST_CONNECTIONS = 64
"""Requests at once; others are hung up on."""
HERE = ("127.0.0.1", "localhost", "[::1]")
"""The names of this computer. A browser that asks for any other was led here by a site's DNS."""


@dataclass(frozen=True)
class Reply:
    """An answer: its status line, content type and text, and further headers."""

    status: str
    kind: str
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """Return the whole response."""
        content = self.text.encode()
        headers = {**self.headers, "Content-Type": self.kind, "Content-Length": len(content)}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status}\r\n{head}Connection: close\r\n\r\n".encode() + content


def without_port(host: str) -> str:
    """Return the name in a header "Host"."""
    host = host.strip().lower()
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() else host


def name_in(request: bytes) -> str:
    """Return the host that a request's head asks for, without its port; "" if there is none."""
    for line in request.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == "host":
            return without_port(value)
    return ""


async def listening(reply: Callable[[bytes], Reply], host: str | None, port: int) -> asyncio.Server:
    """Listen at `host` and `port`, and answer each request's head by `reply`. Requests that are too long or
    too slow, whose answers are taken too slowly, or that are too many at once, are hung up on.

    Raises OSError or OverflowError if nothing can listen there.
    """
    open_now = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                if open_now <= MOST_CONNECTIONS:
                    writer.write(reply(await reader.readuntil(b"\r\n\r\n")).encoded())
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            writer.transport.abort()
        finally:
            open_now -= 1

    return await asyncio.start_server(answer, host, port, limit=REQUEST_BYTES)
