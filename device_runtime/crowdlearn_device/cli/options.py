"""The commands of `crowdlearn-device`, with their options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from crowdlearn_device.platform.battery import LOWEST_PERCENT
from crowdlearn_device.transport.abstract_socket import SOCKET


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, whose result has the name of a `command`."""
    parser = argparse.ArgumentParser(
        prog="crowdlearn-device", description="The part of crowdlearn that runs on a phone."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_training(commands)
    _add_running(commands)
    _add_trust(commands)
    return parser


Commands = Any
"""The subparsers of argparse, whose type has no public name."""


def _runs_programs() -> argparse.ArgumentParser:
    """Return the options of commands that run programs."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--threads", type=int, default=0, help="threads of the executor (default: its own choice)"
    )
    options.add_argument(
        "--isolation",
        choices=("process", "none"),
        default="process",
        help="where programs run: in a confined process of their own, or in this one, which trusts their "
        "sender (default: %(default)s)",
    )
    return options


def _takes_part() -> argparse.ArgumentParser:
    """Return the options of commands by which a device takes part in runs."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--home", type=Path, required=True, help="folder for programs, states and identity")
    samples = options.add_mutually_exclusive_group()
    samples.add_argument("--data", type=Path, help="folder with the training data (default: HOME/data)")
    samples.add_argument("--no-data", action="store_true", help="hold no samples, and never be dominator")
    options.add_argument(
        "--lowest-battery",
        type=int,
        default=LOWEST_PERCENT,
        help="percent of charge at which the device leaves unless it is charging (default: %(default)s; "
        "-1: never)",
    )
    return options


def _add_training(commands: Commands) -> None:
    shared = [_takes_part(), _runs_programs()]
    serve = commands.add_parser("serve", parents=shared, help="wait for a host on a local port, as over adb")
    serve.add_argument("--name", default="", help="the device's name for life (default: that of HOME)")
    serve.add_argument("--port", type=int, default=0, help="0 takes a free port and writes it to HOME/port")
    serve.add_argument(
        "--tap", type=Path, help="record all numbers that are opened here in this file, for privacy audits"
    )
    join = commands.add_parser("join", parents=shared, help="dial a host and take part in its runs")
    join.add_argument("url", help="wss://HOST:PORT")
    token = join.add_mutually_exclusive_group(required=True)
    token.add_argument(
        "--token-file", type=Path, help="file (mode 600) with the token that 'crowdlearn enrol' printed"
    )
    token.add_argument("--token", help="the token itself, which other users of this device can see")
    join.add_argument("--pin", required=True, help="SHA-256 of the host's certificate, as 'enrol' printed it")
    join.add_argument("--name", required=True, help="the name with which this device was enrolled")
    join.add_argument("--once", action="store_true", help="end after a run instead of waiting for the next")
    app = commands.add_parser("app", help="be the Python half of the Android app, without Android")
    app.add_argument("--home", type=Path, required=True, help="the app's own folder; data lies in HOME/data")
    app.add_argument("--inbox", type=Path, required=True, help="folder that hosts push programs to")
    app.add_argument("--arguments", default="", help="the options of 'serve' that a host requires")
    app.add_argument("--socket", default=SOCKET, help="abstract socket to listen on (default: %(default)s)")


def _add_running(commands: Commands) -> None:
    shared = [_runs_programs()]
    measure = commands.add_parser(
        "measure", parents=shared, help="time training steps of a program; prints JSON"
    )
    measure.add_argument("--programs", type=Path, required=True, help="folder that holds the program")
    measure.add_argument("--program", required=True, help="hash of its manifest")
    measure.add_argument("--seconds", type=float, default=2.0, help="how long to run it")
    measure.add_argument(
        "--pause",
        type=float,
        default=0.0,
        help="seconds of rest before the first step, after a line 'ready', and after the last step, in which "
        "meters can be read",
    )
    commands.add_parser("messages", help="time a message between devices; prints JSON")
    predict = commands.add_parser(
        "predict", parents=shared, help="predict with a stored model; prints CSV: sample, class, probability"
    )
    predict.add_argument("--model", type=Path, required=True, help="folder of the model: HOME/models/RUN")
    predict.add_argument(
        "--inputs",
        type=Path,
        required=True,
        help=".npz with inputs (and labels), or an IDX file of images (with its labels beside it)",
    )
    predict.add_argument("--output", type=Path, help="file for the CSV (default: standard output)")
    predict.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    samples = commands.add_parser(
        "samples", help="check whether the training data fits a model; prints the number of samples as JSON"
    )
    samples.add_argument("--data", type=Path, required=True, help="folder with the training data")
    samples.add_argument("--shape", required=True, help="shape of one sample, such as 3x32x32")
    samples.add_argument("--classes", type=int, required=True, help="number of classes, or of outputs")
    samples.add_argument("--targets", default="{}", help="targets of the loss, as JSON (default: classes)")
    samples.add_argument("--unit", help="the unit of the host's test data, as JSON")
    replay = commands.add_parser(
        "replay", parents=shared, help="run methods of programs on arrays; writes their outputs"
    )
    replay.add_argument("--program", type=Path, nargs="+", required=True, help="the .pte, or several")
    replay.add_argument(
        "--inputs", type=Path, nargs="+", required=True, help=".npz for each: METHOD/in0, METHOD/in1, ..."
    )
    replay.add_argument(
        "--outputs",
        type=Path,
        nargs="+",
        required=True,
        help=".npz for each: METHOD/out0, METHOD/after0, ...",
    )


def _add_trust(commands: Commands) -> None:
    shown = commands.add_parser(
        "fingerprint",
        help="print this device's fingerprint, which owners compare and put into assignments.json",
    )
    met = commands.add_parser(
        "identities", help="print every identity that this device has met, and check that its log is complete"
    )
    sign = commands.add_parser(
        "sign-list", help="sign a list of devices, for HOME/devices.json of each; prints the signer"
    )
    sign.add_argument("--key", type=Path, required=True, help="the signer's key, made if it is missing")
    sign.add_argument(
        "--output", type=Path, required=True, help="the list; an older list of the same signer is replaced"
    )
    sign.add_argument("devices", nargs="+", metavar="NAME=FINGERPRINT", help="as 'fingerprint' prints it")
    take = commands.add_parser(
        "take-list", help="take a signed list of devices from the link of 'crowdlearn device-list'"
    )
    take.add_argument("link", help="crowdlearn://devices?list=...")
    for command in (shown, met, take):
        command.add_argument("--home", type=Path, required=True, help="the device's folder")
