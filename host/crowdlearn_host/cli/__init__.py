"""The command line. Each command has its own file; this one joins them, and prints an error in one line."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import typer
from crowdlearn_device.errors import CrowdlearnError
from crowdlearn_device.platform.files import OF_THE_DISK

from crowdlearn_host.cli.console.terminal import printable
from crowdlearn_host.cli.console.verbosity import Verbosity, choose, log_error, logs_closed, options_apart
from crowdlearn_host.common.asking import ASKED
from crowdlearn_host.errors import ConfigError, Interrupted

HELP = """Train a deep network on a crowd of phones that are each too weak for it.

Paths in a configuration file are relative to that file, those on the command line to the working directory.
The options below may stand before or after the command."""

COMMANDS = {
    "demo": "runs.demo:demo",
    "init": "runs.init:init",
    "train": "runs.train:train",
    "serve": "runs.serve:serve",
    "submit": "runs.submit:submit",
    "evaluate": "runs.evaluate:evaluate",
    "report": "runs.report:report",
    "watch": "runs.watch:watch",
    "plan": "runs.plan:plan",
    "convert": "data.convert:app",
    "doctor": "models.doctor:doctor",
    "import": "models.convert:import_model",
    "export-model": "models.convert:export_model",
    "simulate": "runs.simulate:simulate",
    "privacy": "runs.privacy:privacy",
    "phones": "devices.phones:app",
    "devices": "devices.devices:devices",
    "profile": "devices.profile:profile",
    "measure": "devices.measure:measure",
    "bundle": "devices.bundle:bundle",
    "enrol": "devices.enrol:enrol",
    "device-list": "devices.device_list:device_list",
    "schema": "runs.schema:schema",
}
"""All commands, in the order of the help. A name that is a Typer app is a group of commands."""


def build(names: Iterable[str] = COMMANDS, *, listed: bool = False) -> typer.Typer:
    """Return the application with these commands. Their modules import nothing heavy before they are run; if
    they are only to be `listed`, not even the modules are imported.
    """
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
        command = _stand_in(module, attribute) if listed else None
        command = command or getattr(import_module(f".{module}", __name__), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _stand_in(module: str, function: str) -> Callable[[], None] | typer.Typer | None:
    """Return a stand-in that has the help of a command, or of a group of commands, read from its source; None
    if there is none to read.
    """
    found = find_spec(f".{module}", __name__)
    source = Path(found.origin) if found is not None and found.origin else None
    if source is None or not source.is_file():
        return None
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:

            def stand_in() -> None:
                raise NotImplementedError(function)

            stand_in.__doc__ = ast.get_docstring(node)
            return stand_in
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(keywords=[ast.keyword(arg="help", value=ast.Constant(value=str(help))), *_]),
            ) if name == function:
                return typer.Typer(help=help, callback=lambda: None)
    return None


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
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print results and problems only."),
    verbose: int = typer.Option(
        0, "--verbose", "-v", count=True, help="Show every event of a run; -vv also shows what libraries log."
    ),
    log_file: Path | None = typer.Option(
        None, "--log-file", help="Append all messages to this file, with times and tracebacks."
    ),
) -> None:
    if debug:
        os.environ["CROWDLEARN_DEBUG"] = "1"
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose contradict each other; give one of them")
    choose(Verbosity(quiet, verbose), log_file)
    ASKED.set(lambda text: typer.echo(printable(text), err=True))


FAILED, INTERRUPTED = 1, 130
"""Exit codes; 2 is that of a wrong command line (docs/commands.md)."""


PRIVATE = 0o077
"""The umask of every command: runs, keys, tokens and phones are their user's alone, whichever comes first."""


def main() -> None:
    """Run the command line: an error of ours, or of the system, is one line on stderr and exit code 1."""
    own, words = options_apart(sys.argv[1:])
    completed = os.environ.get("COMP_WORDS", "").split()[1:]  # where a shell asks how a line may go on
    first = next((word for word in (*words, *completed) if not word.startswith("-")), "")
    os.umask(PRIVATE)
    with logs_closed():
        try:
            _application(first)(args=[*own, *words])
        except (CrowdlearnError, OSError) as error:
            text = _system_error(error) if isinstance(error, OSError) else str(error)
            text = printable(" ".join(text.splitlines()))
            log_error(error, text)
            if os.environ.get("CROWDLEARN_DEBUG"):
                raise
            print(f"crowdlearn: {text}", file=sys.stderr)
            sys.exit(INTERRUPTED if isinstance(error, Interrupted) else FAILED)
        except SystemExit as exit:
            if _interrupted(exit):
                sys.exit(INTERRUPTED)
            raise


def _application(first: str) -> typer.Typer:
    """Return the application with the command that a line begins with, or else with a list of all."""
    return build([first]) if first in COMMANDS else build(listed=True)


def _interrupted(exit: SystemExit) -> bool:
    """Return whether Ctrl-C is behind an exit: it ends in code 1 where the command line is parsed."""
    error: BaseException | None = exit
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _system_error(error: OSError) -> str:
    """Return the file, where there is one, and the reason."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    if error.errno in OF_THE_DISK:
        place = os.environ.get("TMPDIR", "/tmp")
        return (
            f"{reason}, perhaps for a temporary file; make room in {place}, or set TMPDIR to another folder"
        )
    return reason
