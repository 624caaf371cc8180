"""The whole network for inference, as a program that takes its weights in slice order: batch norm by running
statistics, no dropout.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import PREDICT, Manifest, PieceShape
from crowdlearn_device.program.ports import predict_method
from torch import Tensor

from crowdlearn_export.graph.held.registry import HELD
from crowdlearn_export.graph.layers import run_layers
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import piece_shape
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import CROSS_ENTROPY
from crowdlearn_export.quiet import quietly
from crowdlearn_export.stages.stage import Stage, as_stage

from .parity import check_parity
from .slice_program import SliceProgram, cache_key, load_cached, save_cached

MAX_BATCH = 256


@quietly()
def export_inference(
    graph: NeuronGraph, cache: Path | None = None, loss: Loss = CROSS_ENTROPY
) -> SliceProgram:
    """Return the program `predict`: samples and every array of the model to logits, batches of 1 to
    MAX_BATCH.

    Raises ParityError if it disagrees with PyTorch.
    """
    key = cache_key(graph, what=PREDICT, max_batch=MAX_BATCH, loss=[loss.kind, asdict(loss)])
    if cache is not None and (cached := load_cached(cache / key)) is not None:
        return cached
    shape = piece_shape(graph, [layer.neurons for layer in graph.layers], loss.targets(*graph.scores))
    stage = inference_stage(graph, shape)
    from crowdlearn_export.compiler.compile import compile_program  # takes seconds

    compiled = compile_program([stage.method], max_batch=MAX_BATCH)
    manifest = Manifest(
        program=hashlib.sha256(compiled.pte).hexdigest(),
        max_batch=MAX_BATCH,
        layers=shape.layers,
        edges=shape.edges,
        arrays=shape.arrays,
        methods=(stage.spec,),
        arena_bytes=compiled.arena_bytes,
        operators=compiled.operators,
        targets=shape.targets,
        parity=check_parity([stage], ExecuTorchExecutor(compiled.pte), MAX_BATCH),
    )
    program = SliceProgram(manifest, compiled.pte)
    return program if cache is None else save_cached(cache / key, program)


def inference_stage(graph: NeuronGraph, shape: PieceShape) -> Stage:
    """Return samples [B, input neurons, ...] and the arrays of the whole network, to logits [B, classes]."""
    spec = predict_method(shape)

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        named = {port.name: values for port, values in zip(spec.inputs[1:], given[1:], strict=True)}
        arrays = HELD[graph.frozen_as].widened(named)
        return run_layers(graph, graph.layers, {0: given[0]}, arrays, {}, training=False)[:1]

    def reference(*given: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return function(*given)

    return as_stage(spec, function, reference, cache_key(graph, what=PREDICT))
