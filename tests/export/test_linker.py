"""Programs of one method each, put together, compute what they computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_export.compiler.compile import compile_program, linked
from crowdlearn_export.compiler.method import Method
from executorch.exir._serialize._program import deserialize_pte_binary
from torch import Tensor
from torch.nn.functional import conv2d

X, W, K, FIXED = torch.randn(5, 4), torch.randn(3, 4), torch.randn(2, 1, 3, 3), torch.randn(3, 4)
METHODS = [
    Method("product", lambda x, w: (x @ w.t(), torch.relu(x)), (X, W), (0,)),
    Method("constant", lambda x: (x @ FIXED.t() + FIXED.sum(),), (X,), (0,)),
    Method("map", lambda x, k: (conv2d(x.reshape(-1, 1, 2, 2), k, padding=1),), (X, K), (0,)),
    Method("update", lambda x, w: (x.sum(), w - 0.5), (X, W), (0,), {1: 1}),
]


def test_methods_that_are_linked_compute_what_they_did_alone() -> None:
    for backend in ("portable", "xnnpack"):
        alone = {m.name: compile_program([m], max_batch=7, backend=backend) for m in METHODS}
        together = linked({**alone, "again": alone["map"], "twice": alone["constant"]})
        executor = ExecuTorchExecutor(together.pte)
        for name, method in {m.name: m for m in METHODS}.items():
            inputs = [torch.randn(7, 4).numpy(), *(x.numpy() for x in method.example[1:])]
            one, other = ([x.copy() for x in inputs] for _ in range(2))
            expected = ExecuTorchExecutor(alone[name].pte).run(name, one)
            for found, value in zip((*executor.run(name, other), *other), (*expected, *one), strict=True):
                np.testing.assert_array_equal(found, value)
        assert together.arena_bytes == max(one.arena_bytes for one in alone.values())


def test_what_two_methods_share_is_kept_once() -> None:
    one = compile_program([METHODS[2]], max_batch=7, backend="xnnpack")
    many = linked({f"map{i}": one for i in range(20)})
    program, alone = (deserialize_pte_binary(of.pte).program for of in (many, one))
    assert len(program.execution_plan) == 20
    assert program.constant_buffer == alone.constant_buffer
    assert many.operators == one.operators


def test_a_program_of_many_methods_compiles_in_time_and_memory_of_their_number() -> None:
    """ExecuTorch's list of preserved operators doubled with every method: 30 of them never ended."""

    def times(factor: float) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
        return lambda x, w: (torch.tanh(x @ w.t()) * factor,)

    methods = [Method(f"m{i}", times(i + 1.0), (X, W), (0,)) for i in range(30)]
    executor = ExecuTorchExecutor(compile_program(methods, max_batch=7).pte)
    for method in methods:
        (found,) = executor.run(method.name, [x.numpy() for x in method.example])
        np.testing.assert_allclose(found, method.function(*method.example)[0].numpy(), rtol=1e-5)
