"""One training run from its configuration to its checkpoints, over adb."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import secrets
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.dataset import Dataset
from crowdlearn_device.update import ValueType
from crowdlearn_device.wire import MAX_FRAME, Floats
from crowdlearn_export.graph import NeuronGraph
from crowdlearn_export.slice_program import SliceProgram, export_slice
from crowdlearn_export.stages import Optimizer, array_specs
from crowdlearn_export.trace import neuron_graph
from crowdlearn_export.weights import arrays_of, state_of
from torch import nn
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from ..adb.deployment import RuntimeDeployment
from ..adb.device import AdbDevice
from ..errors import ConfigError, FleetError, RunError, TrainingError
from ..joining.listener import listening
from ..models import build_model, input_shape
from ..phones.manager import default_home
from ..planner.balanced import balanced
from ..planner.plan import Plan, load_plan, save_plan
from ..server.group import Cut, Group, Settings
from ..server.run_folder import RunFolder, environment, load_model_state
from ..server.server import OnEvent, Server
from ..server.shared_model import SharedModel
from ..server.traffic import exchanged_bytes
from .config import TrainConfig, load_config
from .data import deal, load_split, to_npz
from .evaluation import Evaluation, evaluate

WIRE = {"float32": pb.FLOAT32, "float16": pb.FLOAT16, "int8": pb.INT8}
FIRST_RETRY, LAST_RETRY = 0.2, 10.0
"""Seconds between attempts to reach a device again, doubling, with jitter."""
GOODBYE_SECONDS = 15.0


@dataclass(frozen=True)
class Prepared:
    """A run before its first device is touched. `programs` are the plan's, by piece; `exported` all that
    devices may need.
    """

    config: TrainConfig
    model: nn.Module
    graph: NeuronGraph
    plan: Plan
    programs: tuple[SliceProgram, ...]
    fallbacks: tuple[Cut, ...]
    exported: tuple[SliceProgram, ...]
    test: Dataset | None
    train: Dataset | None


def prepare(config: TrainConfig, folder: Path, on_event: OnEvent) -> Prepared:
    """Model, graph, plan and programs. Raises ConfigError, ExportError or PlanError where something does not
    fit.
    """
    train = load_split(config.data, "train") if config.data and config.device_data is None else None
    test = load_split(config.data, "test") if config.data else None
    sample = sample_shape(config, test)
    train, test = (data and data.shaped(sample) for data in (train, test))
    model = build_model(config.model, config.training.seed, folder)
    graph = neuron_graph(model, torch.zeros(2, *sample), config.name)
    classes = max((int(d.labels.max()) + 1 for d in (train, test) if d is not None), default=0)
    if classes > graph.layers[-1].neurons:
        raise ConfigError(
            f"data has {classes} classes, the model {graph.layers[-1].neurons} outputs; make them agree"
        )
    section = config.group
    plan = load_plan(folder / section.plan, graph) if section.plan else balanced(graph, section.pieces)
    fewer = range(section.min_pieces or len(plan.pieces), len(plan.pieces))
    fallbacks = tuple(balanced(graph, pieces) for pieces in fewer)
    training = config.training
    optimizer = Optimizer(training.momentum, training.weight_decay)
    micro = training.micro_rows + 1
    programs: dict[tuple[int, ...], SliceProgram] = {}
    for piece in (piece for each in (plan, *fallbacks) for piece in each.pieces):
        owned = tuple(stop - start for start, stop in piece.neurons)
        if owned not in programs:
            on_event("exporting", {"shape": list(owned), "number": len(programs) + 1})
            cache = default_home() / "programs"
            programs[owned] = export_slice(graph, owned, optimizer, max_batch=micro, cache=cache)

    def of_pieces(of: Plan) -> tuple[SliceProgram, ...]:
        return tuple(programs[tuple(b - a for a, b in piece.neurons)] for piece in of.pieces)

    cuts = tuple(
        Cut(tuple(piece.neurons for piece in each.pieces), tuple(p.manifest.sha256 for p in of_pieces(each)))
        for each in fallbacks
    )
    exported = tuple(programs.values())
    return Prepared(config, model, graph, plan, of_pieces(plan), cuts, exported, test, train)


def sample_shape(config: TrainConfig, test: Dataset | None) -> tuple[int, ...]:
    """The shape of one sample as the configuration's model takes it."""
    if config.input_shape is not None:
        return config.input_shape
    return input_shape(config.model, test.inputs.shape[1:] if test is not None else ())


def groups_of(prepared: Prepared, devices: int) -> list[Settings]:
    """The settings of every group, for `devices` devices numbered in their order.

    Raises FleetError where there are too few.
    """
    config, plan = prepared.config, prepared.plan
    count = len(plan.groups) or config.group.groups
    size = devices // count
    if size < len(plan.pieces):
        raise FleetError(
            f"{count} groups of {len(plan.pieces)} pieces need {count * len(plan.pieces)} devices; "
            f"{devices} given"
        )
    found = []
    for number in range(count):
        last = number == count - 1
        members = range(number * size, devices if last else (number + 1) * size)
        turns: tuple[tuple[int, ...], ...] = ()
        if plan.groups and len(plan.groups[number].devices) == len(members):
            number_of = dict(zip(plan.groups[number].devices, members, strict=True))
            turns = tuple(tuple(number_of[d] for d in turn.devices) for turn in plan.groups[number].turns)
        found.append(_settings(prepared, len(members), turns, alone=count == 1))
    return found


def _settings(
    prepared: Prepared, devices: int, turns: tuple[tuple[int, ...], ...], *, alone: bool
) -> Settings:
    training, sharing = prepared.config.training, prepared.config.sharing
    planned = prepared.plan.rotation if prepared.plan.groups else "full"
    return Settings(
        layout=tuple(piece.neurons for piece in prepared.plan.pieces),
        programs=tuple(program.manifest.sha256 for program in prepared.programs),
        epochs=training.epochs,
        batch=training.batch,
        micro_batch=training.micro_rows,
        in_flight=training.in_flight,
        learning_rate=training.learning_rate,
        seed=training.seed,
        snapshot_every=training.snapshot_every,
        wire=WIRE[training.wire],
        rotation=prepared.config.group.rotation or planned,
        devices=devices,
        grace_seconds=training.grace_seconds,
        fallbacks=prepared.fallbacks,
        turns=turns,
        theta=sharing.theta,
        values=WIRE[sharing.values],
        alone=alone,
    )


def shared_model_of(prepared: Prepared, groups: int) -> SharedModel:
    """The global model before the first epoch."""
    sharing = prepared.config.sharing
    initial = arrays_of(prepared.graph, prepared.model.state_dict(), prepared.plan.order)
    return SharedModel(
        array_specs(prepared.graph),
        initial,
        omega=sharing.omega or groups,
        tau=sharing.tau,
        values=ValueType[sharing.values.upper()],
    )


async def train(
    prepared: Prepared, serials: Sequence[str], folder: RunFolder, on_event: OnEvent
) -> Evaluation | None:
    """Run, or go on with, the training of `folder` on these devices; the test set's evaluation where there is
    one.

    Raises TrainingError where training stopped before its end; what was reached is in the folder.
    """
    fleet = prepared.config.fleet
    groups = [
        Group(settings) if saved is None else Group.from_json(settings, saved)
        for number, settings in enumerate(groups_of(prepared, len(serials) + fleet.joining))
        for saved in [folder.load_group(number)]
    ]
    shared = shared_model_of(prepared, len(groups))
    if window := folder.load_window():
        shared.restore(window)
    server = Server(
        run=folder.path.resolve().name,
        groups=groups,
        folder=folder,
        shared=shared,
        on_event=on_event,
        synchronous=prepared.config.sharing.synchronous,
        on_checkpoint=lambda group, epoch, arrays: checkpoint(group, epoch, arrays),
        programs={Path(n).stem: c for program in prepared.exported for n, c in program.files().items()},
    )
    server.traffic.restore(folder.load_traffic())
    checkpoint = _Checkpoints(prepared, folder, server, on_event)
    files = device_files(prepared, len(serials))
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    async with AsyncExitStack() as stack:
        if fleet.listen is not None:
            port = await stack.enter_async_context(listening(server, fleet.listen, default_home()))
            on_event("listening", {"port": port, "devices": fleet.joining})
        links = [
            asyncio.create_task(_keep_linked(server, i, serial, files[i], prepared.config, on_event))
            for i, serial in enumerate(serials)
        ]
        stack.push_async_callback(_cancelled, links)
        ticking = asyncio.create_task(server.ticking())
        stack.push_async_callback(_cancelled, [ticking])
        asking = asyncio.create_task(interrupted.wait())
        stack.push_async_callback(_cancelled, [asking])
        over = asyncio.create_task(server.over.wait())
        stack.push_async_callback(_cancelled, [over])
        done, _ = await asyncio.wait({asking, over, *links}, return_when=asyncio.FIRST_COMPLETED)
        while not done & {asking, over}:
            broken = [link for link in links if link.done()]
            for link in broken:
                if error := link.exception():
                    await server.stop(str(error))
                    raise error
            done, _ = await asyncio.wait(
                {asking, over, *(link for link in links if not link.done())},
                return_when=asyncio.FIRST_COMPLETED,
            )
        if not server.over.is_set():
            await server.stop(f"interrupted; go on with: crowdlearn train --resume {folder.path}")
        else:
            await server.close()
        if links:
            await asyncio.wait(links, timeout=GOODBYE_SECONDS)
    for group in groups:
        if group.phase != "done":
            raise TrainingError(group.reason)
    if prepared.test is None:
        return None
    return evaluate(copy.deepcopy(prepared.model), load_model_state(folder.path), prepared.test)


class _Checkpoints:
    """Saves and evaluates the global model after every epoch of a group, with what the epoch cost."""

    def __init__(self, prepared: Prepared, folder: RunFolder, server: Server, on_event: OnEvent) -> None:
        self._prepared, self._folder, self._server, self._on_event = prepared, folder, server, on_event
        self._mark()
        rows = min(prepared.config.training.micro_batch or prepared.config.training.batch, 1 << 20)
        layout = [piece.neurons for piece in prepared.plan.pieces]
        wire = WIRE[prepared.config.training.wire]
        self._planned = exchanged_bytes(prepared.graph, layout, rows, wire) / rows

    def _mark(self) -> None:
        """From here on the next epoch is measured."""
        self._began, self._samples, self._exchanged = time.monotonic(), self._server.samples, self._sent()

    def _sent(self) -> int:
        sent = self._server.traffic.by_purpose()
        return sent["activation"] + sent["error"]

    def __call__(self, group: int, epoch: int, arrays: dict[str, Floats]) -> None:
        prepared = self._prepared
        state = state_of(prepared.graph, arrays, prepared.model.state_dict(), prepared.plan.order)
        self._folder.save_checkpoint(epoch, state)
        fields: dict[str, Any] = {"epoch": epoch, "group": group}
        if prepared.test is not None:
            result = evaluate(copy.deepcopy(prepared.model), state, prepared.test)
            fields |= {"test_loss": result.loss, "test_accuracy": result.accuracy}
        samples = self._server.samples - self._samples
        fields |= {
            "samples_per_second": samples / (time.monotonic() - self._began),
            "bytes_per_sample": (self._sent() - self._exchanged) / max(samples, 1),
            "planned_bytes_per_sample": self._planned,
            "bytes": self._server.traffic.by_purpose(),
        }
        self._mark()
        self._folder.event("evaluated", **fields)
        self._on_event("evaluated", fields)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def device_files(prepared: Prepared, devices: int) -> list[dict[str, bytes]]:
    """What is pushed to each device: every program (roles rotate), and its samples where they are
    dealt out.
    """
    programs = {f"programs/{n}": c for program in prepared.exported for n, c in program.files().items()}
    if prepared.train is None or devices == 0:
        return [programs] * devices
    parts = deal(prepared.train, devices, prepared.config.training.seed)
    return [{**programs, "data/train.npz": to_npz(part)} for part in parts]


async def _keep_linked(
    server: Server, number: int, serial: str, files: dict[str, bytes], config: TrainConfig, on_event: OnEvent
) -> None:
    """Bring the runtime to a device and keep a connection to it until the run is over."""
    token = secrets.token_hex(16)
    wait, first = FIRST_RETRY, True
    while not server.over.is_set():
        try:
            async with await AdbDevice.connect(serial) as device:
                name = (await device.shell("getprop ro.serialno")).stdout.decode(
                    errors="replace"
                ).strip() or serial
                arguments = ["--name", name, "--threads", "1"]
                if config.device_data:
                    arguments += ["--data", config.device_data]
                deployment = RuntimeDeployment(device, arguments=arguments)
                sent = await deployment.install({**files, "token": token.encode()})
                on_event("deployed", {"device": name, "bytes": sent})
                await deployment.start()
                try:
                    while not server.over.is_set() and device.lost is None:
                        async with connect(
                            "ws://device/",
                            sock=await deployment.connect(),
                            additional_headers={"Authorization": f"Bearer {token}"},
                            compression=None,
                            max_size=MAX_FRAME,
                            open_timeout=60,
                            ping_timeout=60,
                        ) as connection:
                            first = False
                            wait = FIRST_RETRY
                            await server.attach(connection, dialled=True, number=number)
                        if not server.over.is_set():
                            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
                            wait = min(2 * wait, LAST_RETRY)
                finally:
                    if device.lost is None:
                        await deployment.stop()
        except (FleetError, OSError, WebSocketException) as error:
            if first:
                raise FleetError(f"{serial}: {error}") from error
            server.folder.event("unreachable", device=serial, reason=str(error)[:300])
            on_event("unreachable", {"device": serial, "reason": str(error)[:300]})
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(2 * wait, LAST_RETRY)


def new_run(path: Path, config_text: str, prepared: Prepared, config_folder: Path) -> RunFolder:
    """A fresh run folder with everything that describes the run."""
    folder = RunFolder(path, create=True)
    folder.write("config.toml", config_text)
    save_plan(prepared.plan, path / "plan.json")
    where = {"config_folder": str(config_folder.resolve())}
    folder.write("environment.json", json.dumps({**environment(), **where}, indent=1))
    return folder


def open_run(path: Path) -> tuple[RunFolder, TrainConfig, Path]:
    """A run folder to go on with, its configuration, and the folder that its relative paths are
    meant from.
    """
    folder = RunFolder(path, create=False)
    return folder, load_config(path / "config.toml"), config_folder(path)


def config_folder(run: Path) -> Path:
    """The folder that a run's relative paths are meant from. Raises RunError where the run does not
    tell it.
    """
    try:
        return Path(json.loads((run / "environment.json").read_text())["config_folder"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{run / 'environment.json'} is damaged: {error}") from error
