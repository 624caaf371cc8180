"""Which rule lowers which operator of the joint forward and backward graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch._decomp import get_decompositions
from torch._ops import OpOverload
from torch.export import default_decompositions

from . import convolution, elementwise, loss, normalization, parts, pooling, upsampling

aten = torch.ops.aten


def rules() -> dict[Any, Callable[..., Any]]:
    """Return every lowering rule by the operator it replaces; PyTorch's own decompositions where they are
    good enough.
    """
    table: dict[Any, Callable[..., Any]] = {
        aten.convolution.default: convolution.convolution,
        aten.convolution_backward.default: convolution.convolution_backward,
        aten.max_pool2d_with_indices.default: pooling.max_pool2d,
        aten.max_pool2d_with_indices_backward.default: pooling.max_pool2d_backward,
        aten.avg_pool2d.default: pooling.avg_pool2d,
        aten.avg_pool2d_backward.default: pooling.avg_pool2d_backward,
        aten._adaptive_avg_pool2d.default: pooling.adaptive_avg_pool2d,
        aten._adaptive_avg_pool2d_backward.default: pooling.adaptive_avg_pool2d_backward,
        aten.upsample_nearest2d.default: upsampling.nearest,
        aten.upsample_nearest2d_backward.default: upsampling.nearest_backward,
        aten.upsample_bilinear2d.default: upsampling.bilinear,
        aten.upsample_bilinear2d_backward.default: upsampling.bilinear_backward,
        aten.native_batch_norm.default: normalization.batch_norm,
        aten.native_batch_norm_backward.default: normalization.batch_norm_backward,
        aten.native_layer_norm.default: normalization.layer_norm,
        aten.native_layer_norm_backward.default: normalization.layer_norm_backward,
        aten.native_group_norm.default: normalization.group_norm,
        aten.native_group_norm_backward.default: normalization.group_norm_backward,
        aten.linalg_vector_norm.default: normalization.vector_norm,
        aten.var.correction: normalization.variance,
        aten.std.correction: normalization.deviation,
        aten.sign.default: elementwise.sign,
        aten.sgn.default: elementwise.sign,
        aten.threshold_backward.default: elementwise.threshold_backward,
        aten.leaky_relu_backward.default: elementwise.leaky_relu_backward,
        aten.elu.default: elementwise.elu,
        aten.elu_backward.default: elementwise.elu_backward,
        aten.softplus.default: elementwise.softplus,
        aten.softplus_backward.default: elementwise.softplus_backward,
        aten.hardtanh_backward.default: elementwise.hardtanh_backward,
        aten.hardsigmoid.default: elementwise.hardsigmoid,
        aten.hardsigmoid_backward.default: elementwise.hardsigmoid_backward,
        aten.hardswish.default: elementwise.hardswish,
        aten.hardswish_backward.default: elementwise.hardswish_backward,
        aten.sigmoid_backward.default: elementwise.sigmoid_backward,
        aten.tanh_backward.default: elementwise.tanh_backward,
        aten.silu.default: elementwise.silu,
        aten.silu_backward.default: elementwise.silu_backward,
        aten.gelu.default: elementwise.gelu,
        aten.gelu_backward.default: elementwise.gelu_backward,
        aten.bitwise_not.default: elementwise.bitwise_not,
        aten.bitwise_and.Tensor: elementwise.bitwise_and,
        aten.bitwise_or.Tensor: elementwise.either,
        aten.logical_or.default: elementwise.either,
        aten._softmax_backward_data.default: loss.softmax_backward,
        aten._log_softmax_backward_data.default: loss.log_softmax_backward,
        aten.nll_loss_forward.default: loss.nll_loss,
        aten.nll_loss_backward.default: loss.nll_loss_backward,
        aten.embedding_dense_backward.default: loss.embedding_backward,
        aten.constant_pad_nd.default: parts.constant_pad,
        aten.roll.default: parts.roll,
        aten.scatter_add.default: parts.scatter_add,
        aten.index.Tensor: parts.index,
        aten.slice_backward.default: parts.slice_backward,
        aten.select_backward.default: parts.select_backward,
    }
    return {
        **get_decompositions([aten.addcmul, aten.addcdiv, aten.mse_loss, aten.mse_loss_backward]),
        **table,
    }


@cache
def core() -> dict[Any, Callable[..., Any]]:
    """Return PyTorch's decompositions into core operators of what the rules leave: not of dense layers, which
    both backends have, nor of what writes over a tensor, which only exporting makes a value of its own.
    """
    table: Any = default_decompositions()
    return {
        target: rule
        for target, rule in table.items()
        if isinstance(target, OpOverload)
        and not target._schema.is_mutable
        and target is not aten.linear.default
    }
