"""`crowdlearn-device`: the device runtime from a shell."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from crowdlearn_device.errors import DeviceError
from crowdlearn_device.program.executor import load_program
from crowdlearn_device.program.isolation.warden import Warden

from .commands import COMMANDS
from .options import make_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 1 for an error of ours or of the system, in one line."""
    if argv is None:
        os.umask(0o077)  # this process is the command: what it writes is the device's alone
    options = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("websockets").setLevel(logging.WARNING)
    if getattr(options, "threads", 0):
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # read when the executor's libraries load
    # Before anything of this device is in memory: what is forked has a copy of it all.
    isolated = getattr(options, "isolation", "none") == "process" and hasattr(os, "fork")
    warden = Warden() if isolated else None
    try:
        COMMANDS[options.command](options, load_program if warden is None else warden.load)
    except (DeviceError, OSError) as error:
        print(f"crowdlearn-device: {error}", file=sys.stderr)
        return 1
    finally:
        if warden is not None:
            warden.close()
    return 0
