"""One ExecuTorch program from programs of one method each.

A program holds a plan for each method, and constants and delegates' data that the plans refer to by number.
Linking puts the plans side by side and numbers what they refer to anew; what is equal is kept once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from executorch.exir import schema
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary, serialize_pte_binary

ALIGNMENT = 16
"""The alignment of data that delegates name, in bytes: XNNPACK's, which a serialized program does not
hold.
"""


def link(programs: Mapping[str, bytes]) -> bytes:
    """Link programs of one method each, by the name that the method gets, and return the .pte of all.

    One .pte may serve under several names. Its arena is as large as the largest of theirs.
    """
    constants, delegates, named = _Numbered(), _Numbered(), NamedDataStore()
    constants.number(b"")  # number 0 stands for memory that is no constant
    plans: list[schema.ExecutionPlan] = []
    version = 0
    for name in sorted(programs):
        one: PTEFile = deserialize_pte_binary(programs[name])
        (plan,) = one.program.execution_plan
        assert one.mutable_data is None
        version = one.program.version
        stored = [buffer.storage for buffer in one.program.constant_buffer]
        for value in plan.values:
            tensor: Any = value.val
            if isinstance(tensor, schema.Tensor) and tensor.data_buffer_idx:
                tensor.data_buffer_idx = constants.number(stored[tensor.data_buffer_idx])
        for delegate in plan.delegates:
            data = one.program.backend_delegate_data[delegate.processed.index].data
            delegate.processed.index = delegates.number(data)
        if one.named_data is not None:
            for key, entry in one.named_data.pte_data.items():
                named.add_named_data(key, one.named_data.buffers[entry.buffer_index], ALIGNMENT)
        plans.append(replace(plan, name=name))
    program = schema.Program(
        version=version,
        execution_plan=plans,
        constant_buffer=[schema.Buffer(data) for data in constants.distinct],
        backend_delegate_data=[schema.BackendDelegateInlineData(data) for data in delegates.distinct],
        segments=[],
        constant_segment=schema.SubsegmentOffsets(segment_index=0, offsets=[]),
    )
    output = named.get_named_data_store_output()
    linked = PTEFile(program, named_data=output if output.buffers else None)
    return bytes(serialize_pte_binary(linked, extract_delegate_segments=True))


class _Numbered:
    """Distinct bytes, numbered in the order in which they first came."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def number(self, data: bytes) -> int:
        return self._numbers.setdefault(data, len(self._numbers))

    @property
    def distinct(self) -> list[bytes]:
        return list(self._numbers)
