"""What single passes do to the graph of a step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from crowdlearn_export.lowering import lower

aten = torch.ops.aten


def calls(module, target):
    return [n for n in module.graph.nodes if n.target is target]


def test_columns_of_the_forward_pass_serve_the_kernel_gradient():
    def step(x, w):
        def loss(w):
            return F.conv2d(x, w, padding=1).square().sum()

        return torch.func.grad_and_value(loss)(w)

    module = lower(step, (torch.randn(4, 3, 6, 6), torch.randn(5, 3, 3, 3)), (0,))
    assert len(calls(module, aten.index_select.default)) == 1
