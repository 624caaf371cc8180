"""Sums: right at every batch, exact however long, and inside XNNPACK where they are large."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import Method
from crowdlearn_export.lowering.backend import LARGE_SUM
from crowdlearn_export.lowering.lower import lower
from crowdlearn_export.lowering.passes.mean import LONG, sums_in_stages

from .reference import BOUND

aten = torch.ops.aten

SUMS = {
    "rows of a batch": (lambda x: x.reshape(-1, 24).sum(0), (8, 256, 24)),
    "rows of each sample": (lambda x: x.sum(1), (8, 256, 24)),
    "all of a channel": (lambda x: torch.tanh(x).permute(1, 0, 2).sum([1, 2]), (8, 12, 512)),
    "all of a channel by itself": (lambda x: x.permute(1, 0, 2).reshape(12, -1).sum(1), (8, 12, 512)),
    "numbers of each sample": (lambda x: x.sum([1, 2]), (8, 96, 64)),
    "mean of rows of a batch": (lambda x: x.reshape(-1, 24).mean(0), (8, 256, 24)),
    "mean of a channel by itself": (lambda x: x.permute(1, 0, 2).reshape(12, -1).mean(1), (8, 12, 512)),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_right_at_every_batch_and_on_repeated_calls(name):
    function, shape = SUMS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    assert x.numel() >= LARGE_SUM
    method = Method("sum", lambda x: (function(x),), (x,), (0,))
    executor = ExecuTorchExecutor(compile_program([method], max_batch=8, backend="xnnpack").pte)
    for batch in (8, 1, 5):
        for _ in range(2):
            (found,) = executor.run("sum", [np.ascontiguousarray(x[:batch].numpy())])
            exact = function(x[:batch].double())
            assert float((torch.from_numpy(found) - exact).abs().max()) <= BOUND * float(exact.abs().max())


def targets(module):
    return {node.target for node in module.graph.nodes}


def test_only_large_sums_become_means():
    x = torch.randn(8, 64, 4)
    module = lower(lambda x: x.reshape(-1, 4).sum(0), (x,), (0,))
    small, large = (sums_in_stages(module, x.numel() + more, len(x)) for more in (1, 0))
    assert aten.sum.dim_IntList in targets(small)
    assert aten.mean.dim not in targets(small)
    assert aten.mean.dim in targets(large)
    # The batch alone cannot be split, and four numbers side by side are too few for XNNPACK.
    narrow = lower(lambda x: x.reshape(-1, 4).sum(0), (torch.randn(8, 4),), (0,))
    assert aten.mean.dim not in targets(sums_in_stages(narrow, 1, 8))


def test_only_long_sums_have_two_stages():
    def sums(rows):
        module = lower(lambda x: x.reshape(-1, 4).sum(0), (torch.randn(3, rows // 3, 4),), (0,))
        staged = sums_in_stages(module, float("inf"), 3)
        return sum(node.target is aten.sum.dim_IntList for node in staged.graph.nodes)

    assert sums(LONG // 3 * 3) == 1
    assert sums(LONG + 2) == 2


@pytest.mark.parametrize(("pixels", "channels"), [(1024, 16), (64, 64), (16, 8)])
def test_a_mean_of_many_is_nearly_as_exact_as_one_number(pixels, channels):
    """Added one by one, they are 4e-06 off."""
    x = torch.randn(32, pixels, channels, generator=torch.Generator().manual_seed(0)) + 0.5
    method = Method("sum", lambda x: (x.reshape(-1, channels).sum(0),), (x[:6],), (0,))
    exact = x.double().sum((0, 1))
    for backend in ("xnnpack", "portable"):
        executor = ExecuTorchExecutor(compile_program([method], max_batch=32, backend=backend).pte)
        (found,) = executor.run("sum", [x.numpy()])
        assert float((torch.from_numpy(found) / exact - 1).abs().max()) <= 6e-7, backend


@pytest.mark.parametrize("backend", ["xnnpack", "portable"])
def test_the_mean_of_a_depthwise_map_is_as_exact(backend):
    """It is far from 0 behind a ReLU6, and the variance small beside it: added one by one, scores of three
    such layers were 2e-05 off.
    """
    x = torch.rand(16, 32, 256, generator=torch.Generator().manual_seed(0)) + 5
    method = Method("mean", lambda x: (x.permute(1, 0, 2).reshape(32, -1).mean(1),), (x[:6],), (0,))
    executor = ExecuTorchExecutor(compile_program([method], max_batch=16, backend=backend).pte)
    (found,) = executor.run("mean", [x.numpy()])
    assert float((torch.from_numpy(found) / x.double().mean((0, 2)) - 1).abs().max()) <= 6e-7


@pytest.mark.parametrize(("channels", "pixels"), [(96, 16), (16, 32)])
def test_batch_norm_of_whole_maps_is_nearly_as_exact_as_in_pytorch(channels, pixels):
    """Sums over samples and pixels at once, added one by one, are 1e-05 off."""
    x = torch.randn(16, channels, pixels, pixels, generator=torch.Generator().manual_seed(0)).relu()

    def norm(x):
        mean, variance = (make(channels, dtype=x.dtype) for make in (torch.zeros, torch.ones))
        return (torch.nn.functional.batch_norm(x, mean, variance, training=True),)

    for backend in ("xnnpack", "portable"):
        executor = ExecuTorchExecutor(
            compile_program([Method("norm", norm, (x,), (0,))], max_batch=16, backend=backend).pte
        )
        for batch in (16, 5):
            (found,) = executor.run("norm", [x[:batch].numpy().copy()])
            exact = norm(x[:batch].double())[0]
            assert float((torch.from_numpy(found) - exact).abs().max() / exact.abs().max()) <= 6e-7, backend
