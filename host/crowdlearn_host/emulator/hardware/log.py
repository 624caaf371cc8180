"""The log of a virtual phone, as `logcat` prints it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

KEPT_LINES = 10_000
MAX_LINE = 4000


class Log:
    """The last lines in memory for `logcat`, and a file that survives the phone."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._count = 0
        self._grown = asyncio.Event()

    def write(self, tag: str, text: str, *, pid: int) -> None:
        """Add a line: date, time, process, thread, level, tag, text."""
        now = datetime.now()
        stamp = f"{now:%m-%d %H:%M:%S}.{now.microsecond // 1000:03}"
        line = f"{stamp} {pid:5} {pid:5} I {tag}: {text[:MAX_LINE]}\n"
        self._lines.append(line)
        self._count += 1
        self._file.write(line)
        self._grown.set()

    def clear(self) -> None:
        """Forget the lines in memory (`logcat -c`)."""
        self._lines.clear()

    def lines(self) -> list[str]:
        """Return the lines in memory, oldest first."""
        return list(self._lines)

    async def follow(self) -> AsyncIterator[str]:
        """Yield the lines in memory, then every new one."""
        seen = self._count - len(self._lines)
        while True:
            new = min(self._count - seen, len(self._lines))
            seen = self._count
            for line in list(self._lines)[len(self._lines) - new :]:
                yield line
            if seen == self._count:
                self._grown.clear()
                await self._grown.wait()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
