"""The command line. One file per command; this one puts them together and tells errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version

import typer
from crowdlearn_device.errors import DeviceError
from crowdlearn_export.errors import ExportError

from crowdlearn_host.cli.console.terminal import printable
from crowdlearn_host.errors import HostError

HELP = """Train a deep network on a crowd of phones that are each too weak for it.

A path in a configuration file is relative to that file, one on the command line to the working directory."""

COMMANDS = {
    "demo": "runs.demo:demo",
    "init": "runs.init:init",
    "train": "runs.train:train",
    "evaluate": "runs.evaluate:evaluate",
    "report": "runs.report:report",
    "watch": "runs.watch:watch",
    "plan": "runs.plan:plan",
    "doctor": "models.doctor:doctor",
    "import": "models.convert:import_model",
    "export-model": "models.convert:export_model",
    "simulate": "runs.simulate:simulate",
    "privacy": "runs.privacy:privacy",
    "phones": "devices.phones:app",
    "devices": "devices.devices:devices",
    "profile": "devices.profile:profile",
    "bundle": "devices.bundle:bundle",
    "enrol": "devices.enrol:enrol",
}
"""In the order of the help. A name that is a Typer app is a group of commands."""


def build(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The application with these commands. Their modules import nothing heavy before they are run."""
    app = typer.Typer(
        name="crowdlearn",
        help=HELP,
        epilog="Start with: crowdlearn demo",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(import_module(f".{module}", __name__), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"crowdlearn {version('crowdlearn')}")
        raise typer.Exit


def _options(
    debug: bool = typer.Option(
        False, "--debug", envvar="CROWDLEARN_DEBUG", help="Show tracebacks of errors."
    ),
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    if debug:
        os.environ["CROWDLEARN_DEBUG"] = "1"


def main() -> None:
    """Entry point: an error of ours, or of the system, is one line on stderr and exit code 1."""
    first = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    try:
        build([first] if first in COMMANDS else COMMANDS)()
    except (HostError, ExportError, DeviceError, OSError) as error:
        if os.environ.get("CROWDLEARN_DEBUG"):
            raise
        told = _system_error(error) if isinstance(error, OSError) else error
        print(f"crowdlearn: {printable(' '.join(str(told).splitlines()))}", file=sys.stderr)
        sys.exit(1)


def _system_error(error: OSError) -> str:
    """The file, where there is one, and the reason."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"
