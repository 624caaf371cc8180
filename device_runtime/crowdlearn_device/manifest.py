"""The manifest of a slice program: what its methods take and give, and how layers of the network are joined.

A program serves every piece of its *shape* (neurons per layer). Weights are inputs: exporting once per shape
is enough.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from .errors import ProgramError

FORMAT = 2
READABLE = (1, FORMAT)
LOSS, TRAIN_STEP = "loss", "train_step"
MAX_MANIFEST = 4 << 20
ROLES = frozenset(
    {
        "sum",
        "error",
        "mask",
        "labels",
        "scale",
        "rate",
        "parameter",
        "buffer",
        "momentum",
        "gradient",
        "loss",
        "logits",
    }
)
"""What an input or output is. sum: a layer's summed input, or (as output) the product on an edge. error: the
loss's derivative with respect to the sums of a layer. parameter, buffer, momentum, gradient: of the array
named `name`.
"""

DTYPES = frozenset({"float32", "int64"})

Dim = int | str
Backend = Literal["portable", "xnnpack"]


@dataclass(frozen=True)
class Port:
    """One input or output of a method. Dimension "B" is the batch. `edge` is set for what travels along one
    edge.
    """

    role: str
    shape: tuple[Dim, ...]
    name: str = ""
    layer: int = -1
    edge: int = -1
    dtype: str = "float32"


@dataclass(frozen=True)
class MethodSpec:
    """A method of the program: `forward_<layer>`, `backward_<layer>`; `loss`, which takes layers that have
    no other from their sums to their gradients; `train_step`, which writes new parameters, momenta and
    buffers over those that it is given.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class LayerSpec:
    """A layer of the whole network, and how many of its neurons this shape of piece owns."""

    neurons: int
    owned: int
    sum_shape: tuple[int, ...]
    dropout: float = 0.0


@dataclass(frozen=True)
class EdgeSpec:
    """An edge of the whole network. `matched` edges (identity, depthwise) join neuron i to neuron i only."""

    source: int
    target: int
    matched: bool = False


@dataclass(frozen=True)
class ArraySpec:
    """An array of the piece's state. Dimension 0 is the layer's owned neurons; `shape` is one
    neuron's part. `offset` is where the whole model's array begins in the vector of all its weights.
    """

    name: str
    layer: int
    shape: tuple[int, ...]
    trained: bool
    offset: int = 0


@dataclass(frozen=True)
class BackendChoice:
    """The backend of a method, and the milliseconds that either took where it was chosen by measuring: on the
    computer that exported, which is no phone.
    """

    backend: Backend
    portable_ms: float | None = None
    xnnpack_ms: float | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything a device must know of a program beside its bytes; and why its methods have their backends:
    measured with `max_batch` samples on the computer `measured_on`, or by the size of their products alone.
    """

    program: str
    max_batch: int
    momentum: float
    weight_decay: float
    layers: tuple[LayerSpec, ...]
    edges: tuple[EdgeSpec, ...]
    arrays: tuple[ArraySpec, ...]
    methods: tuple[MethodSpec, ...]
    arena_bytes: int = 0
    workspace_bytes: int = 0
    operators: tuple[str, ...] = ()
    parity: Mapping[str, float] | None = None
    backends: Mapping[str, BackendChoice] = field(default_factory=dict)
    measured_on: str = ""

    def method(self, name: str) -> MethodSpec:
        for method in self.methods:
            if method.name == name:
                return method
        raise ProgramError(f"program {self.program[:12]} has no method {name}; export it again")

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """Names the manifest, and through `program` the .pte."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """The manifest that `text` holds. Raises ProgramError where anything is missing, of the wrong type or
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
            manifest = cls(
                program=_string(data["program"]),
                max_batch=_integer(data["max_batch"], 1, 1 << 20),
                momentum=_number(data["momentum"], 1.0),
                weight_decay=_number(data["weight_decay"], float("inf")),
                layers=tuple(_layer(x) for x in _list(data["layers"])),
                edges=tuple(_edge(x) for x in _list(data["edges"])),
                arrays=tuple(_array(x) for x in _list(data["arrays"])),
                methods=tuple(_method(x) for x in _list(data["methods"])),
                arena_bytes=_integer(data.get("arena_bytes", 0), 0, 1 << 50),
                workspace_bytes=_integer(data.get("workspace_bytes", 0), 0, 1 << 50),
                operators=tuple(_string(x) for x in _list(data.get("operators", []))),
                parity=data.get("parity"),
                backends={_string(n): _choice(x) for n, x in data.get("backends", {}).items()},
                measured_on=_string(data.get("measured_on", "")),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ProgramError(
                f"manifest is damaged ({type(error).__name__}: {error}); export it again"
            ) from error
        manifest._check()
        return manifest

    def _check(self) -> None:
        count = len(self.layers)
        for edge in self.edges:
            if not 0 <= edge.source < edge.target < count:
                raise ProgramError(
                    f"manifest joins layer {edge.source} to {edge.target} of {count}; export it again"
                )
        for layer in self.layers:
            if layer.owned > layer.neurons:
                raise ProgramError(f"manifest owns {layer.owned} of {layer.neurons} neurons; export it again")
        names = {array.name for array in self.arrays}
        if len(names) != len(self.arrays) or any(not 0 <= array.layer < count for array in self.arrays):
            raise ProgramError("manifest's arrays are named twice or belong to no layer; export it again")
        arrays = {array.name: (self.layers[array.layer].owned, *array.shape) for array in self.arrays}
        for method in self.methods:
            for port in (*method.inputs, *method.outputs):
                if port.role not in ROLES:
                    raise ProgramError(
                        f"method {method.name} has a port of unknown role {port.role!r}; export it again"
                    )
                if port.role in {"parameter", "buffer", "gradient", "momentum"} and port.name not in names:
                    raise ProgramError(
                        f"method {method.name} names unknown array {port.name!r}; export it again"
                    )
                if port.name in names and port.shape != arrays[port.name]:
                    raise ProgramError(
                        f"method {method.name} takes {port.name!r} in shape {port.shape}, the piece holds "
                        f"{arrays[port.name]}; export it again"
                    )
                if port.dtype not in DTYPES:
                    raise ProgramError(
                        f"method {method.name} has a port of type {port.dtype!r}; export it again"
                    )
                if not -1 <= port.edge < len(self.edges) or not -1 <= port.layer < count:
                    raise ProgramError(
                        f"method {method.name} names an edge or layer that is not there; export it again"
                    )
            if method.name == TRAIN_STEP:
                self._check_whole(method)

    def _check_whole(self, method: MethodSpec) -> None:
        """A step of the whole network updates everything that there is to update, once."""
        due = [("parameter" if array.trained else "buffer", array.name) for array in self.arrays]
        due += [("momentum", array.name) for array in self.arrays if array.trained and self.momentum]
        state = [(p.role, p.name) for p in method.inputs if p.role in {"parameter", "buffer", "momentum"}]
        if sorted(state) != sorted(due) or any(layer.owned < layer.neurons for layer in self.layers):
            raise ProgramError(
                f"method {method.name} does not train the whole network, once; export it again"
            )


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


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(_integer(x, 0, 1 << 31) for x in _list(value))


def _dims(value: Any) -> tuple[Dim, ...]:
    return tuple(x if x == "B" else _integer(x, 0, 1 << 31) for x in _list(value))


def _layer(x: Any) -> LayerSpec:
    return LayerSpec(
        _integer(x["neurons"], 1, 1 << 24),
        _integer(x["owned"], 0, 1 << 24),
        _shape(x["sum_shape"]),
        _number(x.get("dropout", 0.0), 1.0),
    )


def _edge(x: Any) -> EdgeSpec:
    return EdgeSpec(_integer(x["source"], 0, 1 << 16), _integer(x["target"], 0, 1 << 16), _flag(x["matched"]))


def _array(x: Any) -> ArraySpec:
    return ArraySpec(
        name=_string(x["name"]),
        layer=_integer(x["layer"], 0, 1 << 16),
        shape=_shape(x["shape"]),
        trained=_flag(x["trained"]),
        offset=_integer(x["offset"], 0, 1 << 31),
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
    times = (x.get(key) for key in ("portable_ms", "xnnpack_ms"))
    return BackendChoice(x["backend"], *(None if t is None else float(t) for t in times))


def _method(x: Any) -> MethodSpec:
    return MethodSpec(
        _string(x["name"]),
        tuple(_port(p) for p in _list(x["inputs"])),
        tuple(_port(p) for p in _list(x["outputs"])),
    )
