"""Reading a manifest's JSON: from any source, what comes out is whole and consistent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.optimizers.registry import read_optimizer
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.protocol.targets import TargetSpec

from .manifest import (
    FORMAT,
    HELD,
    ROLES,
    STATE,
    TRAIN_STEP,
    ArraySpec,
    Backend,
    BackendChoice,
    Dim,
    EdgeSpec,
    LayerSpec,
    Manifest,
    MethodSpec,
    Port,
)

READABLE = range(1, FORMAT + 1)
OF_OPTIMIZERS = 5
"""The first format that knows other optimizers than SGD."""
HELD_AS = ("float32", "float16", "int8")
"""The types in which a device holds arrays; only frozen ones in others than the first."""
MAX_MANIFEST = 4 << 20
DTYPES = frozenset({*HELD_AS, "int64"})


def read_manifest(text: str | bytes) -> Manifest:
    """Return the manifest that `text` holds. Raises ProgramError if anything is missing, of the wrong type or
    inconsistent.
    """
    if len(text) > MAX_MANIFEST:
        raise ProgramError(f"manifest of {len(text)} bytes; at most {MAX_MANIFEST}")
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise TypeError("not an object")
        if data.get("format") not in READABLE:
            raise ProgramError(
                f"manifest of format {data.get('format')!r}, this runtime reads up to {FORMAT}; "
                "update it, or export again"
            )
        manifest = _manifest(data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ProgramError(
            f"manifest is damaged ({type(error).__name__}: {error}); export it again"
        ) from error
    if wrong := _inconsistency(manifest):
        raise ProgramError(f"{wrong}; export it again")
    return manifest


def _inconsistency(manifest: Manifest) -> str:
    """Return what does not go together, in words; nothing where all does."""
    count = len(manifest.layers)
    for edge in manifest.edges:
        if not 0 <= edge.source < edge.target < count:
            return f"manifest joins layer {edge.source} to {edge.target} of {count}"
    reached = {edge.target for edge in manifest.edges if edge.taught}
    if any(edge.source in reached and not edge.taught for edge in manifest.edges):
        return "manifest stops errors before layers that learn"
    for layer in manifest.layers:
        if layer.owned > layer.neurons:
            return f"manifest owns {layer.owned} of {layer.neurons} neurons"
    names = {array.name for array in manifest.arrays}
    if len(names) != len(manifest.arrays) or any(not 0 <= a.layer < count for a in manifest.arrays):
        return "manifest's arrays are named twice or belong to no layer"
    back = {edge.source for edge in manifest.edges if edge.taught} | {count - 1}
    if any(array.trained and (array.frozen or array.layer not in back) for array in manifest.arrays):
        return "manifest trains what is frozen, or what no errors come back to"
    if any(a.dtype not in (HELD_AS if a.frozen else HELD_AS[:1]) for a in manifest.arrays):
        return "manifest holds arrays in a type in which they cannot be"
    known = {method.name for method in manifest.methods}
    shapes = {a.name: (manifest.layers[a.layer].owned, *a.shape) for a in manifest.arrays}
    for name, choice in manifest.backends.items():
        if choice.other and (name not in known or choice.other in known):
            return f"manifest has another form, {choice.other!r}, of no method"
    for method in manifest.methods:
        for port in (*method.inputs, *method.outputs):
            if wrong := _wrong_port(port, shapes, layers=count, edges=len(manifest.edges)):
                return f"method {method.name} {wrong}"
        if method.name == TRAIN_STEP and not _trains_whole(manifest, method):
            return f"method {method.name} does not train the whole network, once"
    return ""


def _wrong_port(port: Port, shapes: Mapping[str, tuple[int, ...]], *, layers: int, edges: int) -> str:
    if port.role not in ROLES:
        return f"has a port of unknown role {port.role!r}"
    if port.role in HELD | {"gradient"} and port.name not in shapes:
        return f"names unknown array {port.name!r}"
    if port.role != "rate" and port.name in shapes and port.shape != shapes[port.name]:
        return f"takes {port.name!r} in shape {port.shape}, the piece holds {shapes[port.name]}"
    if port.dtype not in DTYPES:
        return f"has a port of type {port.dtype!r}"
    if not -1 <= port.edge < edges or not -1 <= port.layer < layers:
        return "names an edge or layer that is not there"
    return ""


def _trains_whole(manifest: Manifest, method: MethodSpec) -> bool:
    """Return whether a step updates everything that there is to update, once."""
    due = [(array.role, array.name) for array in manifest.arrays if not array.frozen]
    learned = [array.name for array in manifest.arrays if array.trained]
    due += [(slot, name) for slot in manifest.optimizer.slots for name in learned]
    state = [(p.role, p.name) for p in method.inputs if p.role in STATE]
    return sorted(state) == sorted(due) and all(layer.owned == layer.neurons for layer in manifest.layers)


def _manifest(x: Any) -> Manifest:
    return Manifest(
        program=_string(x["program"]),
        max_batch=_integer(x["max_batch"], 1, 1 << 20),
        optimizer=_optimizer(x),
        layers=tuple(_layer(layer) for layer in _list(x["layers"])),
        edges=tuple(_edge(edge) for edge in _list(x["edges"])),
        arrays=tuple(_array(array) for array in _list(x["arrays"])),
        methods=tuple(_method(method) for method in _list(x["methods"])),
        arena_bytes=_integer(x.get("arena_bytes", 0), 0, 1 << 50),
        workspace_bytes=_integer(x.get("workspace_bytes", 0), 0, 1 << 50),
        operators=tuple(_string(name) for name in _list(x.get("operators", []))),
        parity=x.get("parity"),
        backends={_string(name): _choice(choice) for name, choice in x.get("backends", {}).items()},
        targets=read_targets(x.get("targets", {})),
    )


def _optimizer(x: Any) -> Optimizer:
    if x["format"] >= OF_OPTIMIZERS:
        return read_optimizer(x["optimizer"])
    momentum, decay = _number(x["momentum"], 1.0), _number(x["weight_decay"], float("inf"))
    return Sgd(momentum=momentum, weight_decay=decay)


def _layer(x: Any) -> LayerSpec:
    return LayerSpec(
        _integer(x["neurons"], 1, 1 << 24),
        _integer(x["owned"], 0, 1 << 24),
        _shape(x["sum_shape"]),
        _number(x.get("dropout", 0.0), 1.0),
        _shape(x.get("dropped", ())),
        _string(x.get("dtype", "float32")),
    )


def read_targets(x: Any) -> TargetSpec:
    """Return the targets that JSON describes. Raises ValueError, TypeError or AttributeError if it describes
    none.
    """
    bounds = [None if x.get(end) is None else _number(x[end], float("inf")) for end in ("least", "most")]
    weights = tuple(_number(weight, float("inf")) for weight in _list(x.get("weights", [])))
    dtype, shape = _string(x.get("dtype", "int64")), _shape(x.get("shape", []))
    return TargetSpec(dtype, shape, bounds[0], bounds[1], weights)


def _edge(x: Any) -> EdgeSpec:
    return EdgeSpec(
        _integer(x["source"], 0, 1 << 16),
        _integer(x["target"], 0, 1 << 16),
        _flag(x["matched"]),
        _flag(x.get("taught", True)),
    )


def _array(x: Any) -> ArraySpec:
    return ArraySpec(
        name=_string(x["name"]),
        layer=_integer(x["layer"], 0, 1 << 16),
        shape=_shape(x["shape"]),
        trained=_flag(x["trained"]),
        offset=_integer(x["offset"], 0, 1 << 31),
        frozen=_flag(x.get("frozen", False)),
        dtype=_string(x.get("dtype", "float32")),
    )


def _method(x: Any) -> MethodSpec:
    return MethodSpec(
        _string(x["name"]),
        tuple(_port(p) for p in _list(x["inputs"])),
        tuple(_port(p) for p in _list(x["outputs"])),
    )


def _port(x: Any) -> Port:
    return Port(
        role=_string(x["role"]),
        shape=_dims(x["shape"]),
        name=_string(x["name"]),
        layer=_integer(x["layer"], -1, 1 << 16),
        edge=_integer(x["edge"], -1, 1 << 16),
        dtype=_string(x["dtype"]),
    )


def _choice(x: Any) -> BackendChoice:
    if x["backend"] not in get_args(Backend):
        raise ValueError(f"{str(x['backend'])[:40]!r} is no backend")
    return BackendChoice(x["backend"], _string(x.get("other", "")))


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(_integer(x, 0, 1 << 31) for x in _list(value))


def _dims(value: Any) -> tuple[Dim, ...]:
    return tuple(x if x == "B" else _integer(x, 0, 1 << 31) for x in _list(value))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > 10_000:
        raise TypeError(f"{str(value)[:40]!r} is not a list of reasonable length")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise TypeError(f"{str(value)[:40]!r} is not a short string")
    return value


def _integer(value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{str(value)[:40]!r} is not an integer in [{low}, {high}]")
    return value


def _number(value: Any, below: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < below:
        raise ValueError(f"{str(value)[:40]!r} is not a number from 0 to below {below}")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is neither true nor false")
    return value
