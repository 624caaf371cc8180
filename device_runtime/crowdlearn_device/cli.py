"""`crowdlearn-device`: the device runtime from a shell."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import DeviceError
from .executor import ProgramStore
from .measure import measure_step
from .serve import serve_device


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="crowdlearn-device", description="The part of crowdlearn that runs on a phone."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="wait for the host on a local port (it comes through adb)")
    serving.add_argument(
        "--home", type=Path, required=True, help="folder for programs, states and the identity"
    )
    serving.add_argument("--data", type=Path, help="folder with the training data (default: HOME/data)")
    serving.add_argument("--name", default="", help="the device's name for life (default: the folder's name)")
    serving.add_argument(
        "--port", type=int, default=0, help="0 takes any free port and writes it to HOME/port"
    )
    serving.add_argument(
        "--threads", type=int, default=0, help="threads of the executor (0: the library's choice)"
    )
    measuring = commands.add_parser("measure", help="time training steps of a program; prints JSON")
    measuring.add_argument("--programs", type=Path, required=True, help="folder that holds the program")
    measuring.add_argument("--program", required=True, help="hash of its manifest")
    measuring.add_argument("--seconds", type=float, default=2.0, help="how long to run it")
    measuring.add_argument("--threads", type=int, default=0, help="threads of the executor (0: its choice)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("websockets").setLevel(logging.WARNING)
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read when the executor's libraries load
    try:
        if arguments.command == "measure":
            store = ProgramStore(arguments.programs)
            print(measure_step(store, arguments.program, arguments.seconds).to_json())
            return 0
        home: Path = arguments.home
        asyncio.run(_until_stopped(home, arguments.data or home / "data", arguments.name, arguments.port))
    except (DeviceError, OSError) as error:
        print(f"crowdlearn-device: {error}", file=sys.stderr)
        return 1
    return 0


async def _until_stopped(home: Path, data: Path, name: str, port: int) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await serve_device(home, data, name or home.resolve().name, port, stopping)
    logging.getLogger("crowdlearn").info("stopped")


if __name__ == "__main__":
    sys.exit(main())
