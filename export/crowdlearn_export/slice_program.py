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
import numpy as np
import torch
from crowdlearn_device.executor import Executor, ExecuTorchExecutor
from crowdlearn_device.manifest import Manifest, MethodSpec

from .compile import compile_program
from .errors import ParityError
from .graph import NeuronGraph
from .stages import Optimizer, Stage, array_specs, edge_specs, example_inputs, layer_specs, piece_stages

REVISION = 5
"""Part of the cache key: raise it when the same model must give another program."""
PARITY = 1e-5
"""Largest relative error of an exported program against float64 autograd."""


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
    stages = piece_stages(graph, owned)
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
        methods=tuple(MethodSpec(s.method.name, s.inputs, s.outputs) for s in stages),
        arena_bytes=compiled.arena_bytes,
        workspace_bytes=compiled.workspace_bytes,
        operators=compiled.operators,
        parity=parity,
    )
    program = SliceProgram(manifest, compiled.pte)
    if cache is not None:
        save_cached(cache / key, program)
    return program


def check_parity(stages: Sequence[Stage], executor: Executor, max_batch: int) -> dict[str, float]:
    """The relative error of each method against float64 autograd, at a small and at the largest batch.

    Outputs of one role are compared as one vector: a gradient that is zero by cancellation has no scale of
    its own. Raises ParityError naming method and output.
    """
    worst: dict[str, float] = {}
    generator = torch.Generator().manual_seed(1)
    for stage in stages:
        batches = {min(3, max_batch), max_batch} if stage.method.batched else {1}
        for batch in sorted(batches):
            inputs = example_inputs(stage.inputs, batch, generator)
            wide = [x.double() if x.is_floating_point() else x for x in inputs]
            expected = [x.numpy() for x in stage.reference(*wide)]
            for repeat in range(2):  # a program that leaves dirt behind is right only once
                outputs = executor.run(stage.method.name, [x.numpy() for x in inputs])
                scales: dict[str, float] = {}
                for port, value in zip(stage.outputs, expected, strict=True):
                    scales[port.role] = max(scales.get(port.role, 1e-30), float(np.abs(value).max(initial=0)))
                for port, value, output in zip(stage.outputs, expected, outputs, strict=True):
                    if output.shape != value.shape:
                        raise ParityError(
                            f"{stage.method.name}: output {port.role} {port.name} has shape {output.shape}, "
                            f"autograd gives {value.shape}"
                        )
                    error = float(np.abs(output - value).max(initial=0)) / scales[port.role]
                    if not error <= PARITY:
                        raise ParityError(
                            f"{stage.method.name}: output {port.role} {port.name} differs from "
                            f"autograd by {error:.1e} "
                            f"(at most {PARITY:.0e}) at batch {batch}, call {repeat + 1}; the model "
                            "cannot be exported "
                            "with this lowering, please report it"
                        )
                    worst[stage.method.name] = max(worst.get(stage.method.name, 0.0), error)
    return worst


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
