"""The commands of `crowdlearn-device`: what each does with its options."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from crowdlearn_device.app.stand_in import run as run_app
from crowdlearn_device.data.dataset import as_targets, load_dataset
from crowdlearn_device.data.unit import Unit, check_units
from crowdlearn_device.energy.step_time import READY, StepTime, measure_step
from crowdlearn_device.errors import DataError, PolicyError
from crowdlearn_device.platform.allocator import return_large_blocks
from crowdlearn_device.platform.battery import Battery
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.prediction.predict import predict
from crowdlearn_device.privacy.tap import FileTap
from crowdlearn_device.program.executor import Load, ProgramStore
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
from crowdlearn_device.transport.host_token import token_of
from crowdlearn_device.transport.join import join_host
from crowdlearn_device.transport.message_cost import message_seconds
from crowdlearn_device.transport.serve import serve_device


def _serve(options: Namespace, load: Load) -> None:
    return_large_blocks()
    name = options.name or options.home.resolve().name
    battery = Battery.of_this_device(options.lowest_battery)
    tap = FileTap(options.tap) if options.tap else None
    given = options.home, _data(options), name, options.port
    _run_until_stopped(lambda stop: serve_device(*given, stop, battery, tap=tap, load_with=load))


def _join(options: Namespace, load: Load) -> None:
    return_large_blocks()
    battery = Battery.of_this_device(options.lowest_battery)
    token = token_of(options.token_file) if options.token_file else options.token
    given = options.home, _data(options), options.name, options.url, token, options.pin
    _run_until_stopped(lambda stop: join_host(*given, stop, battery, once=options.once, load_with=load))


def _data(options: Namespace) -> Path | None:
    data: Path = options.data or options.home / "data"
    return None if options.no_data else data


def _run_until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run the work, whose event is set by SIGTERM and SIGINT."""

    async def run() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await work(stopping)
        logging.getLogger("crowdlearn").info("stopped")

    asyncio.run(run())


def _app(options: Namespace, load: Load) -> None:
    return_large_blocks()
    run_app(options.home, options.inbox, options.arguments, options.socket)


def _measure(options: Namespace, load: Load) -> None:
    def rest() -> None:
        if options.pause:
            print(READY, flush=True)
            time.sleep(options.pause)

    def finished(timed: StepTime) -> None:
        print(timed.to_json(), flush=True)
        time.sleep(options.pause)

    measure_step(ProgramStore(options.programs, load), options.program, options.seconds, rest, finished)


def _messages(options: Namespace, load: Load) -> None:
    print(json.dumps({"message_seconds": message_seconds()}))


def _predict(options: Namespace, load: Load) -> None:
    given = options.model, options.inputs, options.output
    print(predict(*given, force=options.force, load_with=load), file=sys.stderr)


def _samples(options: Namespace, load: Load) -> None:
    given = options.data, options.shape, options.classes, options.targets, options.unit
    print(json.dumps({"samples": count_samples(*given)}))


def _replay(options: Namespace, load: Load) -> None:
    files = options.program, options.inputs, options.outputs
    if len(set(map(len, files))) != 1:
        raise DataError("give as many --inputs and --outputs as programs")
    for program, inputs, outputs in zip(*files, strict=True):
        replay(program, inputs, outputs, load)


def _fingerprint(options: Namespace, load: Load) -> None:
    print(fingerprint(own_identity(options.home).public))


def _identities(options: Namespace, load: Load) -> None:
    log = IdentityLog(options.home)
    for met in log.met:
        seen = "new  " if met.is_new else "again"
        print(f"{met.fingerprint}  {seen}  device {met.number} of {met.run}")
    print(f"{len(log.met)} lines, head {log.head}")


def _sign_list(options: Namespace, load: Load) -> None:
    sign_list(options.devices, options.key, options.output)


def _take_list(options: Namespace, load: Load) -> None:
    print(f"{len(take_list(options.home, options.link))} devices")


COMMANDS: dict[str, Callable[[Namespace, Load], None]] = {
    "serve": _serve,
    "join": _join,
    "app": _app,
    "measure": _measure,
    "messages": _messages,
    "predict": _predict,
    "samples": _samples,
    "replay": _replay,
    "fingerprint": _fingerprint,
    "identities": _identities,
    "sign-list": _sign_list,
    "take-list": _take_list,
}
"""Functions by the name of the command; they get its options, and the way to load a program."""


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
        check_units(data, Unit.from_json(unit), str(folder), "the host's test data", alike=False)
    return len(data)
