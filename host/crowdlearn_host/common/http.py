"""A port that answers HTTP requests, each on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of metrics for Prometheus."""
REQUEST_SECONDS = 10.0
REQUEST_BYTES = 8 << 10


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


async def listening(reply: Callable[[bytes], Reply], host: str | None, port: int) -> asyncio.Server:
    """Listen at `host` and `port`, and answer each request's head by `reply`. Requests that are too long or
    too slow are hung up on.

    Raises OSError or OverflowError if nothing can listen there.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            writer.close()
            return
        writer.write(reply(request).encoded())
        writer.close()

    return await asyncio.start_server(answer, host, port, limit=REQUEST_BYTES)
