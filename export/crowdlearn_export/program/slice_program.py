"""Exporting the program of a piece: compiled once per shape, gated on parity with autograd, cached by
content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import executorch.version
import torch
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.optimizers.registry import described
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.program.manifest_reader import read_manifest

from crowdlearn_export.graph.memory_curves import MemoryUse
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import piece_shape
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import CROSS_ENTROPY
from crowdlearn_export.quiet import quietly
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.stages.stage import Stage

from .ahead import OnMethod, Task, compile_ahead, ignored
from .backends import OTHER, choice_of, named
from .methods import REVISION, Methods
from .parity import check_parity


@dataclass(frozen=True)
class SliceProgram:
    """A piece's program and its manifest; the manifest's hash names both."""

    manifest: Manifest
    pte: bytes

    def files(self) -> dict[str, bytes]:
        """Return what a device's program store holds of it, by file name."""
        return {
            f"{self.manifest.sha256}.json": self.manifest.to_json().encode(),
            f"{self.manifest.program}.pte": self.pte,
        }


def export_slice(
    graph: NeuronGraph,
    owned: Sequence[int],
    optimizer: Optimizer,
    loss: Loss = CROSS_ENTROPY,
    *,
    max_batch: int,
    either: bool = False,
    memory: MemoryUse = "fastest",
    private: bool = False,
    cache: Path | None = None,
) -> SliceProgram:
    """Return the program for every piece that owns `owned[layer]` neurons of each layer, micro-batches up to
    `max_batch`.

    With `either`, methods for which either backend is sensible are in the program in both forms, of which a
    device takes the faster. With less `memory` than
    the fastest program takes, some of what gradients need is computed again. Programs for steps of DP-SGD,
    `private`, give the norms of samples' gradients where layers have them. Raises ParityError if the program
    disagrees with autograd, UnsupportedModule where a layer cannot be sliced.
    """
    (program,) = export_slices(
        graph,
        [owned],
        optimizer,
        loss,
        max_batch=max_batch,
        either=either,
        memory=memory,
        private=private,
        cache=cache,
    )
    return program


@quietly()
def export_slices(
    graph: NeuronGraph,
    shapes: Sequence[Sequence[int]],
    optimizer: Optimizer,
    loss: Loss = CROSS_ENTROPY,
    *,
    max_batch: int,
    either: bool = False,
    memory: MemoryUse = "fastest",
    private: bool = False,
    cache: Path | None = None,
    on_method: OnMethod = ignored,
) -> list[SliceProgram]:
    """Export the programs of several shapes, in their order; methods that compute the same are compiled once
    for all of them, in several processes where there is enough to do and memory for it.

    `on_method` is called with the number of methods that are compiled and that are to be. Raises as
    `export_slice` does.
    """
    what = {
        "optimizer": described(optimizer),
        "loss": [loss.kind, asdict(loss)],
        "max_batch": max_batch,
        "either": either,
        "memory": memory,
        "private": private,
    }
    keys = [cache_key(graph, **what, owned=list(owned)) for owned in shapes]
    programs = {key: load_cached(cache / key) if cache else None for key in keys}
    missing = {key: owned for key, owned in zip(keys, shapes, strict=True) if programs[key] is None}
    with method_folder(cache) as folder:
        methods = Methods(folder, max_batch, memory)
        if missing:
            task = Task(graph, tuple(map(tuple, missing.values())), optimizer, methods, loss, private)
            compile_ahead(task, on_method, either=either)
        for key, owned in missing.items():
            stages = piece_stages(graph, owned, optimizer, loss, private=private)
            made = program_of(graph, owned, optimizer, stages, methods, loss, either=either)
            programs[key] = made if cache is None else save_cached(cache / key, made)
    return [program for key in keys if (program := programs[key]) is not None]


@contextlib.contextmanager
def method_folder(cache: Path | None) -> Iterator[Path]:
    """Return where compiled methods are kept: in the cache, or as long as this lasts."""
    if cache is not None:
        yield cache / "methods"
        return
    with tempfile.TemporaryDirectory(prefix="crowdlearn-methods.") as folder:
        yield Path(folder)


def program_of(
    graph: NeuronGraph,
    owned: Sequence[int],
    optimizer: Optimizer,
    stages: Sequence[Stage],
    methods: Methods,
    loss: Loss = CROSS_ENTROPY,
    *,
    either: bool = False,
) -> SliceProgram:
    """Return the program of these stages of a piece. Raises ParityError if it disagrees with autograd."""
    from crowdlearn_export.compiler.compile import linked  # takes seconds

    kinds = {stage.kind: stage for stage in reversed(stages)}
    suggested = {kind: methods.compiled(stage) for kind, stage in kinds.items()}
    choices = {s.method.name: choice_of(s, suggested[s.kind], either=either) for s in stages}
    compiled = {stage.method.name: suggested[stage.kind].program for stage in stages}
    for stage in stages:
        choice = choices[stage.method.name]
        if choice.other:
            compiled[choice.other] = methods.compiled(stage, OTHER[choice.backend]).program
    program = linked(compiled)
    executor = ExecuTorchExecutor(program.pte)
    forms = [
        form
        for stage in kinds.values()
        for other in [choices[stage.method.name].other]
        for form in (stage, *([named(stage, other)] if other else []))
    ]
    errors = check_parity(forms, executor, methods.max_batch)
    parity = {stage.kind: errors[stage.method.name] for stage in kinds.values()}
    shape = piece_shape(graph, owned, loss.targets(*graph.scores))
    manifest = Manifest(
        program=hashlib.sha256(program.pte).hexdigest(),
        max_batch=methods.max_batch,
        optimizer=optimizer,
        layers=shape.layers,
        edges=shape.edges,
        arrays=shape.arrays,
        methods=tuple(stage.spec for stage in stages),
        arena_bytes=program.arena_bytes,
        workspace_bytes=program.workspace_bytes,
        operators=program.operators,
        parity={stage.method.name: parity[stage.kind] for stage in stages},
        backends=choices,
        targets=shape.targets,
    )
    return SliceProgram(manifest, program.pte)


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
    """Return a cached program, if it is there and whole; a damaged one is made anew."""
    try:
        manifest = read_manifest((path / "manifest.json").read_bytes())
        pte = (path / "program.pte").read_bytes()
    except (OSError, ProgramError):
        return None
    return SliceProgram(manifest, pte) if hashlib.sha256(pte).hexdigest() == manifest.program else None


def save_cached(path: Path, program: SliceProgram) -> SliceProgram:
    """Keep a program, all of it or none, and return the one to be used: another process's, if that was
    first.
    """
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
