"""Calls that block, each in a thread of its own: a silent phone takes no thread that another needs."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_own_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `call` returns or raises. It starts at once; if the wait is given up, it ends by itself."""
    executor = ThreadPoolExecutor(1, "adb")
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, lambda: call(*args, **kwargs))
    finally:
        executor.shutdown(wait=False)
