"""The slice program that phones are timed with: one of two pieces of a small dense network."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.tracing.trace import neuron_graph

from crowdlearn_host.devices.measuring import Probe
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.balanced import balanced

WIDTHS = (784, 512, 256, 10)
BORDERING = (16, 32, 48, 120, 10)
"""Widths whose products with a mini-batch, forward and backward, are from 38,000 to 370,000."""
BATCH = 32


def build_probe(cache: Path | None = None, *, widths: Sequence[int] = WIDTHS) -> Probe:
    """Export the program of a network with layers of these widths, or take it from the cache."""
    model = build_model(f"mlp:{'-'.join(map(str, widths))}", 0)
    graph = neuron_graph(model, torch.zeros(2, widths[0]), "probe")
    follower = balanced(graph, 3).pieces[1]
    owned = follower.owned
    program = export_slice(graph, owned, Sgd(momentum=0.9), max_batch=BATCH, cache=cache)
    macs, kernels = macs_a_sample(graph, owned), build_kernel_probe(cache)
    return Probe(program.files(), program.manifest.sha256, macs, BATCH, kernels)


def build_kernel_probe(cache: Path | None = None) -> Probe:
    """Export the program on which a phone chooses between kernels: hidden layers whose products are around
    the border from which XNNPACK pays.
    """
    model = build_model(f"mlp:{'-'.join(map(str, BORDERING))}", 0)
    graph = neuron_graph(model, torch.zeros(2, BORDERING[0]), "kernels")
    owned = (0, *BORDERING[1:-1], 0)
    program = export_slice(graph, owned, Sgd(momentum=0.9), max_batch=BATCH, either=True, cache=cache)
    sizes = {}
    for number, (width, wider) in enumerate(pairwise(BORDERING[1:]), 1):
        sizes[f"forward_{number}"] = BATCH * width * wider
        sizes[f"backward_{number}"] = 2 * BATCH * width * wider
    manifest = program.manifest
    return Probe(program.files(), manifest.sha256, macs_a_sample(graph, owned), BATCH, None, sizes)


def macs_a_sample(graph: NeuronGraph, owned: tuple[int, ...]) -> float:
    """Return products of a piece in a training step."""
    return sum(
        times * edge.macs * owned[edge.source] / graph.layers[edge.source].neurons
        for times, edge in zip(graph.products, graph.edges, strict=True)
    )
