"""`crowdlearn train`: train a configuration on phones."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.options import Set
from crowdlearn_host.cli.console.progress import TrainingProgress, size
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.runs.interrupt import Interrupt
from crowdlearn_host.runs.session import Session
from crowdlearn_host.spec.run_spec import RunSpec, load_config

from .evaluate import in_words

if TYPE_CHECKING:
    from crowdlearn_host.runs.results.evaluation import Evaluation
    from crowdlearn_host.runs.session import Result


def train(
    config: Annotated[
        Path | None, typer.Argument(help="The run's configuration (TOML).", show_default=False)
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the new run [default: runs/NAME].")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder.", show_default=False)
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Private adb key [default: ~/.android/adbkey].")] = None,
    overrides: Set = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look at all that is cheap to look at, and train nothing.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the run's page on this computer while it trains.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a sliced network on phones. Interrupted runs go on with --resume RUN."""
    if (config is None) == (resume is None):
        raise ConfigError("name either a configuration to start, or a run to --resume")
    console = terminal(stderr=as_json)
    with document(as_json) as tell:
        if resume is not None:
            with _watched(resume, console, wanted=watch):
                tell(go_on(resume, console, key))
        else:
            assert config is not None
            settings = load_config(config, overrides or ())
            folder = run or Path("runs") / settings.name
            text = settings.to_toml() if overrides else config.read_text("utf-8")
            if check:
                tell(_checked(settings, folder, text, console, key))
            else:
                with _watched(folder, console, wanted=watch):
                    tell(start(settings, text, config.parent, folder, console, key))


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


def _checked(
    settings: RunSpec, folder: Path, text: str, console: Console, key: Path | None
) -> dict[str, Any]:
    """Look at a run before anything is exported, and say what would be trained."""
    with Working(console, "checking model, data and devices"):
        devices = Session(lambda event, fields: None, Interrupt(), key).look(settings, text, folder)
    console.print(
        f"{settings.name}: the description, the model, the data and {devices} devices fit", soft_wrap=True
    )
    return {"run": str(folder), "devices": devices, "trains": True}


def start(
    config: RunSpec, text: str, config_folder: Path, run: Path, console: Console, key: Path | None = None
) -> dict[str, Any]:
    """Train a new run in the folder `run`. Prints and returns the result."""
    with _session(console, key) as session:
        result = session.begin(config, text, config_folder, run)
    return _told(console, result)


def go_on(run: Path, console: Console, key: Path | None = None) -> dict[str, Any]:
    """Train on in the folder `run`. Prints and returns the result."""
    with _session(console, key) as session:
        result = session.go_on(run)
    return _told(console, result)


@contextmanager
def _session(console: Console, key: Path | None) -> Iterator[Session]:
    """A session whose progress is shown, and that SIGINT and SIGTERM stop."""
    interrupt = Interrupt()

    def stop(*_: object) -> None:
        if not interrupt.ask():
            raise KeyboardInterrupt  # nothing is trained yet that could be lost

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with TrainingProgress(console) as progress:
            yield Session(progress.show, interrupt, key)
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _told(console: Console, result: Result) -> dict[str, Any]:
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
