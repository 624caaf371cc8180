"""The ports of a piece's methods, for its shape: the exporter writes these, and a device takes no others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.optimizers.base import Optimizer

from .manifest import LOSS, METRICS, PREDICT, TRAIN_STEP, ArraySpec, Manifest, MethodSpec, PieceShape, Port

CLIPPING = (Port("factor", ("B",)), Port("clip", ()))
"""The ports by which the gradients of samples are clipped, and scaled."""


def layer_methods(shape: PieceShape, layer: int, *, squares: bool = False) -> list[MethodSpec]:
    """Forward and, where errors come back to it, backward of one layer; with the squared norm of each
    sample's gradient if `squares`.
    """
    parameters, buffers, given = _state(shape, [layer])
    entering = _sum(shape, layer)
    products = []
    for e, edge in enumerate(shape.edges):
        if edge.source == layer:
            target = shape.layers[edge.target]
            neurons = shape.layers[layer].owned if edge.matched else target.neurons
            products.append(Port("sum", ("B", neurons, *target.sum_shape), layer=edge.target, edge=e))
    inputs = (entering, *parameters, *buffers, *given)
    forward = MethodSpec(f"forward_{layer}", inputs, (*products, *buffers))
    errors = [replace(product, role="error") for product in products if shape.edges[product.edge].taught]
    if not errors:
        return [forward]
    back = [replace(entering, role="error")] if layer in _asked(shape) else []
    gradients = [replace(port, role="gradient") for port in parameters]
    norms = [_square(layer)] if squares and gradients else []
    return [forward, MethodSpec(f"backward_{layer}", (*inputs, *errors), (*back, *gradients, *norms))]


def loss_method(shape: PieceShape, layers: Sequence[int], *, squares: bool = False) -> MethodSpec:
    """Return the method that takes the last layers, which the piece owns whole, from sums to gradients; if
    `squares`, to those that are clipped sample by sample, and the squared norms of each.
    """
    parameters, buffers, given = _state(shape, layers)
    sums = _entering(shape, layers)
    errors = [replace(port, role="error") for port in sums if port.layer in _asked(shape, layers[0])]
    gradients = [replace(port, role="gradient") for port in parameters]
    clips = squares and bool(gradients)
    return MethodSpec(
        LOSS,
        (*sums, *parameters, *buffers, *given, *_targets(shape), *(CLIPPING if clips else ())),
        (*_scores(shape), *errors, *gradients, *buffers, *([_square(-1)] if clips else [])),
    )


def train_step_method(shape: PieceShape, optimizer: Optimizer) -> MethodSpec:
    """Return the method that takes the whole network from samples to new weights."""
    layers = range(len(shape.layers))
    parameters, buffers, given = _state(shape, layers)
    slots = [replace(port, role=slot) for slot in optimizer.slots for port in parameters]
    state = (*parameters, *slots, *buffers)
    numbers = [Port("rate", (), name) for name in optimizer.numbers]
    inputs = (*_entering(shape, layers), *state, *given, *_targets(shape), *numbers)
    return MethodSpec(TRAIN_STEP, inputs, _scores(shape))


def metrics_method(shape: PieceShape, names: Sequence[str]) -> MethodSpec:
    """Return the method that takes scores and targets to a number of each sample for every metric."""
    labels, _ = _targets(shape)
    return MethodSpec(
        METRICS, (_logits(shape), labels), tuple(Port("metric", ("B",), name) for name in names)
    )


def predict_method(shape: PieceShape) -> MethodSpec:
    """Return the method that takes the whole network, all in float32, from samples to scores, in evaluation
    mode.
    """
    arrays = [replace(_array(shape, array), dtype="float32") for array in shape.arrays]
    return MethodSpec(PREDICT, (_sum(shape, 0), *arrays), (_logits(shape),))


def turning_layers(manifest: Manifest, owned: Sequence[int]) -> list[int]:
    """Return those of the `owned` layers that turn round at the loss as one stage: the last ones, which have
    no forward of their own. Raises ProgramError if others have none.
    """
    names = {method.name for method in manifest.methods}
    turning = [layer for layer in owned if f"forward_{layer}" not in names]
    last = len(manifest.layers) - 1
    if turning and (turning != owned[-len(turning) :] or turning[-1] != last):
        absent = ", ".join(f"forward_{layer}" for layer in turning)
        raise ProgramError(f"program {manifest.program[:12]} has no {absent}; export it again")
    return turning


def check_ports(manifest: Manifest, owned: Sequence[int], turning: Sequence[int]) -> None:
    """Raise ProgramError if a method of a piece of the layers `owned` takes or gives something else than
    these need; `turning` are those that are one stage with the loss.
    """
    squares = manifest.squares
    methods = [
        method
        for layer in owned
        if layer not in turning
        for method in layer_methods(manifest, layer, squares=squares)
    ]
    if turning:
        methods.append(loss_method(manifest, turning, squares=squares))
    if any(method.name == TRAIN_STEP for method in manifest.methods):
        methods.append(train_step_method(manifest, manifest.optimizer))
    for watching in manifest.methods if turning else ():
        if watching.name == METRICS:
            methods.append(metrics_method(manifest, [port.name for port in watching.outputs]))
    if len({method.name for method in manifest.methods}) < len(manifest.methods):
        raise ProgramError("manifest names a method twice; export it again")
    for needed in methods:
        method = manifest.method(needed.name)
        given, due = (method.inputs, method.outputs), (needed.inputs, needed.outputs)
        for verb, found, ports in zip(("take", "give"), given, due, strict=True):
            if wrong := (Counter(ports) - Counter(found)) + (Counter(found) - Counter(ports)):
                port = next(iter(wrong))
                raise ProgramError(
                    f"method {method.name} {'must' if port in ports else 'must not'} {verb} {port.role} "
                    f"{port.name} of layer {port.layer} in shape {port.shape}; export it again"
                )


def _targets(shape: PieceShape) -> tuple[Port, Port]:
    return Port("labels", ("B", *shape.targets.shape), dtype=shape.targets.dtype), Port("scale", ())


def _square(layer: int) -> Port:
    return Port("square", ("B",), layer=layer)


def _sum(shape: PieceShape, layer: int) -> Port:
    spec = shape.layers[layer]
    return Port("sum", ("B", spec.owned, *spec.sum_shape), layer=layer, dtype=spec.dtype)


def _array(shape: PieceShape, array: ArraySpec) -> Port:
    size = (shape.layers[array.layer].owned, *array.shape)
    return Port(array.role, size, array.name, array.layer, dtype=array.dtype)


def _entering(shape: PieceShape, layers: Sequence[int]) -> list[Port]:
    """Return the sums that enter the last layers from others, or the samples; those first whose errors are
    not used.
    """
    entered = {e.target for e in shape.edges if e.source < layers[0] and e.target >= layers[0]}
    asked = _asked(shape, layers[0])
    return [_sum(shape, layer) for layer in sorted(entered or {0}, key=lambda k: (k in asked, k))]


def _asked(shape: PieceShape, before: int | None = None) -> set[int]:
    """Return the layers, of those `before` this one, whose sums get errors: not the data, nor what only
    frozen layers made of it.
    """
    return {e.target for e in shape.edges if e.taught and (before is None or e.source < before)}


def _scores(shape: PieceShape) -> tuple[Port, Port]:
    return Port("loss", ()), _logits(shape)


def _logits(shape: PieceShape) -> Port:
    last = shape.layers[-1]
    return Port("logits", ("B", last.neurons, *last.sum_shape))


def _state(shape: PieceShape, layers: Iterable[int]) -> tuple[list[Port], list[Port], list[Port]]:
    """Return parameters, buffers, and what no step changes: frozen arrays and masks, of some layers."""
    arrays = [_array(shape, array) for array in shape.arrays if array.layer in layers]
    parameters = [port for port in arrays if port.role == "parameter"]
    buffers = [port for port in arrays if port.role == "buffer"]
    frozen = [port for port in arrays if port.role == "frozen"]
    masks = [
        Port("mask", ("B", spec.owned, *(spec.dropped or (1 for _ in spec.sum_shape))), layer=layer)
        for layer in layers
        if (spec := shape.layers[layer]).dropout
    ]
    return parameters, buffers, [*frozen, *masks]
