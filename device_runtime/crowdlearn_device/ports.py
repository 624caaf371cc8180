"""The ports that a piece's methods must have: layers, edges and arrays leave no choice but their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .errors import ProgramError
from .manifest import LOSS, TRAIN_STEP, Manifest, Port

Ports = tuple[list[Port], list[Port]]
"""What a method takes and gives."""


def turning_layers(manifest: Manifest, owned: Sequence[int]) -> list[int]:
    """Those of the `owned` layers that turn round at the loss as one stage: the last ones, which have no
    forward of their own. Raises ProgramError where others have none.
    """
    names = {method.name for method in manifest.methods}
    turning = [layer for layer in owned if f"forward_{layer}" not in names]
    last = len(manifest.layers) - 1
    if turning and (turning != owned[-len(turning) :] or turning[-1] != last):
        absent = ", ".join(f"forward_{layer}" for layer in turning)
        raise ProgramError(f"program {manifest.program[:12]} has no {absent}; export it again")
    return turning


def check_ports(manifest: Manifest, owned: Sequence[int], turning: Sequence[int]) -> None:
    """Raise ProgramError where a method of a piece of the layers `owned` takes or gives something else than
    these need; `turning` are those that are one stage with the loss.
    """
    due = {}
    for layer in owned:
        if layer not in turning:
            due[f"forward_{layer}"], due[f"backward_{layer}"] = _layer(manifest, layer)
    if turning:
        due[LOSS] = _loss(manifest, turning)
    if any(method.name == TRAIN_STEP for method in manifest.methods):
        due[TRAIN_STEP] = _train_step(manifest, turning)
    if len({method.name for method in manifest.methods}) < len(manifest.methods):
        raise ProgramError("manifest names a method twice; export it again")
    for name, (inputs, outputs) in due.items():
        method = manifest.method(name)
        for what, needed, found in (("take", inputs, method.inputs), ("give", outputs, method.outputs)):
            if wrong := (Counter(needed) - Counter(found)) + (Counter(found) - Counter(needed)):
                port = next(iter(wrong))
                verb = "must" if port in needed else "must not"
                raise ProgramError(
                    f"method {name} {verb} {what} {port.role} {port.name} of layer {port.layer} in shape "
                    f"{port.shape}; export it again"
                )


def _sum(manifest: Manifest, layer: int) -> Port:
    spec = manifest.layers[layer]
    return Port("sum", ("B", spec.owned, *spec.sum_shape), layer=layer)


def _arrays(manifest: Manifest, role: str, layers: Iterable[int], *, trained: bool) -> list[Port]:
    return [
        Port(role, (manifest.layers[array.layer].owned, *array.shape), array.name, array.layer)
        for array in manifest.arrays
        if array.layer in layers and array.trained is trained
    ]


def _state(manifest: Manifest, layers: Sequence[int]) -> tuple[list[Port], list[Port], list[Port]]:
    """Parameters, buffers and masks of some layers."""
    masks = [
        Port("mask", ("B", spec.owned, *(1 for _ in spec.sum_shape)), layer=layer)
        for layer in layers
        if (spec := manifest.layers[layer]).dropout
    ]
    return (
        _arrays(manifest, "parameter", layers, trained=True),
        _arrays(manifest, "buffer", layers, trained=False),
        masks,
    )


def _layer(manifest: Manifest, layer: int) -> tuple[Ports, Ports]:
    parameters, buffers, masks = _state(manifest, [layer])
    entering = _sum(manifest, layer)
    products = []
    for e, edge in enumerate(manifest.edges):
        if edge.source == layer:
            target = manifest.layers[edge.target]
            neurons = manifest.layers[layer].owned if edge.matched else target.neurons
            products.append(Port("sum", ("B", neurons, *target.sum_shape), layer=edge.target, edge=e))
    inputs = [entering, *parameters, *buffers, *masks]
    errors = [replace(product, role="error") for product in products]
    gradients = [replace(port, role="gradient") for port in parameters]
    back = [replace(entering, role="error")] if layer else []  # nobody asks for the error of the data
    return (inputs, [*products, *buffers]), ([*inputs, *errors], [*back, *gradients])


def _loss(manifest: Manifest, layers: Sequence[int]) -> Ports:
    parameters, buffers, masks = _state(manifest, layers)
    entered = {e.target for e in manifest.edges if e.source < layers[0] and e.target >= layers[0]}
    sums = [_sum(manifest, layer) for layer in sorted(entered or {0})]
    labels, scale = Port("labels", ("B",), dtype="int64"), Port("scale", ())
    errors = [replace(port, role="error") for port in sums if port.layer]
    gradients = [replace(port, role="gradient") for port in parameters]
    scores = [Port("loss", ()), Port("logits", ("B", manifest.layers[-1].neurons))]
    return (
        [*sums, *parameters, *buffers, *masks, labels, scale],
        [*scores, *errors, *gradients, *buffers],
    )


def _train_step(manifest: Manifest, layers: Sequence[int]) -> Ports:
    inputs, outputs = _loss(manifest, layers)
    momenta = _arrays(manifest, "momentum", layers, trained=True) if manifest.momentum else []
    return [*inputs, *momenta, Port("rate", ())], outputs[:2]
