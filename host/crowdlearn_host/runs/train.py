"""One training run, from prepared programs to checkpoints in its folder."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from crowdlearn_host.common.files import read_lines
from crowdlearn_host.common.home import default_home
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.hub.exposition import exposed
from crowdlearn_host.coordinator.hub.server import OnEvent, Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.devices.carriers.base import Reach, cancelled
from crowdlearn_host.devices.carriers.registry import CARRIERS
from crowdlearn_host.errors import Interrupted, TrainingError
from crowdlearn_host.runs.interrupt import Interrupt
from crowdlearn_host.runs.results.checkpoints import Checkpoints
from crowdlearn_host.runs.results.evaluation import Evaluation
from crowdlearn_host.runs.results.joules import EnergyCount
from crowdlearn_host.runs.results.losses import EpochLoss
from crowdlearn_host.runs.results.uploads import audit_of

from .groups import device_files, groups_of, shared_model_of, sums_of
from .joint import JointWeights
from .prepare import Prepared

GOODBYE_SECONDS = 15.0


def _files_for(
    places: Mapping[str, int], files: Sequence[dict[str, bytes]], place: int, name: str
) -> dict[str, bytes]:
    """Return the files of a device: those of its place in the plan, or else of its `place` in the fleet."""
    planned = places.get(name, place)
    return files[planned if planned < len(files) else place]


async def train(
    prepared: Prepared,
    serials: Sequence[str],
    folder: RunFolder,
    on_event: OnEvent,
    key: Path | None = None,
    interrupt: Interrupt | None = None,
    extra: Sequence[str] = (),
    make_server: type[Server] = Server,
) -> Evaluation | None:
    """Run, or go on with, the training of `folder` on these devices; the test set's evaluation where there is
    one. `key` is the private adb key, if not ~/.android/adbkey; `interrupt` asks training to stop;
    `extra` are further arguments of the runtime on devices that are reached over adb; `make_server` is the
    kind of the server, for tests that damage what it relays.

    Raises TrainingError if training stopped before its end, and RunError where the folder's disk ended it;
    what was reached is in the folder.
    """
    fleet = prepared.config.fleet
    groups = [
        Group(settings) if saved is None else Group.from_json(settings, saved)
        for number, settings in enumerate(groups_of(prepared, len(serials) + fleet.joining))
        for saved in [folder.load_group(number)]
    ]
    seats = prepared.plan.seats
    numbers = tuple(seats.values()) or range(len(serials))
    losses = EpochLoss(read_lines(folder.path / "metrics.jsonl"))

    energy = EnergyCount(
        prepared.plan,
        read_lines(folder.path / "events.jsonl"),
        read_lines(folder.path / "metrics.jsonl"),
    )

    def tell(event: str, fields: dict[str, Any]) -> None:
        losses.take(event, fields)
        energy.take(event, fields)
        on_event(event, fields)

    name = folder.path.resolve().name
    shared = shared_model_of(prepared, len(groups), audit_of(prepared))
    joint = JointWeights(prepared, folder, shared) if prepared.config.joint_weights else None
    server = make_server(
        run=name,
        groups=groups,
        folder=folder,
        shared=shared,
        on_event=tell,
        synchronous=prepared.config.sharing.synchronous and not prepared.config.sharing.secure,
        sums=sums_of(prepared, f"{name}/{folder.id.hex()}", groups),
        on_checkpoint=lambda group, epoch, arrays: checkpoints(group, epoch, arrays),
        on_choose=lambda: checkpoints.choose(),
        beginning=joint.beginning(f"{name}/{folder.id.hex()}", groups) if joint else None,
        begin_with=joint.begin_with if joint else lambda seed: None,
        checkpoint_each=prepared.config.checkpoints.evaluate == "group",
        programs={Path(n).stem: c for program in prepared.exported for n, c in program.files().items()},
        seats=seats,
        seat_order=() if seats else in_turn([group.settings.devices for group in groups]),
    )
    server.traffic.restore(folder.load_traffic())
    checkpoints = Checkpoints(prepared, folder, server, losses)
    checkpoints.catch_up()
    files = device_files(prepared, len(serials))
    places = {name: place for place, name in enumerate(seats)}
    async with AsyncExitStack() as stack:
        if (told := prepared.config.metrics.listen) is not None:
            joules = partial(_joules, energy, server)
            await stack.enter_async_context(exposed(server, told, joules))
        reach = Reach(
            server,
            prepared.config,
            on_event,
            default_home(),
            serials,
            numbers,
            lambda place, name: _files_for(places, files, place, name),
            key,
            extra,
            prepared.plan.class_of,
        )
        links: list[asyncio.Task[None]] = []
        for carrier in CARRIERS:
            if carrier.wanted(reach):
                links += await stack.enter_async_context(carrier.reaching(reach))
        on_event("gathering", {"named": list(serials), "joining": fleet.joining})
        ticking = asyncio.create_task(server.ticking())
        stack.push_async_callback(cancelled, [ticking])
        asking = asyncio.create_task((interrupt or Interrupt()).wait())
        stack.push_async_callback(cancelled, [asking])
        over = asyncio.create_task(server.over.wait())
        stack.push_async_callback(cancelled, [over])
        waiting = {asking, over, ticking, *links}
        while not (asking.done() or over.done()):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            broken = [task for task in done if task in (ticking, *links) and task.exception()]
            if broken:
                await server.stop(str(broken[0].exception()))
                await broken[0]
            if links and not fleet.joining:
                hopeless = [group for group in groups if _cannot_go_on(group)]
                if hopeless or not waiting & set(links):
                    await server.stop(_too_few(hopeless or groups))
        if not server.over.is_set():
            await server.stop(f"interrupted; go on with: crowdlearn train --resume {folder.path}")
        else:
            await server.close()
        if links:
            await asyncio.wait(links, timeout=GOODBYE_SECONDS)
    if server.error is not None:
        raise server.error
    folder.save_traffic(server.traffic.rows())
    for group in groups:
        if group.phase != "done":
            stopped = interrupt is not None and interrupt.asked
            raise (Interrupted if stopped else TrainingError)(group.reason)
    return await checkpoints.finish()


def in_turn(sizes: Sequence[int]) -> list[int]:
    """Return the numbers of devices in groups of these sizes, the first of each group in front: if fewer
    come, no group lacks more than one more than another.
    """
    begins = [sum(sizes[:group]) for group in range(len(sizes))]
    return [
        begin + place
        for place in range(max(sizes, default=0))
        for begin, size in zip(begins, sizes, strict=True)
        if place < size
    ]


def _cannot_go_on(group: Group) -> bool:
    """Return whether the devices of a group that can take part are fewer than its least pieces."""
    fewest = min(len(cut) for cut in group.settings.cuts)
    return group.settings.devices - len(group.attendance.unfit) < fewest


def _too_few(groups: Sequence[Group]) -> str:
    """Return which devices of the groups cannot take part, and the reasons."""
    some = any(len(group.attendance.unfit) < group.settings.devices for group in groups)
    told = "too few devices are left" if some else "no device is left"
    unfit = (
        f"{group.devices[number].name}: {why}"
        for group in groups
        for number, why in group.attendance.unfit.items()
    )
    return f"{told} that can take part ({'; '.join(unfit)}); mend one, and resume the run"


def _joules(energy: EnergyCount, server: Server) -> list[tuple[dict[str, str], float]]:
    """Return joules of each device by piece and purpose, for the metrics of a run."""
    return [
        (
            {
                "device": each.device,
                "piece": "" if each.piece < 0 else str(each.piece),
                "purpose": each.purpose,
                "provenance": str(each.provenance),
            },
            each.joules,
        )
        for each in energy.spent(server.traffic.rows())
    ]
