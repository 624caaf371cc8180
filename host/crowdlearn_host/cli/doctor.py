"""`crowdlearn doctor`: what of a model can be sliced and trained, before anything is exported."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from ..errors import ConfigError
from ..models import build_model, stated_shape

if TYPE_CHECKING:
    from crowdlearn_export.doctor import Diagnosis


def doctor(
    model: Annotated[str, typer.Argument(help="paper-mlp, mlp:784-100-10 or file.py:function.")],
    shape: Annotated[str, typer.Option(help="Shape of one sample, as in 3x32x32.", show_default=False)] = "",
    classes: Annotated[int, typer.Option(min=2, max=100_000)] = 10,
    batch: Annotated[int, typer.Option(help="Largest micro-batch.", min=2, max=4096)] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Tell which modules slice, which only train whole, which not at all, and what the program would cost."""
    # Here, because it imports the exporter, which other commands need not wait for.
    from crowdlearn_export.doctor import diagnose

    sample = stated_shape(model, shape)
    network = build_model(model, 0)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch, *sample, generator=generator)
    targets = torch.randint(0, classes, (batch,), generator=generator)
    try:
        report = diagnose(network, inputs, targets)
    except RuntimeError as error:
        raise ConfigError(f"{model} does not run on samples of shape {sample}: {error}") from error
    if as_json:
        typer.echo(json.dumps({"model": model, **asdict(report)}))
    else:
        _show(model, report)


def _show(model: str, report: Diagnosis) -> None:
    console = Console()
    table = Table(title=model)
    for column in ("module", "kind", "trains", "why not"):
        table.add_column(column)
    for module in report.modules:
        table.add_row(module.name, module.kind, "yes" if module.trains else "[red]no[/red]", module.reason)
    console.print(table)
    console.print(
        "slices: " + ("yes" if not report.slices else f"[yellow]only trains whole[/yellow]: {report.slices}")
    )
    if report.compiles:
        console.print(f"whole training step: [red]does not compile[/red]: {report.compiles}")
        return
    assert report.gradient_error is not None
    console.print(
        f"whole training step: program {report.program_bytes / 1e3:.0f} kB, "
        f"weights {report.weight_bytes / 1e6:.2f} MB, planned activations {report.arena_bytes / 1e6:.1f} MB, "
        f"gradient error {report.gradient_error:.0e} (relative, against float64)"
    )
