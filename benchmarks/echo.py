"""A program for virtual phones that echoes what it is sent, in place of the device runtime."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

CHUNK = 1 << 18


def main(argv: list[str]) -> int:
    """`serve --home FOLDER --port 0`, until SIGTERM."""
    asyncio.run(_serve(Path(argv[argv.index("--home") + 1])))
    return 0


async def _serve(home: Path) -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    (home / "port.part").write_text(f"{server.sockets[0].getsockname()[1]}\n")
    (home / "port.part").rename(home / "port")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.close()
