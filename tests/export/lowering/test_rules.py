"""Each rule's value and gradients equal float64 autograd, over random shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from crowdlearn_export.lowering.lower import lower
from crowdlearn_export.lowering.rules.depthwise import WIDEST
from crowdlearn_export.lowering.rules.loss import SMALL
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from .reference import assert_lowers, exact, with_gradients

quick = settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
few = st.integers(1, 4)


def test_index():
    table = torch.arange(20).reshape(5, 4)
    rows, at = torch.tensor([[0], [4], [2]]), torch.tensor([[1, -1]])
    module = lower(lambda rows, table: table[rows, at], [rows, table], [0])
    assert torch.equal(module(rows, table), table[rows, at])


@pytest.mark.parametrize(("dim", "picked"), [(1, 1), (1, 3), (2, 2), (-1, 4)])
def test_gather(dim, picked):
    sizes = {dim: picked} if dim > 0 else {2: picked}
    shape = [sizes.get(at, size) for at, size in enumerate((3, 5, 4))]
    index = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(0))
    assert_lowers(lambda x, index: x.gather(dim, index) * 2, [spread(3, 5, 4), index], (0, 1))


def spread(*shape: int, seed: int = 0) -> torch.Tensor:
    """Distinct values far from each other and from zero, in random order: no kink of relu or max is near."""
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return ((order.float() + 0.37) / count * 4 - 2).reshape(shape)


@quick
@given(
    kernel=st.tuples(few, few),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    channels=st.tuples(few, few),
    bias=st.booleans(),
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)),
)
def test_convolution(kernel, stride, padding, dilation, channels, bias, size):
    assume(all(size[i] + 2 * padding[i] > dilation[i] * (kernel[i] - 1) for i in (0, 1)))
    inputs = [spread(3, channels[0], *size), spread(channels[1], channels[0], *kernel, seed=1)]
    inputs += [spread(channels[1], seed=2)] if bias else []

    def function(x, w, b=None):
        return F.conv2d(x, w, b, stride, padding, dilation)

    assert_lowers(function, inputs)


@quick
@given(
    kernel=st.tuples(st.integers(2, 4), few),
    stride=st.integers(1, 2),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    bias=st.booleans(),
)
def test_convolution_with_columns_along_the_width_alone(kernel, stride, padding, dilation, bias):
    inputs = [spread(3, 5, 7, 8), spread(2, 5, *kernel, seed=1), *([spread(2, seed=2)] if bias else [])]

    def function(x, w, b=None):
        return F.conv2d(x, w, b, (1, stride), padding, dilation)

    assert_lowers(function, inputs)


@quick
@given(
    groups=st.integers(2, 3),
    each=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
)
def test_grouped_and_depthwise_convolution(groups, each, kernel, stride):
    x = spread(3, groups * each[0], 6, 5)
    w, b = spread(groups * each[1], each[0], kernel, kernel, seed=1), spread(groups * each[1], seed=2)
    assert_lowers(lambda x, w, b: F.conv2d(x, w, b, stride, kernel // 2, groups=groups), [x, w, b])


@quick
@given(
    kernel=st.tuples(few, few),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(3, 8), st.sampled_from([3, 5, 8, WIDEST + 1])),
    bias=st.booleans(),
)
def test_depthwise_convolution(kernel, stride, padding, dilation, size, bias):
    assume(all(size[i] + 2 * padding[i] > dilation[i] * (kernel[i] - 1) for i in (0, 1)))
    inputs = [spread(3, 2, *size), spread(2, 1, *kernel, seed=1), *([spread(2, seed=2)] if bias else [])]

    def function(x, w, b=None):
        return F.conv2d(x, w, b, stride, padding, dilation, groups=2)

    assert_lowers(function, inputs)


@quick
@given(kernel=few, stride=st.integers(1, 2), padding=st.integers(0, 2), channels=few)
def test_convolution_over_one_dimension(kernel, stride, padding, channels):
    x, w = spread(3, channels, 9), spread(2, channels, kernel, seed=1)
    assert_lowers(lambda x, w: F.conv1d(x, w, None, stride, padding), [x, w])


@quick
@given(
    kernel=st.tuples(few, few),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.integers(1, 2),
    channels=st.tuples(few, few),
    bias=st.booleans(),
    more=st.booleans(),
)
def test_transposed_convolution(kernel, stride, padding, dilation, groups, channels, bias, more):
    size = (4, 5)
    more = tuple(int(more and max(s, d) > 1) for s, d in zip(stride, dilation, strict=True))
    reach = [
        (size[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + more[i] for i in (0, 1)
    ]
    assume(min(reach) >= 0)
    inputs = [
        spread(3, groups * channels[0], *size),
        spread(groups * channels[0], channels[1], *kernel, seed=1),
    ]
    inputs += [spread(groups * channels[1], seed=2)] if bias else []

    def function(x, w, b=None):
        return F.conv_transpose2d(x, w, b, stride, padding, more, groups, dilation)

    assert_lowers(function, inputs)


def test_transposed_convolution_over_one_dimension():
    x, w, b = spread(3, 2, 5), spread(2, 3, 4, seed=1), spread(3, seed=2)
    assert_lowers(lambda x, w, b: F.conv_transpose1d(x, w, b, 2, 1), [x, w, b])


@quick
@given(
    size=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    to=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    corners=st.booleans(),
)
def test_upsampling(size, to, corners):
    x = spread(3, 2, *size)
    assert_lowers(lambda x: F.interpolate(x, to), [x])
    assert_lowers(lambda x: F.interpolate(x, scale_factor=2), [x])
    assert_lowers(lambda x: F.interpolate(x, to, mode="bilinear", align_corners=corners), [x])
    assert_lowers(lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"), [x])
    assert_lowers(lambda x: F.interpolate(x, scale_factor=2.5), [x[:, :, 0]])
    assert_lowers(lambda x: F.interpolate(x, 7, mode="linear", align_corners=corners), [x[:, :, 0]])


pools = {
    "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "padded": st.booleans(),
    "size": st.tuples(st.integers(3, 8), st.integers(3, 8)),
    "ceil": st.booleans(),
}


@quick
@given(**pools, dilation=st.integers(1, 2))
def test_max_pool(kernel, stride, padded, size, ceil, dilation):
    assume(all(s > dilation * (k - 1) for s, k in zip(size, kernel, strict=True)))
    padding = tuple(k // 2 for k in kernel) if padded else (0, 0)
    assert_lowers(lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil), [spread(3, 2, *size)])


def test_max_pool_sends_the_gradient_of_a_tie_to_the_first():
    assert_lowers(lambda x: F.max_pool2d(x, 2), [torch.zeros(3, 1, 4, 4)])


@quick
@given(**pools, count=st.booleans())
def test_average_pool(kernel, stride, padded, size, ceil, count):
    padding = tuple(k // 2 for k in kernel) if padded else (0, 0)
    assert_lowers(lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil, count), [spread(3, 2, *size)])


@quick
@given(outputs=st.tuples(st.integers(1, 3), st.integers(1, 3)), factor=st.tuples(few, few))
def test_adaptive_average_pool(outputs, factor):
    x = spread(3, 2, outputs[0] * factor[0], outputs[1] * factor[1])
    assert_lowers(lambda x: F.adaptive_avg_pool2d(x, outputs), [x])


@quick
@given(outputs=st.tuples(st.integers(1, 5), st.integers(1, 5)), size=st.tuples(few, few))
def test_adaptive_average_pool_with_windows_of_unequal_sizes(outputs, size):
    w = spread(2, 2, 1, 1, seed=1)
    x = spread(3, 2, size[0] + 2, size[1] + 2)
    assert_lowers(lambda x, w: F.adaptive_avg_pool2d(torch.tanh(F.conv2d(x, w)), outputs), [x, w])


@quick
@given(shape=st.sampled_from([(5, 3), (4, 3, 2, 3), (4, 2, 5)]), training=st.booleans(), affine=st.booleans())
def test_batch_norm(shape, training, affine):
    channels = shape[1]
    mean, var = spread(channels, seed=3), spread(channels, seed=4).abs() + 0.5
    inputs = [spread(*shape)]
    inputs += [spread(channels, seed=1), spread(channels, seed=2)] if affine else []

    def function(x, w=None, b=None):
        return F.batch_norm(x, mean.to(x.dtype), var.to(x.dtype), w, b, training)

    assert_lowers(function, inputs)


@quick
@given(groups=st.integers(1, 3), each=st.integers(1, 3), affine=st.booleans())
def test_group_norm(groups, each, affine):
    inputs = [spread(3, groups * each, 3, 2)]
    inputs += [spread(groups * each, seed=1), spread(groups * each, seed=2)] if affine else []
    assert_lowers(lambda x, *wb: F.group_norm(x, groups, *wb), inputs)


@quick
@given(last=st.sampled_from([(5,), (3, 4)]), affine=st.booleans())
def test_layer_norm(last, affine):
    inputs = [spread(3, 2, *last)]
    inputs += [spread(*last, seed=1), spread(*last, seed=2)] if affine else []
    assert_lowers(lambda x, *wb: F.layer_norm(x, last, *wb), inputs)


ACTIVATIONS = {
    "relu": F.relu,
    "relu6": lambda x: F.relu6(x * 4),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: F.elu(x, 0.5),
    "elu_inplace": lambda x: F.elu(x * 2, 0.5, inplace=True),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 2.0),
    "softplus": F.softplus,
    "softplus_beta": lambda x: F.softplus(x * 9, 3.0),
    "softplus_of_a_low_threshold": lambda x: F.softplus(x * 9, 1.0, 5.0),
    "mish": lambda x: F.mish(x * 4),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "hardswish": lambda x: F.hardswish(x * 2.1),
    "hardsigmoid": lambda x: F.hardsigmoid(x * 2.1),
    "hardtanh": F.hardtanh,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "inplace": lambda x: F.relu(x * 2, inplace=True),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    assert_lowers(ACTIVATIONS[name], [spread(3, 4, 5)])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(reduction, weighted):
    y = torch.tensor([0, 4, -100, 2])
    weight = spread(5, seed=1).abs() if weighted else None

    def function(x, y):
        return F.cross_entropy(x, y, None if weight is None else weight.to(x.dtype), reduction=reduction)

    assert_lowers(function, [spread(4, 5), y], (0, 1))


@pytest.mark.parametrize("rows", [6, SMALL + 1])
@pytest.mark.parametrize("padding", [None, 2])
def test_embedding(rows, padding):
    index = torch.tensor([[1, 2, 2], [0, 5, 1]])
    assert_lowers(lambda w, i: F.embedding(i, w, padding), [spread(rows, 4), index], (1,))


def test_gelu_of_zero_has_half_of_the_gradient():
    assert_lowers(F.gelu, [torch.tensor([[0.0, -0.0, 1e-40, 1.0, -20.0, 20.0]] * 3)])


def test_attention():
    q, k, v = (spread(3, 2, 5, 4, seed=s) for s in range(3))
    assert_lowers(F.scaled_dot_product_attention, [q, k, v], (0, 1, 2))


def test_joined_and_split_maps():
    w = spread(4, 2, 3, 3, seed=1)

    def function(x, w):
        y = torch.tanh(F.conv2d(x, w, padding=1))
        left, right = y.chunk(2, 1)
        return torch.cat([left * right, y, x], 1).flatten(1)

    assert_lowers(function, [spread(3, 2, 5, 4), w])


def test_lowered_graph_differs_from_autograd_by_rounding_only():
    x, w = spread(3, 2, 8, 6).double(), spread(4, 2, 3, 3, seed=1).double()

    def function(x, w):
        return F.max_pool2d(F.relu6(F.conv2d(x, w, padding=1)), 2)

    module = lower(with_gradients(function, [x, w]), [x, w], (0,))
    for found, expected in zip(module(x, w), exact(function, [x, w]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_masks_are_joined_and_turned_around():
    x, mask = spread(3, 4, 4), torch.ones(4, 4).tril().bool()

    def function(x):
        kept = (mask & (x > -1.5)) | ~mask
        return torch.softmax(x.masked_fill(~kept, float("-inf")), -1) + torch.logical_or(mask, kept) * x

    assert_lowers(function, [x])


@quick
@given(
    pad=st.lists(st.integers(-2, 3), min_size=2, max_size=2),
    more=st.lists(st.integers(0, 2), min_size=2, max_size=2),
)
def test_padding(pad, more):
    assert_lowers(lambda x: F.pad(x, (*pad, *more), value=0.5), [spread(3, 2, 4, 6)])
