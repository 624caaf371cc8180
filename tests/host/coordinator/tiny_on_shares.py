"""A small network on shares, on plain NumPy: a dominator with every non-linearity, and three helpers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.manifest import ArraySpec, EdgeSpec, LayerSpec, Manifest, PieceShape
from crowdlearn_device.program.ports import layer_methods, loss_method
from crowdlearn_device.protocol.frames import Array, Floats

from .tiny import MOMENTUM, TinyExecutor, TinyPrograms

LAYERS = (3, 7, 7, 5, 2)
"""Layer 2 passes on what layer 1 gives: it is the helpers', with the map into layer 3."""
EDGES = (EdgeSpec(0, 1), EdgeSpec(1, 2, matched=True), EdgeSpec(2, 3), EdgeSpec(3, 4))
PIECES = ((3, 7, 0, 5, 2), (0, 0, 3, 0, 0), (0, 0, 2, 0, 0), (0, 0, 2, 0, 0))
TWO_TRIPLES = (PIECES[0], (0, 0, 2, 0, 0), *((0, 0, 1, 0, 0),) * 5)
NAMED: tuple[tuple[str, int, tuple[int, ...]], ...] = (
    ("weight0", 0, (7,)),
    ("bias1", 1, ()),
    ("weight2", 2, (5,)),
    ("bias3", 3, ()),
    ("weight3", 3, (2,)),
    ("bias4", 4, ()),
)


def array_specs() -> tuple[ArraySpec, ...]:
    specs, offset = [], 0
    for name, layer, shape in NAMED:
        specs.append(ArraySpec(name, layer, shape, True, offset))
        offset += LAYERS[layer] * prod(shape)
    return tuple(specs)


def first_weights() -> dict[str, Floats]:
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal((LAYERS[layer], *shape)).astype(np.float32) for name, layer, shape in NAMED
    }


def manifest(owned: Sequence[int]) -> Manifest:
    shape = PieceShape(
        layers=tuple(LayerSpec(n, k, ()) for n, k in zip(LAYERS, owned, strict=True)),
        edges=EDGES,
        arrays=tuple(spec for spec in array_specs() if owned[spec.layer]),
    )
    hidden = [m for layer in range(3) if owned[layer] for m in layer_methods(shape, layer)]
    ending = [loss_method(shape, [3, 4])] if owned[4] else []
    return Manifest(
        program="".join(f"{count:064x}"[-8:] for count in (9, *owned)),
        max_batch=40,
        optimizer=Sgd(momentum=MOMENTUM),
        layers=shape.layers,
        edges=shape.edges,
        arrays=shape.arrays,
        methods=(*hidden, *ending),
    )


class Executor(TinyExecutor):
    """tanh after layers 1 and 3, cross-entropy after layer 4."""

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        spec = self._manifest.method(method)
        given = {(p.role, p.name): x for p, x in zip(spec.inputs, inputs, strict=True)}
        kind, _, number = method.partition("_")
        results = self._loss(given) if kind == "loss" else self._layer(kind, int(number), given)
        return [np.asarray(results[port.role, port.name], np.float32) for port in spec.outputs]

    def _layer(
        self, kind: str, layer: int, given: dict[tuple[str, str], Array]
    ) -> dict[tuple[str, str], Array]:
        x = given["sum", ""]
        if layer == 0:
            w = given["parameter", "weight0"]
            if kind == "forward":
                return {("sum", ""): x @ w}
            return {("gradient", "weight0"): x.T @ given["error", ""]}
        out = np.tanh(x + given["parameter", "bias1"])
        if kind == "forward":
            return {("sum", ""): out}
        error = given["error", ""] * (1 - out * out)
        return {("error", ""): error, ("gradient", "bias1"): error.sum(0)}

    def _loss(self, given: dict[tuple[str, str], Array]) -> dict[tuple[str, str], Array]:
        out = np.tanh(given["sum", ""] + given["parameter", "bias3"])
        scores = out @ given["parameter", "weight3"] + given["parameter", "bias4"]
        shifted = np.exp(scores - scores.max(1, keepdims=True))
        shares, hot = (
            shifted / shifted.sum(1, keepdims=True),
            np.eye(2, dtype=np.float32)[given["labels", ""]],
        )
        last = (shares - hot) * given["scale", ""]
        error = last @ given["parameter", "weight3"].T * (1 - out * out)
        return {
            ("loss", ""): -np.log((shares * hot).sum(1)).sum() * given["scale", ""],
            ("logits", ""): scores,
            ("error", ""): error,
            ("gradient", "bias3"): error.sum(0),
            ("gradient", "weight3"): out.T @ last,
            ("gradient", "bias4"): last.sum(0),
        }


class Programs(TinyPrograms):
    def executor(self, of: Manifest) -> Executor:
        return Executor(of)
