"""`crowdlearn-device`: the device runtime from a shell."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from crowdlearn_device.app.stand_in import run as run_app
from crowdlearn_device.data.dataset import as_targets, load_dataset
from crowdlearn_device.data.unit import Unit, check_units
from crowdlearn_device.energy.step_time import READY, StepTime, measure_step
from crowdlearn_device.platform.allocator import return_large_blocks
from crowdlearn_device.platform.battery import LOWEST_PERCENT, Battery
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.prediction.predict import predict
from crowdlearn_device.privacy.tap import FileTap
from crowdlearn_device.program.executor import ProgramStore, load_program
from crowdlearn_device.program.isolation.warden import Warden
from crowdlearn_device.program.manifest_reader import read_targets
from crowdlearn_device.program.replay import replay
from crowdlearn_device.security.assignment_policy import (
    FINGERPRINT_BYTES,
    fingerprint,
    own_identity,
    take_list,
)
from crowdlearn_device.security.device_list import load_signer, read_list, signed_list
from crowdlearn_device.security.identity_log import IdentityLog
from crowdlearn_device.transport.abstract_socket import SOCKET
from crowdlearn_device.transport.host_token import token_of
from crowdlearn_device.transport.join import join_host
from crowdlearn_device.transport.message_cost import message_seconds
from crowdlearn_device.transport.serve import serve_device

from .errors import DataError, DeviceError, PolicyError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    if argv is None:
        os.umask(0o077)  # this process is the command: what it writes is the device's alone
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
    serving.add_argument(
        "--tap", type=Path, help="file that gets every number opened here; for audits of privacy only"
    )
    joining = commands.add_parser("join", help="dial a host and take part in what it trains")
    joining.add_argument("url", help="wss://HOST:PORT")
    token = joining.add_mutually_exclusive_group(required=True)
    token.add_argument("--token-file", type=Path, help="file (mode 600) with what 'crowdlearn enrol' printed")
    token.add_argument("--token", help="the same in words, which other users of this device can see")
    joining.add_argument("--pin", required=True, help="SHA-256 of the host's certificate, printed there too")
    joining.add_argument("--name", required=True, help="the name this device was enrolled with")
    joining.add_argument("--home", type=Path, required=True, help="folder for programs, states, identity")
    joining.add_argument("--data", type=Path, help="folder with the training data (default: HOME/data)")
    joining.add_argument("--once", action="store_true", help="end with the run instead of waiting for more")
    joining.add_argument("--threads", type=int, default=0, help="threads of the executor (0: its choice)")
    for taking_part in (serving, joining):
        taking_part.add_argument(
            "--no-data", action="store_true", help="hold no samples: it is never the dominator"
        )
        taking_part.add_argument(
            "--lowest-battery",
            type=int,
            default=LOWEST_PERCENT,
            help="percent at which it leaves unless it is charged (default: %(default)s; -1: never)",
        )
    acting = commands.add_parser("app", help="be the Python half of the Android app, without Android")
    acting.add_argument(
        "--home", type=Path, required=True, help="the app's own folder; data lies in HOME/data"
    )
    acting.add_argument("--inbox", type=Path, required=True, help="folder that hosts push programs to")
    acting.add_argument("--arguments", default="", help="the options of 'serve' that a host requires")
    acting.add_argument(
        "--socket", default=SOCKET, help="abstract socket to listen on (default: %(default)s)"
    )
    measuring = commands.add_parser("measure", help="time training steps of a program; prints JSON")
    measuring.add_argument("--programs", type=Path, required=True, help="folder that holds the program")
    measuring.add_argument("--program", required=True, help="hash of its manifest")
    measuring.add_argument("--seconds", type=float, default=2.0, help="how long to run it")
    measuring.add_argument(
        "--pause",
        type=float,
        default=0.0,
        help="seconds of rest before the first step, told by a line 'ready', and after the last, for meters "
        "to be read",
    )
    measuring.add_argument("--threads", type=int, default=0, help="threads of the executor (0: its choice)")
    commands.add_parser("messages", help="time a message between devices; prints JSON")
    predicting = commands.add_parser(
        "predict", help="what a kept model makes of samples, as CSV: sample, class, probability"
    )
    predicting.add_argument("--model", type=Path, required=True, help="folder of the model: HOME/models/RUN")
    predicting.add_argument(
        "--inputs",
        type=Path,
        required=True,
        help=".npz with inputs (and labels), or an IDX file of images (its labels beside it)",
    )
    predicting.add_argument("--output", type=Path, help="file for the CSV (default: standard output)")
    predicting.add_argument("--force", action="store_true", help="replace OUTPUT where it is there")
    predicting.add_argument("--threads", type=int, default=0, help="threads of the executor (0: its choice)")
    printing = commands.add_parser(
        "fingerprint", help="print what owners of devices compare, and put into assignments.json"
    )
    printing.add_argument("--home", type=Path, required=True, help="the device's folder")
    listing = commands.add_parser(
        "identities", help="print every identity that this device met, and see that its log is whole"
    )
    listing.add_argument("--home", type=Path, required=True, help="the device's folder")
    signing = commands.add_parser(
        "sign-list", help="sign a list of devices, which goes to HOME/devices.json of each; prints the signer"
    )
    signing.add_argument("--key", type=Path, required=True, help="the signer's key, made if it is missing")
    signing.add_argument(
        "--output", type=Path, required=True, help="the list; another of the same signer is replaced"
    )
    signing.add_argument("devices", nargs="+", metavar="NAME=FINGERPRINT", help="as 'fingerprint' prints it")
    taking = commands.add_parser(
        "take-list", help="take a signed list of devices from the link of 'crowdlearn device-list'"
    )
    taking.add_argument("link", help="crowdlearn://devices?list=...")
    taking.add_argument("--home", type=Path, required=True, help="the device's folder")
    looking = commands.add_parser(
        "samples",
        help="see whether the training data fits a model; prints how many samples there are, as JSON",
    )
    looking.add_argument("--data", type=Path, required=True, help="folder with the training data")
    looking.add_argument("--shape", required=True, help="shape of one sample, as in 3x32x32")
    looking.add_argument("--classes", type=int, required=True, help="how many classes, or outputs, there are")
    looking.add_argument("--targets", default="{}", help="what the loss takes, as JSON; without, classes")
    looking.add_argument("--unit", help="the unit of the host's test data, as JSON")
    replaying = commands.add_parser(
        "replay", help="run methods of a program on arrays; writes what they gave"
    )
    replaying.add_argument("--program", type=Path, nargs="+", required=True, help="the .pte, or several")
    replaying.add_argument(
        "--inputs", type=Path, nargs="+", required=True, help=".npz for each: METHOD/in0, METHOD/in1, ..."
    )
    replaying.add_argument(
        "--outputs",
        type=Path,
        nargs="+",
        required=True,
        help=".npz for each: METHOD/out0, METHOD/after0, ...",
    )
    replaying.add_argument("--threads", type=int, default=0, help="threads of the executor (0: its choice)")
    for running in (serving, joining, measuring, predicting, replaying):
        running.add_argument(
            "--isolation",
            choices=("process", "none"),
            default="process",
            help="where programs run: in a process of their own that is held to computing, or in this one, "
            "which trusts their sender (default: %(default)s)",
        )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("websockets").setLevel(logging.WARNING)
    if getattr(arguments, "threads", 0):
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read when the executor's libraries load
    # Before anything of this device is in memory: what is forked has a copy of it all.
    isolated = getattr(arguments, "isolation", "none") == "process" and hasattr(os, "fork")
    warden = Warden() if isolated else None
    load = load_program if warden is None else warden.load
    try:
        if arguments.command == "measure":
            store, rest = ProgramStore(arguments.programs, load), partial(_rest, arguments.pause)
            measure_step(store, arguments.program, arguments.seconds, rest, partial(_tell, arguments.pause))
            return 0
        if arguments.command == "messages":
            print(json.dumps({"message_seconds": message_seconds()}))
            return 0
        if arguments.command == "fingerprint":
            print(fingerprint(own_identity(arguments.home).public))
            return 0
        if arguments.command == "identities":
            log = IdentityLog(arguments.home)
            for met in log.met:
                seen = "new  " if met.is_new else "again"
                print(f"{met.fingerprint}  {seen}  device {met.number} of {met.run}")
            print(f"{len(log.met)} lines, head {log.head}")
            return 0
        if arguments.command == "sign-list":
            sign_list(arguments.devices, arguments.key, arguments.output)
            return 0
        if arguments.command == "take-list":
            print(f"{len(take_list(arguments.home, arguments.link))} devices")
            return 0
        if arguments.command == "samples":
            wanted = (arguments.shape, arguments.classes, arguments.targets, arguments.unit)
            print(json.dumps({"samples": count_samples(arguments.data, *wanted)}))
            return 0
        if arguments.command == "replay":
            lists = arguments.program, arguments.inputs, arguments.outputs
            if len(set(map(len, lists))) != 1:
                parser.error("give as many --inputs and --outputs as programs")
            for program, inputs, outputs in zip(*lists, strict=True):
                replay(program, inputs, outputs, load)
            return 0
        if arguments.command == "predict":
            where = arguments.model, arguments.inputs, arguments.output
            told = predict(*where, force=arguments.force, load_with=load)
            print(told, file=sys.stderr)
            return 0
        return_large_blocks()
        if arguments.command == "app":
            run_app(arguments.home, arguments.inbox, arguments.arguments, arguments.socket)
            return 0
        home: Path = arguments.home
        data = None if arguments.no_data else arguments.data or home / "data"
        name = arguments.name or home.resolve().name
        battery = Battery.of_this_device(arguments.lowest_battery)
        if arguments.command == "join":
            url, pin, once = arguments.url, arguments.pin, arguments.once
            shown = token_of(arguments.token_file) if arguments.token_file else arguments.token
            asyncio.run(
                _until_stopped(
                    lambda stop: join_host(
                        home, data, name, url, shown, pin, stop, battery, once=once, load_with=load
                    )
                )
            )
        else:
            port, tap = arguments.port, FileTap(arguments.tap) if arguments.tap else None
            asyncio.run(
                _until_stopped(
                    lambda stop: serve_device(home, data, name, port, stop, battery, tap=tap, load_with=load)
                )
            )
    except (DeviceError, OSError) as error:
        print(f"crowdlearn-device: {error}", file=sys.stderr)
        return 1
    finally:
        if warden is not None:
            warden.close()
    return 0


def sign_list(named: Sequence[str], key: Path, output: Path) -> None:
    """Write the list of devices NAME=FINGERPRINT, signed with the key, and print the signer's public key.

    Raises PolicyError if a fingerprint is none, or the file there is not a list of the same signer.
    """
    devices = {}
    for each in named:
        name, _, print_ = each.partition("=")
        digits = print_.replace(" ", "").lower()
        if not name or len(digits) != 2 * FINGERPRINT_BYTES or not set(digits) <= set("0123456789abcdef"):
            raise PolicyError(f"{each!r}: give NAME=FINGERPRINT, with 32 hexadecimal digits")
        devices[name] = " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))
    signer = load_signer(key)
    public = signer.public_key().public_bytes_raw().hex()
    if output.exists():
        read_list(output.read_text(), [public])
    write_atomically(output, signed_list(devices, signer).encode())
    print(public)


def count_samples(
    folder: Path, shape: str, classes: int, targets: str = "{}", unit: str | None = None
) -> int:
    """Return how many training samples `folder` holds. Raises DataError if a sample is not of `shape`
    (3x32x32), its label not below `classes`, or not one for the loss (`targets`, JSON). Raises it, too, if
    the samples are not in the `unit` (JSON) of the host's test data.
    """
    try:
        sample = tuple(int(size) for size in shape.split("x"))
    except ValueError as error:
        raise DataError(f"--shape {shape!r}: give the shape of one sample, as in 3x32x32") from error
    data = load_dataset(folder).shaped(sample)
    try:
        spec = read_targets(json.loads(targets))
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"--targets {targets!r} names no targets: {error}") from error
    as_targets(data.labels, spec, classes, str(folder))
    if unit is not None:
        check_units(data, Unit.from_json(unit), str(folder), "the host's test data")
    return len(data)


def _tell(pause: float, timed: StepTime) -> None:
    print(timed.to_json(), flush=True)
    time.sleep(pause)


def _rest(seconds: float) -> None:
    if seconds:
        print(READY, flush=True)
        time.sleep(seconds)


async def _until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await work(stopping)
    logging.getLogger("crowdlearn").info("stopped")


if __name__ == "__main__":
    sys.exit(main())
