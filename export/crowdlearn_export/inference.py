"""The whole network for inference, as a program that takes its weights in slice order: batch norm by running
statistics, no dropout.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from crowdlearn_device.executor import ExecuTorchExecutor
from crowdlearn_device.kept import PREDICT
from crowdlearn_device.manifest import Manifest, Port
from torch import Tensor

from .compile import compile_program
from .graph import NeuronGraph
from .layers import run_layers
from .parity import check_parity
from .slice_program import SliceProgram, cache_key, load_cached, save_cached
from .stages import Stage, array_specs, as_stage, edge_specs, layer_specs

MAX_BATCH = 256


def export_inference(graph: NeuronGraph, cache: Path | None = None) -> SliceProgram:
    """The program `predict`: samples and every array of the model to logits, batches of 1 to MAX_BATCH.

    Raises ParityError where it disagrees with PyTorch.
    """
    owned = [layer.neurons for layer in graph.layers]
    key = cache_key(graph, what=PREDICT, max_batch=MAX_BATCH)
    if cache is not None and (cached := load_cached(cache / key)) is not None:
        return cached
    stage = inference_stage(graph)
    compiled = compile_program([stage.method], max_batch=MAX_BATCH)
    manifest = Manifest(
        program=hashlib.sha256(compiled.pte).hexdigest(),
        max_batch=MAX_BATCH,
        momentum=0.0,
        weight_decay=0.0,
        layers=layer_specs(graph, owned),
        edges=edge_specs(graph),
        arrays=array_specs(graph),
        methods=(stage.spec,),
        arena_bytes=compiled.arena_bytes,
        operators=compiled.operators,
        parity=check_parity([stage], ExecuTorchExecutor(compiled.pte), MAX_BATCH),
    )
    program = SliceProgram(manifest, compiled.pte)
    return program if cache is None else save_cached(cache / key, program)


def inference_stage(graph: NeuronGraph) -> Stage:
    """Samples [B, input neurons, ...] and arrays in the order of `array_specs`, to logits [B, classes]."""
    first, last = graph.layers[0], graph.layers[-1]
    arrays = array_specs(graph)
    ports = [
        Port(
            "parameter" if array.trained else "buffer",
            (graph.layers[array.layer].neurons, *array.shape),
            name=array.name,
            layer=array.layer,
        )
        for array in arrays
    ]
    samples = Port("sum", ("B", first.neurons, *first.sum_shape), layer=0)

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        named = {array.name: values for array, values in zip(arrays, given[1:], strict=True)}
        return run_layers(graph, graph.layers, {0: given[0]}, named, {}, training=False)[:1]

    def reference(*given: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return function(*given)

    outputs = (Port("logits", ("B", last.neurons)),)
    return as_stage(PREDICT, function, (samples, *ports), outputs, reference)
