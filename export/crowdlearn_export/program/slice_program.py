"""Exporting the program of a piece: compiled once per shape, gated on parity with autograd, cached by
content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import executorch.version
import torch
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.program.manifest_reader import read_manifest

from crowdlearn_export.compiler.compile import compile_lowered, lower_methods
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import piece_shape
from crowdlearn_export.quiet import quietly
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.stages.stage import Optimizer, Stage

from .backends import by_measurement, by_size, this_computer
from .parity import check_parity

REVISION = 8
"""Part of the cache key: raise it when the same model must give another program."""


@dataclass(frozen=True)
class SliceProgram:
    """A piece's program and its manifest; the manifest's hash names both."""

    manifest: Manifest
    pte: bytes

    def files(self) -> dict[str, bytes]:
        """What a device's program store holds of it, by file name."""
        return {
            f"{self.manifest.sha256}.json": self.manifest.to_json().encode(),
            f"{self.manifest.program}.pte": self.pte,
        }


@quietly()
@quietly()
def export_slice(
    graph: NeuronGraph,
    owned: Sequence[int],
    optimizer: Optimizer,
    *,
    max_batch: int,
    measured: bool = False,
    cache: Path | None = None,
) -> SliceProgram:
    """The program for every piece that owns `owned[layer]` neurons of each layer, micro-batches up to
    `max_batch`.

    `measured` lets methods for which either backend is sensible have the one that is faster on this
    computer, so that two exports may differ; what is in the `cache` stays as it is. Raises ParityError where
    the program disagrees with autograd, UnsupportedModule where a layer cannot be sliced.
    """
    what = {
        "owned": list(owned),
        "optimizer": asdict(optimizer),
        "max_batch": max_batch,
        "measured": measured,
    }
    key = cache_key(graph, **what)
    if cache is not None and (cached := load_cached(cache / key)) is not None:
        return cached
    stages = piece_stages(graph, owned, optimizer)
    program = program_of(graph, owned, optimizer, stages, max_batch=max_batch, measured=measured)
    return program if cache is None else save_cached(cache / key, program)


def program_of(
    graph: NeuronGraph,
    owned: Sequence[int],
    optimizer: Optimizer,
    stages: Sequence[Stage],
    *,
    max_batch: int,
    measured: bool = False,
) -> SliceProgram:
    """The program of these stages of a piece. Raises ParityError where it disagrees with autograd."""
    methods = [stage.method for stage in stages]
    lowered = lower_methods(methods)
    choices = by_measurement(stages, lowered, max_batch) if measured else by_size(lowered)
    backends = {name: choice.backend for name, choice in choices.items()}
    compiled = compile_lowered(methods, lowered, backends, max_batch)
    parity = check_parity(stages, ExecuTorchExecutor(compiled.pte), max_batch)
    shape = piece_shape(graph, owned)
    manifest = Manifest(
        program=hashlib.sha256(compiled.pte).hexdigest(),
        max_batch=max_batch,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        layers=shape.layers,
        edges=shape.edges,
        arrays=shape.arrays,
        methods=tuple(stage.spec for stage in stages),
        arena_bytes=compiled.arena_bytes,
        workspace_bytes=compiled.workspace_bytes,
        operators=compiled.operators,
        parity=parity,
        backends=choices,
        measured_on=this_computer() if measured else "",
    )
    return SliceProgram(manifest, compiled.pte)


def cache_key(graph: NeuronGraph, **what: object) -> str:
    """Name a program by everything that it depends on, which the network's own name is not."""
    what |= {
        "revision": REVISION,
        "torch": torch.__version__,
        "executorch": executorch.version.__version__,
        "graph": {**asdict(graph), "name": ""},
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def load_cached(path: Path) -> SliceProgram | None:
    """A cached program, if it is there and whole; a damaged one is made anew."""
    try:
        manifest = read_manifest((path / "manifest.json").read_bytes())
        pte = (path / "program.pte").read_bytes()
    except (OSError, ProgramError):
        return None
    return SliceProgram(manifest, pte) if hashlib.sha256(pte).hexdigest() == manifest.program else None


def save_cached(path: Path, program: SliceProgram) -> SliceProgram:
    """Keep a program, all of it or none; the one to be used: another's, where somebody was first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", suffix=".partial", dir=path.parent) as partial:
        folder = Path(partial) / "program"
        folder.mkdir()
        (folder / "program.pte").write_bytes(program.pte)
        (folder / "manifest.json").write_text(program.manifest.to_json())
        try:
            folder.rename(path)
        except OSError:
            if (first := load_cached(path)) is not None:
                return first
            shutil.rmtree(path, ignore_errors=True)  # it is damaged
            with contextlib.suppress(OSError):  # what cannot be kept serves all the same
                folder.rename(path)
    return program
