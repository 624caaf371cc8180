"""Where the time of a compiled step goes, operator by operator:

python -m benchmarks.train_step.operators [--model cnn] [--threads 1] [--apart] [--json FILE]

The program is cut to one instruction at a time, beside the views that give values their memory, at its
largest batch. Its operands are warm in the cache then, so the sum is a little less than the whole step. With
--apart XNNPACK gets every operation alone, by its name: such a program takes a little longer than ours.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from crowdlearn_export.lowering import backend, xnnpack_parts
from crowdlearn_export.lowering.shortcuts import replaced
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary
from executorch.exir.schema import DelegateCall, ExecutionPlan, Instruction, KernelCall, TensorList
from executorch.extension.pybindings import _portable_lib
from rich.console import Console
from rich.table import Table
from torch.fx.passes.infra.partitioner import Partition

from benchmarks.report import machine, write_rows

from .__main__ import compiled
from .cases import batch_of, products_alone

BATCH, REPEATS = 32, 25
HEAD = 40
"""Bytes with which a part of XNNPACK begins, where they may be written over."""
FREE = ("executorch_prim::", "aten::sym_size")
"""Instructions that only say where values are and how large."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step.operators", description=__doc__)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--apart", action="store_true", help="time the operations of XNNPACK one by one")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _portable_lib._unsafe_reset_threadpool(options.threads)
    kinds: dict[bytes, str] = {}
    if options.apart:
        with apart(kinds):
            step = compiled(options.model)
    else:
        step = compiled(options.model)
    inputs = [*map(torch.from_numpy, step["state"].values()), *batch_of(options.model, BATCH)]
    rows = [
        {"model": options.model, "threads": options.threads, **row}
        for row in measured(step["pte"], [*inputs, torch.tensor(0.01)], kinds)
    ]
    floor = products_alone(step["products"], options.threads)
    Console(width=None if sys.stdout.isatty() else 140).print(as_table(rows, floor), machine(), sep="\n")
    write_rows(options.json, [*rows, {"model": options.model, "operator": "PyTorch's products", "ms": floor}])


@contextmanager
def apart(kinds: dict[bytes, str]) -> Iterator[None]:
    """Have every operation of XNNPACK be a part of its own, meanwhile; `kinds` gets their names by their
    bytes.
    """

    def alone(self: Any, program: Any) -> list[Partition]:
        found = XnnpackPartitioner.generate_partitions(self, program)
        nodes = [node for whole in found for node in whole.nodes]
        return [Partition(id=number, nodes=[node]) for number, node in enumerate(nodes)]

    xnnpack_parts._bytes_of.clear()
    with replaced(backend._Partitioner, "generate_partitions", alone):
        yield
    for text, data in xnnpack_parts._bytes_of.items():
        names = re.findall(r"xnode_union=XNN(\w+)\(", text)
        kinds[data] = "XNNPACK " + " ".join(names)


def measured(
    pte: bytes, inputs: Sequence[torch.Tensor], kinds: Mapping[bytes, str], method: str = ""
) -> list[dict[str, Any]]:
    """One row an instruction of a method, the program's first or that of this name, and one of the whole:
    operator, shapes of its operands and results, milliseconds without those of an empty call. `kinds` are
    names of XNNPACK's parts, by their bytes.
    """
    file = deserialize_pte_binary(pte)
    plan = next(each for each in file.program.execution_plan if method in ("", each.name))
    file.program.execution_plan = [plan]
    chain, whole, delegates = plan.chains[0], plan.chains[0].instructions, plan.delegates
    data = file.program.backend_delegate_data
    views = [i for i in whole if described(plan, i)[0].startswith(FREE)]
    free = set(map(id, views))

    def timed(instructions: Sequence[Instruction]) -> float:
        # A method makes all its delegates when it is loaded: those that are not called are left out.
        called = [i.instr_args for i in instructions if isinstance(i.instr_args, DelegateCall)]
        kept = [delegates[call.delegate_index] for call in called]
        plan.delegates = [
            replace(made, processed=replace(made.processed, index=index)) for index, made in enumerate(kept)
        ]
        file.program.backend_delegate_data = [data[made.processed.index] for made in kept]
        place = {id(call): replace(call, delegate_index=index) for index, call in enumerate(called)}
        chain.instructions = [
            replace(i, instr_args=place.get(id(i.instr_args), i.instr_args)) for i in instructions
        ]
        program = bytes(serialize_pte_binary(file, extract_delegate_segments=True))
        method = _portable_lib._load_program_from_buffer(program).load_method(plan.name)
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            method.call(inputs, clone_outputs=False)
            times.append(time.perf_counter() - started)
        return quantiles(times, n=4)[0] * 1e3

    empty = timed(views)
    rows = [{"operator": "whole step", "shapes": "", "ms": round(timed(whole) - empty, 4)}]
    known: dict[tuple[str, str, bytes], float] = {}
    for instruction in whole:
        operator, shapes = described(plan, instruction)
        if operator.startswith(FREE):
            continue
        call, key = instruction.instr_args, (operator, shapes, b"")
        if isinstance(call, DelegateCall):
            part = bytes(data[delegates[call.delegate_index].processed.index].data)
            # What stands before a part's own bytes tells where its constants begin.
            operator = next((kind for own, kind in kinds.items() if own[HEAD:] in part), operator)
            key = (operator, shapes, part)
        if key not in known:
            known[key] = timed([i for i in whole if i is instruction or id(i) in free]) - empty
        rows.append({"operator": operator, "shapes": shapes, "ms": round(known[key], 4)})
    return rows


def described(plan: ExecutionPlan, instruction: Instruction) -> tuple[str, str]:
    """The operator of an instruction, and the shapes that it sees."""
    call = instruction.instr_args
    if isinstance(call, KernelCall):
        return plan.operators[call.op_index].name, " ".join(_shapes(plan, call.args))
    assert isinstance(call, DelegateCall)
    return "XNNPACK", " ".join(_shapes(plan, call.args))


def _shapes(plan: ExecutionPlan, values: Sequence[int]) -> Iterator[str]:
    for index in values:
        value = plan.values[index].val
        if isinstance(value, TensorList):
            yield from _shapes(plan, value.items)
        elif sizes := getattr(value, "sizes", None):
            yield "x".join(map(str, sizes))


def as_table(rows: Sequence[dict[str, Any]], floor: float | None = None) -> Table:
    """The dearest operators one by one, then the sum of each kind; `floor` are the milliseconds of its
    products alone.
    """
    whole, parts = rows[0]["ms"], sorted(rows[1:], key=lambda row: -row["ms"])
    products = "" if floor is None else f"; its products alone, in PyTorch, {floor:.2f} ms"
    table = Table(title=f"whole step {whole:.2f} ms{products}")
    for name in ("operator", "ms", "shapes"):
        table.add_column(name, justify="right" if name == "ms" else "left")
    for row in parts:
        if row["ms"] >= 0.01 * whole:
            table.add_row(row["operator"], f"{row['ms']:.2f}", row["shapes"])
    kinds: dict[str, float] = {}
    for row in parts:
        kinds[row["operator"]] = kinds.get(row["operator"], 0.0) + row["ms"]
    table.add_section()
    for kind, ms in sorted(kinds.items(), key=lambda pair: -pair[1]):
        if ms >= 0.001 * whole:
            table.add_row(f"all {kind}", f"{ms:.2f}", "")
    return table


if __name__ == "__main__":
    main()
