"""`crowdlearn train`: train a run on phones."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import crowdlearn
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.options import Engine, Set
from crowdlearn_host.cli.console.problems import PROBLEMS
from crowdlearn_host.cli.console.progress import TrainingProgress
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import printable, size, terminal
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.runs.interrupt import Interrupt

from .evaluate import in_words

if TYPE_CHECKING:
    from crowdlearn import Run, RunSpec

    from crowdlearn_host.runs.results.evaluation import Evaluation
    from crowdlearn_host.runs.session import Result


def train(
    config: Annotated[
        Path | None, typer.Argument(help="Description of the run (TOML).", show_default=False)
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the new run [default: runs/NAME].")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder.", show_default=False)
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Private adb key [default: ~/.android/adbkey].")] = None,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="Where relay processes run: this computer, or a Ray cluster [default: fleet.relay_engine].",
            show_default=False,
        ),
    ] = None,
    overrides: Set = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check description, model, data and devices, and train nothing.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the run's page on this computer while it trains.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a sliced network on phones. --resume RUN continues an interrupted run."""
    if (config is None) == (resume is None):
        raise ConfigError("name either the description of a run to start, or the folder of a run to --resume")
    if engine is not None:
        if resume is not None:
            raise ConfigError("a run continues with the engine that it began with; leave --engine out")
        overrides = [*(overrides or ()), f"fleet.relay_engine={engine.value}"]
    console = terminal(stderr=as_json)
    with document(as_json) as tell:
        if resume is not None:
            with _watched(resume, console, wanted=watch):
                tell(trained(crowdlearn.Run(resume), console, key=key))
        else:
            assert config is not None
            settings = crowdlearn.RunSpec.load(config, overrides or ())
            folder = run or Path("runs") / settings.name
            if check:
                tell(_checked(settings, folder, console, key))
            else:
                written = None if overrides else (config.read_text("utf-8"), config.parent)
                with _watched(folder, console, wanted=watch):
                    tell(trained(settings, console, run=folder, key=key, written=written))


@contextmanager
def _watched(run: Path, console: Console, *, wanted: bool) -> Iterator[None]:
    """Serve the page of a run, which may be about to begin, while the context lasts."""
    if not wanted:
        yield
        return
    from crowdlearn_host.report.live import LiveRun
    from crowdlearn_host.report.server import serving

    with serving(LiveRun(run, begun=False)) as address:
        console.print(f"watch {run} at {address}", soft_wrap=True)
        yield


def _checked(settings: RunSpec, folder: Path, console: Console, key: Path | None) -> dict[str, Any]:
    """Look at a run before anything is exported, and print what would be trained."""
    from crowdlearn_host.planner.plan import read_plan  # imports torch

    doubts: list[crowdlearn.Event] = []
    with Working(console, "checking model, data and devices"):
        devices = crowdlearn.check(settings, folder, listeners=[doubts.append], key=key)
    for doubt in doubts:
        console.print(Text(printable(PROBLEMS[doubt.name].format(**doubt.fields)), "yellow"), soft_wrap=True)
    console.print(
        f"{settings.name}: the description, the model, the data and {devices} devices fit", soft_wrap=True
    )
    pieces, groups = settings.group.pieces, settings.group.groups
    if settings.group.plan is not None:
        plan = read_plan(settings.group.plan)
        pieces, groups = len(plan.pieces), len(plan.groups) or groups
    recovery = settings.privacy.recovery(pieces, devices // groups)
    console.print(f"the piece of a lost device comes back {recovery}", soft_wrap=True)
    return {"run": str(folder), "devices": devices, "trains": True}


def trained(what: RunSpec | Run, console: Console, **how: Any) -> dict[str, Any]:
    """Train a new run, or go on with one; SIGINT and SIGTERM stop it. Prints and returns the result.

    `how` are further arguments of `crowdlearn.train`.
    """
    interrupt = Interrupt()

    def stop(*_: object) -> None:
        if not interrupt.ask():
            raise KeyboardInterrupt  # nothing is trained yet that could be lost

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with TrainingProgress(console) as progress:
            run = crowdlearn.train(
                what,
                listeners=[lambda event: progress.show(event.name, dict(event.fields))],
                interrupt=interrupt,
                **how,
            )
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    assert run.outcome is not None
    return _shown(console, run.outcome)


def _shown(console: Console, result: Result) -> dict[str, Any]:
    _show(console, result.run, result.traffic, result.evaluation)
    if result.models:
        folder, first = result.models[0].parent, result.models[0]
        console.print(f"the phones were the run's own; the models that they kept: {folder}", soft_wrap=True)
        console.print(f"use one: crowdlearn-device predict --model {first} --inputs FILE", soft_wrap=True)
    return result.to_json()


def _show(
    console: Console, run: Path, traffic: Sequence[dict[str, str | int]], result: Evaluation | None
) -> None:
    totals: dict[str, dict[str, int]] = {}
    for row in traffic:
        of = totals.setdefault(str(row["purpose"]), {"up": 0, "down": 0})
        of[str(row["direction"])] += int(row["bytes"])
    table = Table(
        "purpose", "sent by devices", "received by devices", title="bytes on the wire", show_footer=True
    )
    for column, way in ((1, "up"), (2, "down")):
        table.columns[column].footer = size(sum(of[way] for of in totals.values()))
        table.columns[column].justify = "right"
    table.columns[0].footer = "in all"
    for purpose, of in sorted(totals.items(), key=lambda item: -item[1]["up"]):
        table.add_row(purpose, size(of["up"]), size(of["down"]))
    console.print(table)
    if result is not None:
        console.print(in_words(result))
    console.print(f"run folder: {run}", soft_wrap=True)
