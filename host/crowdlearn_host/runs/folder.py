"""The folder of a run on phones: claimed before the work, described once it is prepared, opened again to go
on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crowdlearn_host.adb.deployment.shell import HOME
from crowdlearn_host.coordinator.storage.run_folder import RunFolder, environment
from crowdlearn_host.emulator.processes.spawner import TRACES
from crowdlearn_host.emulator.settings import FILES
from crowdlearn_host.errors import RunError
from crowdlearn_host.planner.plan import save_plan
from crowdlearn_host.spec.provenance import NAME as INPUTS
from crowdlearn_host.spec.provenance import RunInputs, load_kept
from crowdlearn_host.spec.run_spec import RunSpec

if TYPE_CHECKING:
    from .prepare import Prepared


def claim_run(path: Path, config_text: str) -> RunFolder:
    """Return the folder of a run that is to start, fresh or of a run that never began, in use from now on.

    Raises RunError if the folder holds anything else or is in use, and OSError if it cannot be written.
    """
    kept, again = path / "config.toml", (path / "run.db").exists()
    if not again and kept.exists() and kept.read_text() != config_text:
        raise RunError(f"{kept} is not of a run of phones; name another folder with --run")
    folder = RunFolder(path, create=True)
    if again:
        forget_phones(path)
    return folder


@contextmanager
def starting(path: Path, config_text: str) -> Iterator[RunFolder]:
    """Hold `claim_run` for the length of a block. A folder that was empty is empty again if the block fails
    before `describe_run`.
    """
    fresh = not path.exists() or not any(path.iterdir())
    with claim_run(path, config_text) as folder:
        try:
            yield folder
        except BaseException:
            if fresh and not (path / "config.toml").exists():
                shutil.rmtree(path, ignore_errors=True)
            raise


def describe_run(folder: RunFolder, config_text: str, prepared: Prepared, config_folder: Path) -> None:
    """Write everything that describes the run; with the last of it the run can be resumed."""
    folder.write("config.toml", config_text)
    save_plan(prepared.plan, folder.path / "plan.json")
    inputs = RunInputs(config_folder=config_folder.resolve(), given=prepared.given)
    folder.write(INPUTS, inputs.to_json())
    description = {**environment(), "programs": _hashes(prepared)}
    folder.write("environment.json", json.dumps(description, indent=1))


def new_run(path: Path, config_text: str, prepared: Prepared, config_folder: Path) -> RunFolder:
    """Return a run folder with everything that describes the run: a fresh one, or that of a run that never
    began.

    Raises RunError if the folder holds anything else.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(claim_run(path, config_text))
        describe_run(folder, config_text, prepared, config_folder)
        stack.pop_all()
    return folder


def forget_phones(run: Path) -> None:
    """Remove the virtual phones that a run had for itself, which are switched off, and all that they left."""
    shutil.rmtree(run / "phones", ignore_errors=True)
    for name in TRACES:
        (run / name).unlink(missing_ok=True)


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


def open_run(path: Path) -> tuple[RunFolder, RunSpec]:
    """Return a run folder to go on with, and its configuration."""
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(path, create=False))
        if not folder.begun and not (path / "environment.json").exists():
            raise RunError(
                f"{path} was never started whole; start it again: crowdlearn train CONFIG --run {path}"
            )
        opened = folder, load_kept(path, RunSpec)
        stack.pop_all()
    return opened


def recompiled(run: Path, prepared: Prepared) -> bool:
    """Return whether the programs are others than those that the run began with: equal, but for rounding.

    Raises RunError if the run does not tell.
    """
    path = run / "environment.json"
    try:
        return bool(json.loads(path.read_text())["programs"] != _hashes(prepared))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); start a new run") from error


def _hashes(prepared: Prepared) -> list[str]:
    return [program.manifest.sha256 for program in prepared.exported]
