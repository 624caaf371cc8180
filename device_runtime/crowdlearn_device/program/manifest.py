"""The manifest of a slice program: what its methods take and give, and how layers of the network are joined.

A program serves every piece of its *shape* (neurons per layer). Weights are inputs: exporting once per shape
is enough.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.optimizers.registry import SLOTS, described
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.protocol.targets import CLASSES, TargetSpec

FORMAT = 9
LOSS, TRAIN_STEP, PREDICT, METRICS = "loss", "train_step", "predict", "metrics"
STATE = frozenset({"parameter", "buffer"}) | SLOTS
HELD = STATE | {"frozen"}
CLIPS = frozenset({"factor", "clip", "square"})
ROLES = HELD | CLIPS | {
    "sum", "error", "mask", "labels", "scale", "rate", "gradient", "loss", "logits", "metric"
}  # fmt: skip
"""The roles of an input or output. sum: a layer's summed input, or (as output) the product on an edge. error:
the loss's derivative with respect to the sums of a layer. parameter, buffer (which training changes), frozen,
gradient, and what optimizers keep, as momentum: of the array named `name`. rate: a number of the optimizer's
step, by its name. metric: one of a user's own, by its name, of each sample. For steps of DP-SGD, square: of
the norm of each sample's gradient of what the method takes; clip: the largest norm, to which `loss` clips
them by that; factor: by what it multiplies each sample's gradient then.
"""

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
    no other from their sums to their gradients; `train_step`, which writes new parameters, buffers and what
    the optimizer keeps over those that it is given.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class LayerSpec:
    """A layer of the whole network, and how many of its neurons this shape of piece owns.

    `dropped` is the shape of one neuron's dropout factors for one sample: () if it is dropped as a whole.
    `dtype` is that of what enters it: int64 if samples are whole numbers.
    """

    neurons: int
    owned: int
    sum_shape: tuple[int, ...]
    dropout: float = 0.0
    dropped: tuple[int, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True)
class EdgeSpec:
    """An edge of the whole network. `matched` edges (identity, depthwise) join neuron i to neuron i only; on
    `taught` ones errors come back, for something learns there or before.
    """

    source: int
    target: int
    matched: bool = False
    taught: bool = True


@dataclass(frozen=True)
class ArraySpec:
    """An array of the piece's state. Dimension 0 is the layer's owned neurons; `shape` is one
    neuron's part. `offset` is where the whole model's array begins in the vector of all its weights. What is
    neither `trained` nor `frozen` is running statistics. Devices hold it as `dtype`: frozen arrays may be
    float16, or int8 beside an array of spacings, one for each row.
    """

    name: str
    layer: int
    shape: tuple[int, ...]
    trained: bool
    offset: int = 0
    frozen: bool = False
    dtype: str = "float32"

    @property
    def role(self) -> str:
        """Return what a method that takes it calls it."""
        return "parameter" if self.trained else "frozen" if self.frozen else "buffer"


@dataclass(frozen=True)
class BackendChoice:
    """The backend that the size of a method's products suggests. If either may be the faster, `other` is the
    method of the same ports that runs on the other one: devices choose (kernels.py).
    """

    backend: Backend
    other: str = ""


@dataclass(frozen=True)
class PieceShape:
    """The shape that pieces of one program have in common; `ports` says what their methods take and give for
    it.
    """

    layers: tuple[LayerSpec, ...]
    edges: tuple[EdgeSpec, ...]
    arrays: tuple[ArraySpec, ...]
    targets: TargetSpec = field(default=CLASSES, kw_only=True)


@dataclass(frozen=True)
class Manifest(PieceShape):
    """Everything a device must know of a program beside its bytes."""

    program: str
    max_batch: int
    methods: tuple[MethodSpec, ...]
    optimizer: Optimizer = field(default_factory=Sgd, kw_only=True)
    arena_bytes: int = 0
    workspace_bytes: int = 0
    operators: tuple[str, ...] = ()
    parity: Mapping[str, float] | None = None
    backends: Mapping[str, BackendChoice] = field(default_factory=dict)

    @property
    def squares(self) -> bool:
        """Return whether methods give the norms of samples' gradients, for steps of DP-SGD."""
        return any(port.role == "square" for method in self.methods for port in method.outputs)

    def method(self, name: str) -> MethodSpec:
        for method in self.methods:
            if method.name == name:
                return method
        raise ProgramError(f"program {self.program[:12]} has no method {name}; export it again")

    def to_json(self) -> str:
        fields = {"format": FORMAT, **asdict(self), "optimizer": described(self.optimizer)}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """Return the hash that names the manifest, and through `program` the .pte."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
