"""Exporting the program of a piece: compiled once per shape, gated on parity with autograd, cached by
content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import executorch.version
import torch
from crowdlearn_device.executor import ExecuTorchExecutor
from crowdlearn_device.manifest import Manifest

from .compile import compile_program
from .graph import NeuronGraph
from .parity import check_parity
from .piece_stages import piece_stages
from .stages import Optimizer, array_specs, edge_specs, layer_specs

REVISION = 7
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


def export_slice(
    graph: NeuronGraph,
    owned: Sequence[int],
    optimizer: Optimizer,
    *,
    max_batch: int,
    cache: Path | None = None,
) -> SliceProgram:
    """The program for every piece that owns `owned[layer]` neurons of each layer, micro-batches up to
    `max_batch`.

    Raises ParityError where the program disagrees with autograd, UnsupportedModule where a layer cannot be
    sliced.
    """
    key = cache_key(graph, owned=list(owned), optimizer=asdict(optimizer), max_batch=max_batch)
    if cache is not None and (cached := load_cached(cache / key)) is not None:
        return cached
    stages = piece_stages(graph, owned, optimizer)
    compiled = compile_program([stage.method for stage in stages], max_batch=max_batch)
    parity = check_parity(stages, ExecuTorchExecutor(compiled.pte), max_batch)
    manifest = Manifest(
        program=hashlib.sha256(compiled.pte).hexdigest(),
        max_batch=max_batch,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        layers=layer_specs(graph, owned),
        edges=edge_specs(graph),
        arrays=tuple(a for a in array_specs(graph) if owned[a.layer]),
        methods=tuple(stage.spec for stage in stages),
        arena_bytes=compiled.arena_bytes,
        workspace_bytes=compiled.workspace_bytes,
        operators=compiled.operators,
        parity=parity,
    )
    program = SliceProgram(manifest, compiled.pte)
    if cache is not None:
        save_cached(cache / key, program)
    return program


def cache_key(graph: NeuronGraph, **what: object) -> str:
    """Names a program by everything that it depends on."""
    what |= {
        "revision": REVISION,
        "torch": torch.__version__,
        "executorch": executorch.version.__version__,
        "graph": asdict(graph),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def load_cached(path: Path) -> SliceProgram | None:
    """A cached program, if it is there and whole; a damaged one is made anew."""
    try:
        manifest = Manifest.from_json((path / "manifest.json").read_bytes())
        pte = (path / "program.pte").read_bytes()
    except (OSError, ValueError):
        return None
    return SliceProgram(manifest, pte) if hashlib.sha256(pte).hexdigest() == manifest.program else None


def save_cached(path: Path, program: SliceProgram) -> None:
    """Keep a program; a crash leaves none or all of it."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("program.pte", program.pte),
        ("manifest.json", program.manifest.to_json().encode()),
    ):
        partial = path / f"{name}.{os.getpid()}.partial"
        partial.write_bytes(content)
        os.replace(partial, path / name)
