"""Outputs that are inputs, views of them or constants, and values that several outputs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import Method
from torch import Tensor

FIXED = torch.arange(12.0).reshape(3, 4)
Function = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]

PLAIN: dict[str, Function] = {
    "an input": lambda x, w, v: (x,),
    "a view of an input": lambda x, w, v: (x.reshape(-1, 2, 2), w.reshape(4, 3), x.unsqueeze(0)),
    "an input twice, which is read": lambda x, w, v: (x, x, x @ w.t()),
    "inputs, and a view, which are read": lambda x, w, v: (x @ w.t(), w, x, w.view(-1)),
    "copies that are none": lambda x, w, v: (x.clone(), w.contiguous(), v.detach(), x.expand_as(x)),
    "a part and the whole": lambda x, w, v: (w[:2], w.t(), x.chunk(1, 1)[0], torch.cat([x])),
    "a constant, which is read": lambda x, w, v: (x @ FIXED.t(), FIXED, FIXED.reshape(2, 6)),
    "a result twice and its view": lambda x, w, v: ((y := x @ w.t()), y, y.reshape(-1)),
}
UPDATED: dict[str, tuple[Function, Mapping[int, int]]] = {
    "inputs exchanged": (lambda x, w, v: (x.sum(), v, w), {1: 1, 2: 2}),
    "one input over another": (lambda x, w, v: (x @ w.t(), v, v), {1: 1, 2: 2}),
    "an input over itself": (lambda x, w, v: (x @ w.t(), w, v - 1, w, v.view(-1)), {1: 1, 2: 2}),
    "one result over two": (lambda x, w, v: (w + v, (y := w * 2 + v), y, y), {1: 1, 2: 2}),
    "a result and its view": (
        lambda x, w, v: (x.sum(), (y := w * 2), y.reshape(3, 4), y.view(-1), w.view(-1)),
        {1: 1, 2: 2},
    ),
    "an old value returned": (lambda x, w, v: (w, w - 1, v.view(-1), v * 2), {1: 1, 3: 2}),
    "constants": (lambda x, w, v: (FIXED, FIXED, FIXED * v, w), {1: 1, 2: 2}),
}


@pytest.mark.parametrize("backend", ["portable", "xnnpack"])
@pytest.mark.parametrize("what", [*PLAIN, *UPDATED])
def test_an_output_may_be(what: str, backend: str) -> None:
    function, updates = UPDATED[what] if what in UPDATED else (PLAIN[what], {})
    draw = torch.Generator().manual_seed(0)
    shapes = ((5, 4), (3, 4), (3, 4))
    example = tuple(torch.randn(shape, generator=draw) for shape in shapes)
    method = Method("m", function, example, (0,), updates)
    executor = ExecuTorchExecutor(compile_program([method], max_batch=9, backend=backend).pte)  # type: ignore[arg-type]
    for batch in (5, 9, 1):
        inputs = [torch.randn((batch, 4), generator=draw), *example[1:]]
        given = [x.numpy().copy() for x in inputs]
        for _ in range(2):  # the second call finds what the first one left
            expected = function(*(torch.from_numpy(x.copy()) for x in given))
            returned = iter(executor.run("m", given))
            for i, value in enumerate(expected):
                found = given[updates[i]] if i in updates else next(returned)
                np.testing.assert_allclose(found, value.numpy(), rtol=1e-5, atol=1e-5)
