"""The command line. One file per command; this one puts them together and tells errors in one line."""

from __future__ import annotations

import os
import sys

import typer
from crowdlearn_device.errors import DeviceError
from crowdlearn_export.errors import ExportError

from ..errors import HostError
from . import demo, devices, doctor, evaluate, models, phones, plan, profile, report, simulate, train

app = typer.Typer(
    name="crowdlearn",
    help="Train a deep network on a crowd of phones that are each too weak for it.",
    epilog="Start with: crowdlearn demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("plan")(plan.plan)
app.command("simulate")(simulate.simulate)
app.command("report")(report.report)
app.command("devices")(devices.devices)
app.command("profile")(profile.profile)
app.add_typer(phones.app, name="phones")
app.command("doctor")(doctor.doctor)
app.command("import")(models.import_model)
app.command("export-model")(models.export_model)


@app.callback()
def options(
    debug: bool = typer.Option(
        False, "--debug", envvar="CROWDLEARN_DEBUG", help="Show tracebacks of errors."
    ),
) -> None:
    if debug:
        os.environ["CROWDLEARN_DEBUG"] = "1"


def main() -> None:
    """Entry point: an error of ours is one line on stderr and exit code 1."""
    try:
        app()
    except (HostError, ExportError, DeviceError) as error:
        if os.environ.get("CROWDLEARN_DEBUG"):
            raise
        print(f"crowdlearn: {error}", file=sys.stderr)
        sys.exit(1)
