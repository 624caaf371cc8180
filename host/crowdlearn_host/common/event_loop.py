"""The event loop of hosts and virtual phones: libuv's where the system has its package, else Python's own.

Relaying is many short reads and writes, for which libuv's loop takes about half the processor time
(docs/benchmarks/scale.md).
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result], *, dialled: bool = False) -> Result:
    """Run a coroutine in an event loop of its own to its end, as `asyncio.run` does, and return its result.

    Where devices dial in (`dialled`) the loop is Python's own, whatever the policy: libuv's accepts
    connections by itself, before `devices.joining.lobby` could turn strangers away.

    Raises RuntimeError if a loop runs in this thread, and whatever the coroutine raises.
    """
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop if dialled else new_event_loop) as runner:
        return runner.run(main)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return libuv's event loop; Python's own where uvloop is not installed, as on Windows."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def accepts_by_hand() -> bool:
    """Return whether the running loop accepts connections by Python's `accept`, which a socket may
    override.
    """
    return isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
