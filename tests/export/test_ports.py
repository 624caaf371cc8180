"""A device expects of a piece's methods what the exporter writes, and refuses any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.manifest import Manifest, Port
from crowdlearn_device.program.manifest_reader import read_manifest
from crowdlearn_device.program.ports import check_ports, turning_layers
from crowdlearn_export.graph.shape import piece_shape
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn

from .test_sliced_training import Residual, convolutional, depthwise, mlp


def dropping() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(216, 4), nn.Dropout(0.5)),
        nn.Linear(4, 3),
    )


def manifest_of(build: Callable[[], nn.Module], parts: Sequence[int], momentum: float = 0.9) -> Manifest:
    """Of a piece that owns one of so many parts of each hidden layer (0: none of it), and both ends whole."""
    graph = neuron_graph(build(), torch.zeros(2, *((12,) if build is mlp else (2, 8, 8))))
    hidden = [parts[layer.index % len(parts)] for layer in graph.layers[1:-1]]
    owned = [
        layer.neurons // part if part else 0
        for layer, part in zip(graph.layers, (1, *hidden, 1), strict=True)
    ]
    shape = piece_shape(graph, owned)
    return Manifest(
        program="0" * 64,
        max_batch=4,
        optimizer=Sgd(momentum=momentum),
        layers=shape.layers,
        edges=shape.edges,
        arrays=shape.arrays,
        methods=tuple(stage.spec for stage in piece_stages(graph, owned, Sgd(momentum=momentum))),
    )


def check(manifest: Manifest) -> None:
    owned = [i for i, layer in enumerate(manifest.layers) if layer.owned]
    check_ports(manifest, owned, turning_layers(manifest, owned))


@pytest.mark.parametrize("build", [mlp, convolutional, Residual, depthwise, dropping])
@pytest.mark.parametrize("parts", [(1,), (2,), (0,), (2, 0), (1, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_every_piece_that_is_exported_is_what_a_device_expects(build, parts, momentum) -> None:
    check(read_manifest(manifest_of(build, parts, momentum).to_json()))


def without(manifest: Manifest, method: str, what: str, role: str, instead: Sequence[Port] = ()) -> Manifest:
    """The manifest with a method's first input or output of a role left out, or replaced."""
    spec = manifest.method(method)
    ports = list(getattr(spec, what))
    place = next(i for i, port in enumerate(ports) if port.role == role)
    ports[place : place + 1] = instead
    instead_of: dict[str, Any] = {what: tuple(ports)}
    changed = replace(spec, **instead_of)
    return replace(manifest, methods=tuple(changed if m is spec else m for m in manifest.methods))


DAMAGE = {
    "a gradient is left out": lambda m: without(m, "backward_1", "outputs", "gradient"),
    "a mask is left out": lambda m: without(m, "forward_1", "inputs", "mask"),
    "nothing is dropped": lambda m: replace(m, layers=tuple(replace(each, dropout=0.0) for each in m.layers)),
    "sums of another shape": lambda m: without(
        m, "forward_1", "inputs", "sum", [Port("sum", ("B", 3), layer=1)]
    ),
    "sums of another layer": lambda m: without(
        m, "forward_1", "inputs", "sum", [Port("sum", ("B", 3, 6, 6), layer=0)]
    ),
    "no sums leave": lambda m: without(m, "forward_1", "outputs", "sum"),
    "labels of floats": lambda m: without(m, "loss", "inputs", "labels", [Port("labels", ("B",))]),
    "scores of other classes": lambda m: without(m, "loss", "outputs", "logits", [Port("logits", ("B", 2))]),
    "a weight that rests": lambda m: replace(m, arrays=(replace(m.arrays[0], trained=False), *m.arrays[1:])),
    "another edge": lambda m: replace(m, edges=(*m.edges, m.edges[0])),
    "a method twice": lambda m: replace(m, methods=(*m.methods, m.methods[0])),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_method_that_does_not_fit_the_piece_is_refused_before_it_runs(what) -> None:
    manifest = DAMAGE[what](manifest_of(dropping, (2,)))
    with pytest.raises(ProgramError, match="export it again"):
        check(manifest)


def test_a_step_that_leaves_momentum_out_is_refused() -> None:
    manifest = manifest_of(mlp, (1,))
    with pytest.raises(ProgramError, match="must take momentum"):
        check(without(manifest, "train_step", "inputs", "momentum"))
