"""The check of a program before it is loaded: ExecuTorch trusts what stands in the file.

Offsets lie in the file, indices in what they count, tensors in the memory planned for them, constants in
their segments; operators and backends are those that the exporter writes. What remains is the meaning of
each operator's arguments, and the inside of what a backend compiled.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from crowdlearn_device.errors import ProgramError

from .flatbuffer import Flatbuffer, Table, Union
from .manifest import Manifest
from .operators import ALLOWED

BACKENDS = frozenset({"XnnpackBackend"})
ITEM_BYTES = {0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 11: 1}
"""Bytes of an element by ExecuTorch's number of its type: uint8, int8, int16, int32, int64, float16, float32,
float64, bool.
"""
MAX_RANK, MAX_BYTES = 16, 1 << 40
HEADER = struct.Struct("<4sIQQ")
HEADER_AT, HEADER_MARK = 8, b"eh00"

_TENSOR_VALUE = (
    ("scalar_type", "i8"), ("storage_offset", "i32"), ("sizes", ("vector", "i32")),
    ("dim_order", ("vector", "u8")), ("requires_grad", "bool"), ("data_buffer_idx", "u32"),
    ("allocation_info", "Allocation"), ("layout", "i8"), ("shape_dynamism", "i8"), ("extra", "Extra"),
)  # fmt: skip
SCHEMA = {
    "Program": (
        ("version", "u32"), ("plans", ("vector", "Plan")), ("constant_buffer", ("vector", "Buffer")),
        ("inline", ("vector", "Buffer")), ("segments", ("vector", "Segment")), ("constants", "Offsets"),
        ("mutable", ("vector", "Offsets")), ("named", ("vector", "Named")),
    ),
    "Plan": (
        ("name", "string"), ("container", "Container"), ("values", ("vector", "Value")),
        ("inputs", ("vector", "i32")), ("outputs", ("vector", "i32")), ("chains", ("vector", "Chain")),
        ("operators", ("vector", "Operator")), ("delegates", ("vector", "Delegate")),
        ("buffers", ("vector", "i64")), ("buffer_devices", ("vector", "BufferDevice")),
    ),
    "Buffer": (("storage", ("vector", "u8")),),
    "Segment": (("offset", "u64"), ("size", "u64")),
    "Offsets": (("segment", "u32"), ("offsets", ("vector", "u64"))),
    "Named": (("key", "string"), ("segment", "u32")),
    "Container": (("inputs", "string"), ("outputs", "string")),
    "Value": ((
        "value",
        ("union", "Null", "Int", "Bool", "Double", "Tensor", "String", "IntList", "DoubleList", "BoolList",
         "TensorList", "OptionalTensorList"),
    ),),
    "Null": (), "Int": (("value", "i64"),), "Bool": (("value", "bool"),), "Double": (("value", "f64"),),
    "Tensor": _TENSOR_VALUE, "String": (("value", "string"),), "IntList": (("items", ("vector", "i64")),),
    "DoubleList": (("items", ("vector", "f64")),), "BoolList": (("items", ("vector", "bool")),),
    "TensorList": (("items", ("vector", "i32")),), "OptionalTensorList": (("items", ("vector", "i32")),),
    "Allocation": (("memory", "u32"), ("low", "u32"), ("high", "u32")),
    "Extra": (
        ("mutable_segment", "u64"), ("name", "string"), ("location", "i8"), ("device", "i8"),
        ("device_index", "i8"),
    ),
    "Chain": (
        ("inputs", ("vector", "i32")), ("outputs", ("vector", "i32")),
        ("instructions", ("vector", "Instruction")), ("stacktrace", ("vector", "Frames")),
    ),
    "Instruction": (("call", ("union", "Kernel", "Delegated", "Move", "JumpFalse", "Free")),),
    "Kernel": (("operator", "i32"), ("arguments", ("vector", "i32"))),
    "Delegated": (("delegate", "i32"), ("arguments", ("vector", "i32"))),
    "Move": (("source", "i32"), ("target", "i32")),
    "JumpFalse": (("condition", "i32"), ("to", "i32")),
    "Free": (("value", "i32"),),
    "Frames": (("items", ("vector", "Frame")),),
    "Frame": (("file", "string"), ("line", "i32"), ("name", "string"), ("context", "string")),
    "Operator": (("name", "string"), ("overload", "string")),
    "Delegate": (("id", "string"), ("processed", "Processed"), ("specs", ("vector", "CompileSpec"))),
    "Processed": (("inline", "i8"), ("index", "u32")),
    "CompileSpec": (("key", "string"), ("value", ("vector", "u8"))),
    "BufferDevice": (("buffer", "i32"), ("device", "i8"), ("device_index", "i8")),
}  # fmt: skip
"""ExecuTorch's program.fbs, version 0, in this project's words."""


@dataclass(frozen=True)
class Verified:
    """The methods of a program, each with the numbers of its inputs and outputs, and the operators."""

    methods: dict[str, tuple[int, int]]
    operators: frozenset[str]


def verify_for(manifest: Manifest, pte: bytes) -> None:
    """Raise ProgramError unless `pte` may be loaded and has the manifest's methods, with their arrays."""
    found = verify_program(pte).methods
    for method in manifest.methods:
        due = len(method.inputs), len(method.outputs)
        choice = manifest.backends.get(method.name)
        for name in (method.name, *([choice.other] if choice and choice.other else [])):
            if (has := found.get(name)) != due:
                there = "does not have" if has is None else f"has with {has[0]} inputs and {has[1]} outputs"
                raise ProgramError(
                    f"the program {there} method {name} of {due[0]} inputs and {due[1]} outputs; "
                    "export and push it again"
                )


def verify_program(pte: bytes) -> Verified:
    """Return what a program holds. Raises ProgramError, which says what is wrong, if it may not be loaded."""
    try:
        return _verified(pte)
    except ProgramError as error:
        raise ProgramError(
            f"the program cannot be loaded safely: {error}; export and push it again"
        ) from error


def _verified(pte: bytes) -> Verified:
    whole = memoryview(pte)
    size, base = len(pte), len(pte)
    if pte[HEADER_AT : HEADER_AT + 4] == HEADER_MARK and len(pte) >= HEADER_AT + HEADER.size:
        _, _, size, base = HEADER.unpack_from(pte, HEADER_AT)
        if not HEADER_AT <= size <= len(pte) or base > len(pte):
            raise ProgramError(f"{size} bytes of program and segments from {base}, of {len(pte)} in all")
        base = base or len(pte)
    program = Flatbuffer(whole[:size], SCHEMA).root("Program")
    _require(program["version"] == 0, f"version {program['version']} is none that is known")
    segments = [(s["offset"], s["size"]) for s in program["segments"]]
    for offset, length in segments:
        _require(offset + length <= len(pte) - base, f"a segment of {length} bytes at {offset} is outside")
    _require(not program["mutable"], "its tensors have values at first")
    _require(all(n["segment"] < len(segments) for n in program["named"]), "named data is in no segment")
    constants = _constants(program, segments)
    methods: dict[str, tuple[int, int]] = {}
    operators: set[str] = set()
    for plan in program["plans"]:
        _require(plan["name"].isidentifier() and plan["name"] not in methods, "its methods have no names")
        _Plan(plan, constants, len(program["inline"]), len(segments)).check()
        operators |= {operator["name"] for operator in plan["operators"]}
        methods[plan["name"]] = len(plan["inputs"]), len(plan["outputs"])
    return Verified(methods, frozenset(operators))


def _constants(program: Table, segments: Sequence[tuple[int, int]]) -> list[int]:
    """Return the bytes that each constant may take at most."""
    constants = program["constants"]
    if constants is None or not constants["offsets"]:
        return [len(buffer["storage"]) for buffer in program["constant_buffer"]]
    _require(constants["segment"] < len(segments), "its constants are in no segment")
    size = segments[constants["segment"]][1]
    _require(all(offset <= size for offset in constants["offsets"]), "a constant is outside of its segment")
    return [size - offset for offset in constants["offsets"]]


class _Plan:
    """One method."""

    def __init__(self, plan: Table, constants: Sequence[int], inline: int, segments: int) -> None:
        self._plan, self._constants = plan, constants
        self._data = {0: inline, 1: segments}
        self._values: list[Union | None] = [value["value"] for value in plan["values"]]
        self._kinds = [value.kind if value else "" for value in self._values]

    def check(self) -> None:
        """Raise ProgramError if anything does not go together."""
        plan = self._plan
        buffers = plan["buffers"]
        _require(all(0 <= size < MAX_BYTES for size in buffers), f"buffers of {list(buffers)} bytes")
        _require(all(d["device"] == 0 for d in plan["buffer_devices"]), "its memory is not the processor's")
        for value in self._values:
            if value is not None:
                self._check_value(value)
        self._check_indices((*plan["inputs"], *plan["outputs"]))
        _require(len(set(plan["inputs"])) == len(plan["inputs"]), "an input is given twice")
        for operator in plan["operators"]:
            name = f"{operator['name']}.{operator['overload']}".rstrip(".")
            _require(name in ALLOWED, f"operator {name[:80]} is not one that devices run")
        for delegate in plan["delegates"]:
            self._check_delegate(delegate)
        _require(len(plan["chains"]) == 1, f"method {plan['name']} has {len(plan['chains'])} chains")
        for chain in plan["chains"]:
            self._check_indices((*chain["inputs"], *chain["outputs"]))
            for instruction in chain["instructions"]:
                self._check_call(instruction["call"], len(chain["instructions"]))

    def _check_indices(self, indices: Iterable[int], kinds: frozenset[str] | None = None) -> None:
        count = len(self._values)
        for index in indices:
            if not 0 <= index < count:
                raise ProgramError(f"value {index} of {count}")
            if kinds is not None and self._kinds[index] not in kinds:
                raise ProgramError(f"value {index} is of kind {self._kinds[index] or 'none'}")

    def _check_value(self, value: Union) -> None:
        if value.kind == "Tensor":
            self._check_tensor(value.table)
        elif value.kind == "IntList":
            self._check_indices(value.table["items"], frozenset({"Int"}))
        elif value.kind == "TensorList":
            self._check_indices(value.table["items"], frozenset({"Tensor"}))
        elif value.kind == "OptionalTensorList":
            given = [index for index in value.table["items"] if index != -1]
            self._check_indices(given, frozenset({"Tensor", "Null"}))

    def _check_tensor(self, tensor: Table) -> None:
        sizes, order = tensor["sizes"], bytes(tensor["dim_order"])
        item = ITEM_BYTES.get(tensor["scalar_type"])
        if item is None:
            raise ProgramError(f"a tensor is of type {tensor['scalar_type']}")
        _require(
            len(sizes) <= MAX_RANK and all(size >= 0 for size in sizes), f"a tensor of sizes {sizes[:20]}"
        )
        _require(sorted(order) == list(range(len(sizes))), f"a tensor's order is {list(order[:20])}")
        _require(tensor["storage_offset"] == 0, "a tensor begins within its memory")
        _require(tensor["shape_dynamism"] in (0, 1), "a tensor's shape has no bound")
        size = prod(sizes) * item
        _require(size < MAX_BYTES, f"a tensor of {size} bytes")
        extra = tensor["extra"]
        here = extra is None or (extra["location"], extra["device"]) == (0, 0)
        _require(here, "a tensor is outside of the program")
        number, memory = tensor["data_buffer_idx"], tensor["allocation_info"]
        if number:
            _require(memory is None, "a constant is in memory that changes")
            room = self._constants[number] if number < len(self._constants) else -1
            _require(size <= room, f"constant {number} of {size} bytes is outside")
        if memory is not None:
            buffers = self._plan["buffers"]
            where = memory["memory"]
            _require(0 < where < len(buffers), f"memory {where} of {len(buffers)}")
            start = memory["low"] + (memory["high"] << 32)
            _require(
                start + size <= buffers[where], f"a tensor of {size} bytes at {start} of {buffers[where]}"
            )

    def _check_delegate(self, delegate: Table) -> None:
        _require(delegate["id"] in BACKENDS, f"backend {delegate['id'][:80]} is not one that devices have")
        processed = delegate["processed"]
        most = -1 if processed is None else self._data.get(processed["inline"], -1)
        _require(processed is not None and processed["index"] < most, "what a backend compiled is not there")

    def _check_call(self, call: Any, instructions: int) -> None:
        if call is None:
            raise ProgramError("an instruction is none")
        kind, arguments = call
        if kind in ("Kernel", "Delegated"):
            which = "operators" if kind == "Kernel" else "delegates"
            number, count = arguments["operator" if kind == "Kernel" else "delegate"], len(self._plan[which])
            _require(0 <= number < count, f"{which} {number} of {count}")
            self._check_indices(arguments["arguments"])
        elif kind == "Move":
            self._check_indices((arguments["source"], arguments["target"]))
        elif kind == "Free":
            self._check_indices((arguments["value"],), frozenset({"Tensor"}))
        else:
            self._check_indices((arguments["condition"],), frozenset({"Bool", "Tensor"}))
            _require(0 <= arguments["to"] < instructions, f"instruction {arguments['to']} of {instructions}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ProgramError(otherwise)
