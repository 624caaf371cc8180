"""`crowdlearn measure`: time, bytes and energy of training steps on every phone at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from crowdlearn_device.platform.files import write_atomically

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, apart, claim
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import printable, terminal
from crowdlearn_host.common import event_loop
from crowdlearn_host.common.home import cache_home
from crowdlearn_host.devices.discovery import discover
from crowdlearn_host.errors import ConfigError, FleetError
from crowdlearn_host.models.names import check_name, stated_shape

if TYPE_CHECKING:
    from crowdlearn_host.energy.measure import Measured

MODEL = "mlp:784-400-200-100-10"


def measure(
    addresses: Annotated[
        list[str] | None, typer.Argument(help="HOST:PORT of phones with adb over TCP.")
    ] = None,
    model: Annotated[str, typer.Option(help="paper-mlp, mlp:784-100-10 or file.py:function.")] = MODEL,
    shape: Annotated[
        str, typer.Option(help="Shape of one sample, such as 3x32x32.", show_default=False)
    ] = "",
    pieces: Annotated[
        list[int] | None,
        typer.Option(
            min=2, help="Measure the model cut into this many pieces, too. Repeatable [default: 3]."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=2, max=4096, help="Samples of a mini-batch.")] = 32,
    seconds: Annotated[
        float, typer.Option(min=1, help="Seconds for all rounds of all devices together.")
    ] = 600.0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Two short rounds, for virtual phones: their meters have no noise."),
    ] = False,
    meter: Annotated[str, typer.Option(help="Use this energy meter instead of the best available one.")] = "",
    here: Annotated[
        bool, typer.Option(help="Also measure this computer, with ExecuTorch and PyTorch.")
    ] = True,
    csv: Annotated[
        Path | None, typer.Option(help="Write all rows to this file (CSV).", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the energy into this file (.svg, .png, .pdf).", show_default=False),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Private adb key [default: ~/.android/adbkey].")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure training steps on every phone at hand: time, GFLOP/s, bytes, memory, heat and joules.

    Phones must not be charging, and adb must reach them over Wi-Fi. Virtual phones are unplugged first.
    """
    check_name(model)
    stated_shape(model, shape)
    _check_meter(meter)
    apart(csv=csv, plot=plot)
    for file in filter(None, (csv, plot)):
        claim(file, force=force)
    _check_plot(plot)
    found = discover(addresses or ())
    if not found and not here:
        raise FleetError("no phones: connect one, or start some with 'crowdlearn phones up'")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the executor's libraries load
    with document(as_json) as tell:
        with Working(terminal(stderr=True), "exporting the programs to measure") as working:
            import torch

            from crowdlearn_host.energy.measure import measure as measure_all
            from crowdlearn_host.energy.programs import make_programs

            torch.set_num_threads(1)
            programs = make_programs(model, shape, pieces or [3], batch, cache_home() / "programs")
            measured = event_loop.run(
                measure_all(
                    found,
                    programs,
                    working.step,
                    seconds=seconds,
                    quick=quick,
                    meter=meter,
                    here=here,
                    key=key,
                )
            )
        rows = measured.rows()
        if csv is not None:
            from crowdlearn_host.energy.figures import as_csv

            write_atomically(csv, as_csv(rows).encode())
        if plot is not None:
            from crowdlearn_host.energy.plot import draw

            draw(rows, plot)
        tell(
            {
                "model": model,
                "batch": batch,
                "rounds": measured.rounds,
                "window": measured.window,
                "devices": measured.devices(),
                "rows": rows,
                "missing": measured.missing,
            }
        )
    if not as_json:
        _show(measured, model, batch)
        for file in filter(None, (csv, plot)):
            typer.echo(f"wrote {file}")
    for serial, why in measured.missing.items():
        typer.echo(printable(why if serial in why else f"{serial}: {why}"), err=True)
    if measured.missing:
        raise FleetError(f"{len(measured.missing)} of {len(found)} phones could not be measured: see above")


def _check_meter(meter: str) -> None:
    if meter:
        from crowdlearn_host.energy.meters import METERS

        if meter not in METERS:
            raise ConfigError(f"there is no meter {meter!r}; there are: {', '.join(METERS)}")


def _check_plot(plot: Path | None) -> None:
    if plot is None:
        return
    if plot.suffix not in (".svg", ".png", ".pdf"):
        raise ConfigError(f"{plot}: a plot is .svg, .png or .pdf")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise ConfigError("matplotlib, which draws, is missing; run: pip install 'crowdlearn[energy]'")


def _show(measured: Measured, model: str, batch: int) -> None:
    from crowdlearn_host.energy.table import sources, steps

    rows, console = measured.rows(), terminal()
    console.print(steps(rows, f"{model}: steps of {batch} samples; MACs, bytes, joules of one sample"))
    for figures in measured.figures:
        for line in _notes(figures.subject.name, figures.dropped, figures.notes, figures.failure):
            console.print(printable(line))
    console.print(
        f"{measured.rounds} interleaved rounds of {measured.window:.1f} s windows; medians of those kept"
    )
    for source in sources(rows):
        console.print(printable(f"source: {source}"), soft_wrap=True)


def _notes(name: str, dropped: dict[str, int], notes: tuple[str, ...], failure: str) -> list[str]:
    lines = [f"{name}: {note}" for note in notes]
    lines += [f"{name}: {count} windows dropped: {reason}" for reason, count in dropped.items()]
    return [*lines, *([f"{name}: {failure}"] if failure else [])]
