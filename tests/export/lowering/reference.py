"""What lowered graphs and programs are compared with: float64 autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import Backend
from crowdlearn_export.compiler.compile import compile_lowered, lower_methods
from crowdlearn_export.compiler.method import Method
from crowdlearn_export.lowering.lower import lower
from torch import Tensor

BOUND = 1e-5
"""Largest difference over the largest exact value."""

Function = Callable[..., Tensor]


def with_gradients(function: Function, given: Sequence[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """`function` and its gradients for a fixed cotangent, with respect to every floating-point input."""
    wanted = [i for i, t in enumerate(given) if t.is_floating_point()]

    def joint(*inputs: Tensor) -> tuple[Tensor, ...]:
        def of_wanted(*values: Tensor) -> Tensor:
            whole = list(inputs)
            for i, value in zip(wanted, values, strict=True):
                whole[i] = value
            return function(*whole)

        out, vjp = torch.func.vjp(of_wanted, *(inputs[i] for i in wanted))
        return (out, *vjp(torch.cos(out.detach() * 3 + 1)))

    return joint


def exact(function: Function, given: Sequence[Tensor]) -> list[Tensor]:
    """The same by autograd in float64."""
    leaves = [t.double().requires_grad_() if t.is_floating_point() else t for t in given]
    out = function(*leaves)
    wanted = [leaf for leaf in leaves if leaf.is_floating_point()]
    return [out.detach(), *torch.autograd.grad(out, wanted, torch.cos(out.detach() * 3 + 1))]


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """The value against its own largest entry, gradients against the largest of them all."""
    for values, references in ((found[:1], expected[:1]), (found[1:], expected[1:])):
        scale = max([1e-3, *(float(r.abs().max()) for r in references if r.numel())])
        for value, reference in zip(values, references, strict=True):
            assert value.shape == reference.shape
            error = float((value.double() - reference).abs().max()) / scale
            assert error <= BOUND, f"relative error {error:.1e} in shape {tuple(value.shape)}"


def assert_lowers(function: Function, given: Sequence[Tensor], batched: Sequence[int] = (0,)) -> None:
    """The lowered graph of value and gradients agrees with autograd."""
    module = lower(with_gradients(function, given), given, batched)
    assert_close(module(*given), exact(function, given))


def assert_compiles(function: Function, given: Sequence[Tensor], batched: Sequence[int] = (0,)) -> None:
    """The compiled program agrees with autograd at several batches, on repeated calls, on either backend."""
    top = given[batched[0]].shape[0]
    method = Method("joint", with_gradients(function, given), tuple(given), tuple(batched))
    lowered = lower_methods([method])
    backends: tuple[Backend, ...] = ("portable", "xnnpack")
    for backend in backends:
        program = compile_lowered([method], lowered, {method.name: backend}, top)
        executor = ExecuTorchExecutor(program.pte)
        for batch in (top, 1, top - 1):
            part = [t[:batch] if i in batched else t for i, t in enumerate(given)]
            for _ in range(2):
                found = executor.run("joint", [np.ascontiguousarray(t.numpy()) for t in part])
                assert_close([torch.from_numpy(v) for v in found], exact(function, part))
