"""What single passes do to the graph of a step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from crowdlearn_export.lowering.lower import lower
from crowdlearn_export.lowering.passes.simplify import turn_large_weights

aten = torch.ops.aten


def calls(module, target):
    return [n for n in module.graph.nodes if n.target is target]


@pytest.mark.parametrize(("channels", "others"), [(72, 0), (8, 4)])
def test_columns_of_the_forward_pass_serve_the_kernel_gradient(channels, others):
    """A narrow map is also gathered once a tap of the height, and the gradient once."""

    def step(x, w):
        def loss(w):
            return F.conv2d(x, w, padding=1).square().sum()

        return torch.func.grad_and_value(loss)(w)

    module = lower(step, (torch.randn(4, channels, 6, 6), torch.randn(5, channels, 3, 3)), (0,))
    assert len(calls(module, aten.index_select.default)) == 1 + others


def test_the_positive_part_is_taken_behind_the_pool():
    def function(x):
        return F.max_pool2d(F.relu(x), 2)

    module = lower(function, (torch.randn(4, 3, 6, 6),), (0,))
    (relu,) = calls(module, aten.relu.default)
    assert tuple(relu.meta["val"].shape[1:]) == (9, 3)


def test_an_activation_is_next_to_the_product_that_it_follows():
    def function(x, w):
        return F.relu(F.conv2d(x, w, padding=1))

    module = lower(function, (torch.randn(4, 3, 6, 6), torch.randn(5, 3, 3, 3)), (0,))
    (relu,) = calls(module, aten.relu.default)
    assert relu.args[0].target is aten.linear.default


def test_of_a_large_weight_and_few_rows_the_rows_are_packed():
    def function(x, w, b):
        return F.linear(x, w, b)

    x, w, b = torch.randn(4, 2000), torch.randn(300, 2000), torch.randn(300)
    module = turn_large_weights(lower(function, (x, w, b), (0,)), 64)
    (product,) = calls(module, aten.linear.default)
    rows, weight, _ = [n for n in module.graph.nodes if n.op == "placeholder"]
    assert product.args == (weight, rows)
    exact = F.linear(x, w, b)
    assert float((module(x, w, b) - exact).abs().max()) <= 1e-5 * float(exact.abs().max())
    many = turn_large_weights(lower(function, (x, w, b), (0,)), 65)
    (product,) = calls(many, aten.linear.default)
    assert [operand.name for operand in product.args] == [
        n.name for n in many.graph.nodes if n.op == "placeholder"
    ]


def test_a_convolution_of_single_positions_copies_nothing():
    def function(x, w, g):
        out, gradients = torch.func.vjp(F.conv2d, x, w)
        return out, *gradients(g)

    x, w, g = torch.randn(4, 6, 5, 5), torch.randn(9, 6, 1, 1), torch.randn(4, 9, 5, 5)
    module = lower(function, (x, w, g), (0, 2))
    assert not calls(module, aten.index_select.default)
    # The kernel's gradient turns the narrower of its operands.
    turned = [tuple(n.meta["val"].shape) for n in calls(module, aten.permute.default)]
    assert [shape[0] for shape in turned if len(shape) == 2] == [6, 9]


def test_a_gradient_meets_values_of_the_forward_pass_in_their_layout():
    def function(x, g):
        y = torch.tanh(x.permute(1, 0, 2).contiguous().reshape(3, -1)).reshape(3, -1, 5)
        return g * y.permute(1, 0, 2)

    module = lower(function, (torch.randn(4, 3, 5), torch.randn(4, 3, 5)), (0, 1))
    (product,) = calls(module, aten.mul.Tensor)
    assert product.meta["val"].shape[0] == 3


def test_the_gradient_of_a_clamp_reads_its_result():
    def step(x, w):
        return torch.func.grad(lambda w: F.relu6(F.linear(x, w)).sum())(w)

    module = lower(step, (torch.randn(4, 3), torch.randn(5, 3)), (0,))
    (product,) = calls(module, aten.linear.default)
    assert [node.target for node in product.users] == [aten.hardtanh.default]
