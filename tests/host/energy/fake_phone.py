"""A phone made of what real phones were reported to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from crowdlearn_host.adb.services.device import ShellResult

UNPLUGGED = """Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  status: 3
  level: 77
  scale: 100
  voltage: 3985
  temperature: 294
"""
"""The OnePlus 7 of tests/device_runtime/energy/recorded.py, without its charge."""
Answer = str | Callable[[], str]


@dataclass
class FakePhone:
    """A phone that answers commands as it is told; any other is not found. `denied` are paths that its shell
    may not read.
    """

    answers: Mapping[str, Answer]
    denied: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    serial: str = "fake"

    async def shell(self, command: str, *, stdin: bytes = b"") -> ShellResult:
        if any(path in command for path in self.denied):
            return ShellResult(b"", f"{command}: Permission denied".encode(), 1)
        if command not in self.answers:
            return ShellResult(b"", f"sh: {command.split()[0]}: inaccessible or not found".encode(), 127)
        answer = self.answers[command]
        return ShellResult((answer if isinstance(answer, str) else answer()).encode(), b"", 0)

    async def pull(self, remote: str) -> bytes:
        return self.files[remote]
