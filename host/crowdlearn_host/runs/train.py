"""One training run, from prepared programs to checkpoints in its folder."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from crowdlearn_host.adb.deployment.shell import HOME
from crowdlearn_host.common.home import default_home
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.hub.server import OnEvent, Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder, environment
from crowdlearn_host.devices.carriers.adb import AdbFleet, Link
from crowdlearn_host.devices.joining.listener import listening
from crowdlearn_host.emulator.settings import FILES
from crowdlearn_host.errors import RunError, TrainingError
from crowdlearn_host.planner.plan import save_plan
from crowdlearn_host.spec.provenance import NAME as INPUTS
from crowdlearn_host.spec.provenance import Inputs, load_kept
from crowdlearn_host.spec.training import TrainConfig

from .checkpoints import Checkpoints
from .evaluation import Evaluation
from .prepare import Prepared, device_files, groups_of, shared_model_of

GOODBYE_SECONDS = 15.0


async def train(
    prepared: Prepared,
    serials: Sequence[str],
    folder: RunFolder,
    on_event: OnEvent,
    key: Path | None = None,
) -> Evaluation | None:
    """Run, or go on with, the training of `folder` on these devices; the test set's evaluation where there is
    one. `key` is the private adb key, if not ~/.android/adbkey.

    Raises TrainingError where training stopped before its end, and RunError where the folder's disk ended it;
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
    server = Server(
        run=folder.path.resolve().name,
        groups=groups,
        folder=folder,
        shared=shared_model_of(prepared, len(groups)),
        on_event=on_event,
        synchronous=prepared.config.sharing.synchronous,
        on_checkpoint=lambda group, epoch, arrays: checkpoints(group, epoch, arrays),
        checkpoint_each=prepared.config.checkpoints.evaluate == "group",
        programs={Path(n).stem: c for program in prepared.exported for n, c in program.files().items()},
        seats=seats,
    )
    server.traffic.restore(folder.load_traffic())
    checkpoints = Checkpoints(prepared, folder, server)
    files = device_files(prepared, len(serials))
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    async with AsyncExitStack() as stack:
        if fleet.listen is not None:
            port = await stack.enter_async_context(listening(server, fleet.listen, default_home()))
            on_event("listening", {"port": port, "devices": fleet.joining})
        reached = AdbFleet(server, prepared.config, serials, key)
        links = [
            asyncio.create_task(Link(reached, serial, number, files[i]).keep())
            for i, (number, serial) in enumerate(zip(numbers, serials, strict=False))
        ]
        stack.push_async_callback(_cancelled, links)
        ticking = asyncio.create_task(server.ticking())
        stack.push_async_callback(_cancelled, [ticking])
        asking = asyncio.create_task(interrupted.wait())
        stack.push_async_callback(_cancelled, [asking])
        over = asyncio.create_task(server.over.wait())
        stack.push_async_callback(_cancelled, [over])
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
    for group in groups:
        if group.phase != "done":
            raise TrainingError(group.reason)
    return await checkpoints.finish()


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


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def new_run(path: Path, config_text: str, prepared: Prepared, config_folder: Path) -> RunFolder:
    """A run folder with everything that describes the run: a fresh one, or that of a run that never began.

    Raises RunError where the folder holds anything else.
    """
    kept, again = path / "config.toml", (path / "run.db").exists()
    if not again and kept.exists() and kept.read_text() != config_text:
        raise RunError(f"{kept} is not of a run of phones; name another folder with --run")
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(path, create=True))
        if again:
            forget_phones(path)
        folder.write("config.toml", config_text)
        save_plan(prepared.plan, path / "plan.json")
        inputs = Inputs(config_folder=config_folder.resolve(), given=prepared.given)
        folder.write(INPUTS, inputs.to_json())
        told = {**environment(), "programs": _hashes(prepared)}
        folder.write("environment.json", json.dumps(told, indent=1))
        stack.pop_all()
    return folder


def forget_phones(run: Path) -> None:
    """Remove the virtual phones that a run had for itself, which are switched off."""
    shutil.rmtree(run / "phones", ignore_errors=True)


def fetch_models(run: Path) -> list[Path]:
    """Move what the virtual phones of a run, which are switched off, keep of its model to RUN/models/PHONE.

    Returns the folders.
    """
    fetched = []
    for phone in sorted((run / "phones").iterdir()):
        kept = phone / FILES / HOME.lstrip("/") / "models" / run.resolve().name
        if not kept.is_dir():
            continue
        target = run / "models" / phone.name
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        kept.replace(target)
        fetched.append(target)
    return fetched


def open_run(path: Path) -> tuple[RunFolder, TrainConfig]:
    """A run folder to go on with, and its configuration."""
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(path, create=False))
        if not folder.begun and not (path / "environment.json").exists():
            raise RunError(
                f"{path} was never started whole; start it again: crowdlearn train CONFIG --run {path}"
            )
        opened = folder, load_kept(path, TrainConfig)
        stack.pop_all()
    return opened


def recompiled(run: Path, prepared: Prepared) -> bool:
    """Whether the programs are others than those that the run began with: equal, but for rounding.

    Raises RunError where the run does not tell.
    """
    path = run / "environment.json"
    try:
        return bool(json.loads(path.read_text())["programs"] != _hashes(prepared))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); start a new run") from error


def _hashes(prepared: Prepared) -> list[str]:
    return [program.manifest.sha256 for program in prepared.exported]
