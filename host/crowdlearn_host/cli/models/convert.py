"""`crowdlearn import` and `crowdlearn export-model`: ONNX in, ONNX and ExecuTorch out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from crowdlearn_device.platform.files import write_atomically

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, apart, claim
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import printable, terminal
from crowdlearn_host.coordinator.storage.run_folder import check_has_model
from crowdlearn_host.errors import ConfigError

PROGRAM = """\
\"\"\"Built from an ONNX file.\"\"\"

from pathlib import Path

from crowdlearn_export.onnx_import.reader import import_onnx


def build():
    return import_onnx(Path({path}))
"""


def import_model(
    source: Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)],
    target: Annotated[Path, typer.Option("--to", help="The Python file to write.")] = Path("model.py"),
    refuse_shared: Annotated[
        bool, typer.Option("--refuse-shared", help="Refuse models in which two layers share weights.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a Python file that builds a trainable network from an ONNX model."""
    if not source.is_file():
        raise ConfigError(f"{source} is not there; name an ONNX file")
    if target.suffix != ".py":
        raise ConfigError(f"--to {target} must be a .py file")
    claim(target, force=force, is_own=_is_program)
    with document(as_json) as tell:
        with Working(terminal(stderr=as_json), f"reading {source}"):
            from crowdlearn_export.onnx_import.reader import read_onnx  # imports torch

            notes = read_onnx(source, refuse_shared=refuse_shared).notes
        for note in notes:
            typer.echo(f"note: {printable(note)}", err=True)
        program = PROGRAM.format(path=ascii(str(source.resolve())))
        write_atomically(target, program.encode())
        model = f"{target.resolve()}:build"
        tell({"model": model, "notes": list(notes)})
    if not as_json:
        typer.echo(f'to train it, set model = "{model}" in the description of a run')


def _is_program(text: str) -> bool:
    pattern = re.escape(PROGRAM).replace(r"\{path\}", ".*")
    return re.fullmatch(pattern, text) is not None


def export_model(
    run: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    onnx: Annotated[Path | None, typer.Option(help="Write the model to this file as ONNX.")] = None,
    pte: Annotated[
        Path | None, typer.Option(help="Write the model to this file for ExecuTorch with XNNPACK.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder with a test split, or 'digits' [default: the run's].")
    ] = None,
    max_batch: Annotated[
        int, typer.Option(help="Largest batch that the .pte accepts.", min=2, max=4096)
    ] = 32,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a run's newest global model for inference, and check its outputs against PyTorch."""
    if onnx is None and pte is None:
        raise ConfigError("nothing to write: give --onnx FILE, --pte FILE, or both")
    check_has_model(run)
    apart(onnx=onnx, pte=pte)
    for path in filter(None, (onnx, pte)):
        claim(path, force=force)
    console = terminal(stderr=as_json)
    fields: dict[str, dict[str, object]] = {}
    with document(as_json) as tell:
        with Working(console, "reading the run") as working:
            from crowdlearn import Run  # whose exports import torch

            exported = Run(run)
            if onnx is not None:
                working.step(f"writing {onnx}")
                fields["onnx"] = {"file": str(onnx), "error": exported.export_onnx(onnx, data=data)}
            if pte is not None:
                working.step(f"writing {pte}")
                error = exported.export_pte(pte, max_batch=max_batch, data=data)
                fields["pte"] = {"file": str(pte), "error": error}
        tell(fields)
    if as_json:
        return
    for kind, checked in (("onnx", "onnxruntime"), ("pte", "ExecuTorch")):
        if kind in fields:
            typer.echo(
                f"{fields[kind]['file']}: differs from PyTorch by {fields[kind]['error']:.0e} in {checked}"
            )
