"""`crowdlearn evaluate`: the accuracy or other metrics of a run's global model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import crowdlearn
import typer
from rich.table import Table
from rich.text import Text

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import terminal

if TYPE_CHECKING:
    from crowdlearn_host.runs.results.evaluation import Evaluation

MOST_CLASSES = 100
"""The most classes that the table lists; --json has all."""


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    data: Annotated[
        str | None, typer.Option(help="Folder with a test split, or 'digits' [default: the run's].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's newest global model on a test set, class by class."""
    console = terminal(stderr=as_json)
    with document(as_json) as tell:
        with Working(console, "evaluating"):
            result = crowdlearn.evaluate(run, data)
        tell({"run": str(run), **asdict(result)})
    if as_json:
        return
    table = Table("class", "samples", "correct", "accuracy")
    for number, each in enumerate(result.classes):
        share = f"{100 * each.correct / each.samples:.2f} %" if each.samples else ""
        table.add_row(str(number), str(each.samples), str(each.correct), share)
    if 0 < len(result.classes) <= MOST_CLASSES:
        console.print(table)
    console.print(in_words(result))


def in_words(result: Evaluation) -> Text:
    """Return the result in one line: accuracy, or else every metric, then loss and samples."""
    text = f", test loss {result.loss:.4f}, {result.samples} samples"
    if result.accuracy is not None:
        return Text.assemble("test accuracy ", (f"{100 * result.accuracy:.2f} %", "bold"), text)
    metrics = ", ".join(f"test {name} {value:.4f}" for name, value in result.metrics.items())
    return Text.assemble((metrics, "bold"), text)
