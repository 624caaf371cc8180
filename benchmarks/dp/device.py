"""The same training by a device's own runtime: one piece, its ExecuTorch program, its noise."""

from __future__ import annotations

import time

import numpy as np
import torch
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.piece.piece import Piece
from crowdlearn_device.piece.private_steps import Clipping
from crowdlearn_device.privacy.dp.draws import Draws
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.protocol.schedule import Pass, micro_batches
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_export.doctor.verdict import trainable_graph
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import arrays_of, state_of
from crowdlearn_export.program.slice_program import export_slice
from torch import nn

from .networks import CLIP, MOMENTUM, SIDE, Net, accuracy, prepared, rate_of

MICRO_BATCH = 64
"""Samples of a call: what a phone's caches hold."""
PASS = 20
"""Steps of one learning rate."""


def train(net: Net, data: Dataset, test: Dataset, noise: float, seed: int, batch: int) -> tuple[float, float]:
    """Train by DP-SGD in one piece; return the accuracy, and processor seconds of a step."""
    model = net.build(seed)
    graph = trainable_graph(model, torch.zeros(2, 1, SIDE, SIDE), pieces=1)
    owned = [layer.neurons for layer in graph.layers]
    program = export_slice(graph, owned, Sgd(momentum=MOMENTUM), max_batch=MICRO_BATCH + 1, private=True)
    executor, layout = ExecuTorchExecutor(program.pte), (tuple((0, count) for count in owned),)
    inputs, state, seconds = prepared(torch.from_numpy(data.inputs)).numpy(), _first(graph, model), 0.0
    for first in range(0, net.steps, PASS):
        of = Pass(first, min(first + PASS, net.steps))
        rate = rate_of((of.first + of.end - 1) // 2, net.steps, CLIP)
        clipping = Clipping(CLIP, noise)
        began = time.process_time()
        piece = Piece(program.manifest, executor, layout, 0, state, first, of, rate, seed, clipping=clipping)
        draws = Draws(seed, first, 0, len(data), batch)
        assert piece.private is not None
        piece.private.draw_from(draws, first, secret=False)
        for number in range(of.first, of.end):
            rows = draws.rows(number - first)
            parts = micro_batches(len(rows), MICRO_BATCH)
            for micro, part in enumerate(parts):
                own = rows[part.start : part.stop]
                piece.feed(number, micro, len(parts), len(rows), inputs[own], data.labels[own], 1.0)
            while piece.ready:
                piece.run()
        seconds += time.process_time() - began
        state = piece.state()
    learned = {
        name[6:]: each for of in state.layers.values() for name, each in of.items() if "value/" in name
    }
    model.load_state_dict(state_of(graph, learned, model.state_dict()))
    tested = prepared(torch.from_numpy(test.inputs))
    return accuracy(model, tested, torch.from_numpy(test.labels)), seconds / net.steps


def _first(graph: NeuronGraph, model: nn.Module) -> PieceState:
    """Return the only piece before training."""
    arrays, layers = arrays_of(graph, model.state_dict()), dict[int, dict[str, Floats]]()
    for spec in array_specs(graph):
        of_layer = layers.setdefault(spec.layer, {})
        of_layer[f"value/{spec.name}"] = arrays[spec.name]
        of_layer[f"momentum/{spec.name}"] = np.zeros_like(arrays[spec.name])
    return PieceState(tuple((0, layer.neurons) for layer in graph.layers), layers)
