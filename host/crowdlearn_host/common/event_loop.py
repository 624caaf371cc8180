"""The event loop of the host's processes: libuv's where the system has its package, else Python's own.

Relaying is many short reads and writes, for which libuv's loop takes about half the processor time
(docs/benchmarks/scale.md). Writes to a socket in one turn of the loop go out in one call.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in an event loop of its own to its end, as `asyncio.run` does, and return its result.

    Raises RuntimeError if a loop runs in this thread, and whatever the coroutine raises.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return libuv's event loop; Python's own where uvloop is not installed, as on Windows."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
