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
from crowdlearn_host.coordinator.hub.records import OnEvent
from crowdlearn_host.coordinator.hub.server import Server
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
    run = _Training(prepared, serials, folder, on_event, make_server)
    await run.until_over(key, interrupt or Interrupt(), extra)
    return await run.result()


class _Training:
    """A run's server with what listens to it: its groups, losses, joules and checkpoints."""

    def __init__(
        self,
        prepared: Prepared,
        serials: Sequence[str],
        folder: RunFolder,
        on_event: OnEvent,
        make_server: type[Server],
    ) -> None:
        self._prepared, self._serials, self._folder, self._on_event = prepared, serials, folder, on_event
        config, plan = prepared.config, prepared.plan
        self._groups = groups = [
            Group(settings) if saved is None else Group.from_json(settings, saved)
            for number, settings in enumerate(groups_of(prepared, len(serials) + config.fleet.joining))
            for saved in [folder.load_group(number)]
        ]
        name = folder.path.resolve().name
        unique = f"{name}/{folder.id.hex()}"
        self._losses = EpochLoss(read_lines(folder.path / "metrics.jsonl"))
        events = read_lines(folder.path / "events.jsonl")
        self._energy = EnergyCount(plan, events, read_lines(folder.path / "metrics.jsonl"))
        shared = shared_model_of(prepared, len(groups), audit_of(prepared))
        joint = JointWeights(prepared, folder, shared) if config.joint_weights else None
        self._server = make_server(
            run=name,
            groups=groups,
            folder=folder,
            shared=shared,
            on_event=self._tell,
            synchronous=config.sharing.synchronous and not config.sharing.secure,
            sums=sums_of(prepared, unique, groups),
            on_checkpoint=lambda group, epoch, arrays: self._checkpoints(group, epoch, arrays),
            on_choose=lambda: self._checkpoints.choose(),
            beginning=joint.beginning(unique, groups) if joint else None,
            begin_with=joint.begin_with if joint else lambda seed: None,
            checkpoint_each=config.checkpoints.evaluate == "group",
            programs={Path(n).stem: c for program in prepared.exported for n, c in program.files().items()},
            seats=plan.seats,
            seat_order=() if plan.seats else in_turn([group.settings.devices for group in groups]),
        )
        self._server.traffic.restore(folder.load_traffic())
        self._checkpoints = Checkpoints(prepared, folder, self._server, self._losses)
        self._checkpoints.catch_up()

    async def until_over(self, key: Path | None, interrupt: Interrupt, extra: Sequence[str]) -> None:
        """Reach the devices, and return once the run is over or interrupted.

        Raises the error by which the server or a connection failed.
        """
        server = self._server
        async with AsyncExitStack() as stack:
            if (listen := self._prepared.config.metrics.listen) is not None:
                joules = partial(_joules, self._energy, server)
                await stack.enter_async_context(exposed(server, listen, joules))
            links: list[asyncio.Task[None]] = []
            reach = self._reach(key, extra)
            for carrier in CARRIERS:
                if carrier.wanted(reach):
                    links += await stack.enter_async_context(carrier.reaching(reach))
            joining = self._prepared.config.fleet.joining
            self._on_event("gathering", {"named": list(self._serials), "joining": joining})
            ticking, asking, over = (
                asyncio.create_task(each) for each in (server.ticking(), interrupt.wait(), server.over.wait())
            )
            stack.push_async_callback(cancelled, [ticking, asking, over])
            waiting = {asking, over, ticking, *links}
            while not (asking.done() or over.done()):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                broken = [task for task in done if task in (ticking, *links) and task.exception()]
                if broken:
                    await server.stop(str(broken[0].exception()))
                    await broken[0]
                if links and not joining:
                    hopeless = [group for group in self._groups if _cannot_go_on(group)]
                    if hopeless or not waiting & set(links):
                        await server.stop(_too_few(hopeless or self._groups))
            if server.over.is_set():
                await server.close()
            else:
                await server.stop(f"interrupted; go on with: crowdlearn train --resume {self._folder.path}")
            if links:
                await asyncio.wait(links, timeout=GOODBYE_SECONDS)
        if server.error is not None:
            raise server.error
        self._folder.save_traffic(server.traffic.rows())
        for group in self._groups:
            if group.phase != "done":
                raise (Interrupted if interrupt.asked else TrainingError)(group.reason)

    async def result(self) -> Evaluation | None:
        """Return the last evaluation, once its checkpoint is in the folder."""
        return await self._checkpoints.finish()

    def _reach(self, key: Path | None, extra: Sequence[str]) -> Reach:
        """Return what carriers need to know to reach the devices."""
        prepared, seats = self._prepared, self._prepared.plan.seats
        files = device_files(prepared, len(self._serials))
        places = {name: place for place, name in enumerate(seats)}
        return Reach(
            self._server,
            prepared.config,
            self._on_event,
            default_home(),
            self._serials,
            tuple(seats.values()) or range(len(self._serials)),
            lambda place, name: _files_for(places, files, place, name),
            key,
            extra,
            prepared.plan.class_of,
        )

    def _tell(self, event: str, fields: dict[str, Any]) -> None:
        self._losses.take(event, fields)
        self._energy.take(event, fields)
        self._on_event(event, fields)


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
    text = "too few devices are left" if some else "no device is left"
    unfit = (
        f"{group.devices[number].name}: {why}"
        for group in groups
        for number, why in group.attendance.unfit.items()
    )
    return f"{text} that can take part ({'; '.join(unfit)}); mend one, and resume the run"


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
