"""A small dense network on plain NumPy: the programs of a group whose protocol is under test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.manifest import ArraySpec, EdgeSpec, LayerSpec, Manifest, PieceShape
from crowdlearn_device.program.ports import layer_methods, loss_method
from crowdlearn_device.protocol.frames import Array, Floats

LAYERS = (3, 4, 5, 2)
LAST = len(LAYERS) - 1
MOMENTUM = 0.9


def array_specs() -> tuple[ArraySpec, ...]:
    """Every array of the network, in the order of its vector of weights."""
    specs: list[ArraySpec] = []
    offset = 0
    for layer, neurons in enumerate(LAYERS):
        named: list[tuple[str, tuple[int, ...], bool]] = []
        if layer:
            named.append((f"bias{layer}", (), True))
        if 0 < layer < LAST:
            named.append((f"mean{layer}", (), False))
        if layer < LAST:
            named.append((f"weight{layer}", (LAYERS[layer + 1],), True))
        for name, shape, trained_ in named:
            specs.append(ArraySpec(name, layer, shape, trained_, offset))
            offset += neurons * prod(shape)
    return tuple(specs)


def without_statistics() -> tuple[ArraySpec, ...]:
    """The arrays but for running statistics, which mix samples: steps of DP-SGD refuse them."""
    specs: list[ArraySpec] = []
    offset = 0
    for spec in array_specs():
        if spec.trained:
            specs.append(replace(spec, offset=offset))
            offset += LAYERS[spec.layer] * prod(spec.shape)
    return tuple(specs)


def _resting(spec: ArraySpec, frozen: int) -> ArraySpec:
    """The array, at rest where it is a weight of the first `frozen` linear maps or a bias added to them."""
    rests = spec.trained and spec.layer + spec.name.startswith("weight") <= frozen
    return replace(spec, trained=False, frozen=True) if rests else spec


def manifest(owned: Sequence[int], frozen: int = 0) -> Manifest:
    """What a piece that owns `owned[layer]` neurons of each layer runs; the first `frozen` linear maps
    rest.
    """
    shape = PieceShape(
        layers=tuple(LayerSpec(n, k, ()) for n, k in zip(LAYERS, owned, strict=True)),
        edges=tuple(EdgeSpec(layer, layer + 1, taught=layer >= frozen) for layer in range(LAST)),
        arrays=tuple(_resting(spec, frozen) for spec in array_specs() if owned[spec.layer]),
    )
    hidden = [method for layer in range(LAST) if owned[layer] for method in layer_methods(shape, layer)]
    return Manifest(
        program="".join(f"{count:064x}"[-8:] for count in owned),
        max_batch=8,
        optimizer=Sgd(momentum=MOMENTUM),
        layers=shape.layers,
        edges=shape.edges,
        arrays=shape.arrays,
        methods=(*hidden, loss_method(shape, [LAST])) if owned[LAST] else tuple(hidden),
    )


def whole() -> Manifest:
    """The whole network's program for inference, which nobody here runs."""
    return replace(manifest(LAYERS), optimizer=Sgd(), methods=())


class TinyExecutor:
    """tanh between dense layers, cross-entropy at their end; `mean` follows each hidden neuron's mean sum."""

    def __init__(self, of: Manifest) -> None:
        self._manifest = of

    def hold(self, arrays: Iterable[Array]) -> None:
        pass

    def zeros(self, shape: Sequence[int], dtype: str = "float32") -> Array:
        return np.zeros(shape, dtype)

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        spec = self._manifest.method(method)
        roles = [port.role.replace("frozen", "parameter") for port in spec.inputs]
        names = [port.name for port in spec.inputs]
        given = dict(zip(zip(roles, names, strict=True), inputs, strict=True))
        results = self._stage(method, given)
        return [np.asarray(results[port.role, port.name], np.float32) for port in spec.outputs]

    def _stage(self, method: str, given: dict[tuple[str, str], Array]) -> dict[tuple[str, str], Array]:
        kind, _, number = method.partition("_")
        layer = LAST if kind == "loss" else int(number)
        bias = given.get(("parameter", f"bias{layer}"))
        inner = given["sum", ""] + (0 if bias is None else bias)
        if kind == "loss":
            shifted = inner - inner.max(axis=1, keepdims=True)
            shares = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
            hot = np.eye(LAYERS[LAST], dtype=np.float32)[given["labels", ""]]
            scale = given["scale", ""]
            error = (shares - hot) * scale
            loss = -np.log((shares * hot).sum(axis=1)).sum() * scale
            return {
                ("loss", ""): loss,
                ("logits", ""): inner,
                ("error", ""): error,
                ("gradient", f"bias{layer}"): error.sum(axis=0),
            }
        weight = given["parameter", f"weight{layer}"]
        out = np.tanh(inner) if layer else inner
        if kind == "forward":
            mean = given.get(("buffer", f"mean{layer}"))
            moved = None if mean is None else 0.9 * mean + 0.1 * inner.mean(axis=0)
            return {("sum", ""): out @ weight, ("buffer", f"mean{layer}"): moved}  # type: ignore[dict-item]
        back = given["error", ""]
        error = (back @ weight.T) * (1 - out * out)
        return {
            ("error", ""): error,
            ("gradient", f"weight{layer}"): out.T @ back,
            ("gradient", f"bias{layer}"): error.sum(axis=0),
        }


class TinyPrograms:
    """Programs by the hash of their manifest, as a device's program store gives them."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self._manifests = {m.sha256: m for m in manifests}

    def manifest(self, sha256: str) -> Manifest:
        if sha256 not in self._manifests:
            raise ProgramError(f"program {sha256[:12]} is not here")
        return self._manifests[sha256]

    def executor(self, of: Manifest) -> TinyExecutor:
        return TinyExecutor(of)

    def files(self, sha256: str) -> dict[str, bytes]:
        return {f"{sha256}.json": self.manifest(sha256).to_json().encode()}


def first_weights(seed: int = 0) -> dict[str, Floats]:
    """The whole network's arrays, neurons first."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for spec in manifest(LAYERS).arrays:
        drawn = rng.standard_normal((LAYERS[spec.layer], *spec.shape)).astype(np.float32)
        arrays[spec.name] = drawn if spec.trained else np.zeros_like(drawn)
    return arrays
