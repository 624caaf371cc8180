"""Streams that wait for the end of a turn are flushed once each, whatever happens to others."""

import asyncio
from typing import Any

from crowdlearn_device.transport.turn import Turn


class Stream:
    def __init__(self, flushed: list[str], name: str) -> None:
        self._flushed, self._name = flushed, name

    def flush(self) -> None:
        self._flushed.append(self._name)
        if self._name == "broken":
            raise ValueError("it is broken")


async def test_one_that_fails_keeps_no_other_from_flushing() -> None:
    loop, flushed, failures = asyncio.get_running_loop(), list[str](), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    turn = Turn.of(loop)
    assert Turn.of(loop) is turn
    for name in ("first", "broken", "last"):
        turn.flush_soon(Stream(flushed, name))
    assert flushed == []
    await asyncio.sleep(0)
    assert flushed == ["first", "broken", "last"]
    assert [str(each["exception"]) for each in failures] == ["it is broken"]
    turn.flush_soon(Stream(flushed, "next turn"))
    await asyncio.sleep(0)
    assert flushed[3:] == ["next turn"]
