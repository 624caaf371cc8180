"""A process of a virtual phone: `python -m ...phones.runtime PARENT MODULE:FUNCTION NAME ARG...`."""

import ctypes
import importlib
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, which must be `parent`, ends in whatever way."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def run_entry(entry: str, argv: Sequence[str]) -> int:
    """Call MODULE:FUNCTION with the arguments; its result, or that of sys.exit, is the exit code."""
    module, _, function = entry.partition(":")
    sys.argv = list(argv)
    try:
        result = getattr(importlib.import_module(module), function)(list(argv[1:]))
    except SystemExit as leave:
        result = leave.code
    if isinstance(result, str):
        print(result, file=sys.stderr)
        return 1
    return int(result or 0)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.exit(run_entry(sys.argv[2], sys.argv[3:]))
