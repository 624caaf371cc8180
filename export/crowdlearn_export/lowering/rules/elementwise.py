"""Derivatives of activations without comparisons.

`where` and the comparison kernels of ExecuTorch are ten times slower than a product with a mask made of a
clamped multiple; no delegate takes them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crowdlearn_export.errors import LoweringError

STEEP = 1e38
"""Brings any normal float32 above 1, so that clamping to [0, 1] gives its sign."""

LINEAR = 17.0
"""The value from which on log(1 + exp(x)) is x in float32."""

TINY = 1e-30
"""Changes no number but 0, by which one cannot divide."""


def positive(x: Tensor) -> Tensor:
    """Compute 1 where x > 0, else 0. Tensors are float32 [...] of one shape."""
    return torch.nn.functional.hardtanh(x * STEEP, 0.0, 1.0)


def sign(x: Tensor) -> Tensor:
    """Compute -1, 0 or 1. Tensors are float32 [...] of one shape."""
    return positive(x) - positive(-x)


def threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Return the gradient of relu: passes where x > threshold. Tensors are float32 [...] of one shape."""
    return grad * positive(x if threshold == 0 else x - threshold)


def leaky_relu_backward(grad: Tensor, x: Tensor, slope: float, is_result: bool) -> Tensor:
    """Return the gradient of leaky_relu: all of it where x > 0, `slope` of it elsewhere.

    Tensors are float32 [...] of one shape.
    """
    return grad * (positive(x) * (1 - slope) + slope)


def elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    """Compute scale * (x above 0, else alpha * (exp(input_scale * x) - 1)), for selu and celu, too.

    Tensors are float32 [...] of one shape.
    """
    return (torch.relu(x) + (_exp_below_0(x, input_scale) - 1) * alpha) * scale


def elu_backward(
    grad: Tensor, alpha: float, scale: float, input_scale: float, is_result: bool, x: Tensor
) -> Tensor:
    """Return the gradient of elu. Tensors are float32 [...] of one shape."""
    if is_result:  # of a call in place, which kept alpha * scale less than the slope
        above = positive(x)
        return grad * (above * scale + (1 - above) * (x + alpha * scale) * input_scale)
    below = _exp_below_0(x, input_scale) * (alpha * scale * input_scale)
    above = positive(x)
    return grad * (above * scale + (1 - above) * below)


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """Compute log(1 + exp(beta * x)) / beta, without overflow. Tensors are float32 [...] of one shape.

    Beyond `threshold` PyTorch takes x itself, which is the same in float32 from 17 on.
    """
    if threshold < LINEAR:
        return NotImplemented
    return torch.relu(x) + torch.log(torch.exp(torch.abs(x) * -beta) + 1) * (1 / beta)


def softplus_backward(grad: Tensor, x: Tensor, beta: float, threshold: float) -> Tensor:
    """Return the gradient of softplus. Tensors are float32 [...] of one shape."""
    return grad * torch.sigmoid(x * beta) if threshold >= LINEAR else NotImplemented


def hardtanh_backward(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Return the gradient of hardtanh and relu6: passes strictly between the bounds.

    Of the result, which the forward pass has already, so that the argument need not be kept until now.
    Tensors are float32 [...] of one shape.
    """
    return grad * _between(torch.nn.functional.hardtanh(x, low, high), low, high)


def hardsigmoid(x: Tensor) -> Tensor:
    """Compute clamp(x + 3, 0, 6) / 6. Tensors are float32 [...] of one shape."""
    return torch.nn.functional.hardtanh(x + 3, 0.0, 6.0) * (1 / 6)


def hardsigmoid_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return a sixth of the gradient strictly between -3 and 3. Tensors are float32 [...] of one shape."""
    return grad * _between(x, -3.0, 3.0) * (1 / 6)


def hardswish(x: Tensor) -> Tensor:
    """Compute x * hardsigmoid(x). Tensors are float32 [...] of one shape."""
    return x * hardsigmoid(x)


def hardswish_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of hardswish: 0 up to -3, 1 from 3, x / 3 + 1/2 between.

    Tensors are float32 [...] of one shape.
    """
    inside = positive((x + 3) * (3 - x))
    return grad * (inside * (x * (1 / 3) + 0.5) + positive(x - 3))


def sigmoid_backward(grad: Tensor, out: Tensor) -> Tensor:
    """Compute grad * out * (1 - out). Tensors are float32 [...] of one shape."""
    return grad * (out * (1 - out))


def tanh_backward(grad: Tensor, out: Tensor) -> Tensor:
    """Compute grad * (1 - out^2). Tensors are float32 [...] of one shape."""
    return grad * (1 - out * out)


def silu(x: Tensor) -> Tensor:
    """Compute x * sigmoid(x). Tensors are float32 [...] of one shape."""
    return x * torch.sigmoid(x)


def silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of silu, through the sigmoid that the forward also computes.

    Tensors are float32 [...] of one shape.
    """
    gate = torch.sigmoid(x)
    return grad * (gate * (1 + x * (1 - gate)))


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Multiply x by the normal distribution. Tensors are float32 [...] of one shape."""
    if approximate == "tanh":
        return x * ((torch.tanh(_inner(x)) + 1) * 0.5)
    # Both backends have it.
    return NotImplemented


def gelu_backward(grad: Tensor, x: Tensor, approximate: str = "none") -> Tensor:
    """Return the gradient of gelu. The distribution is the forward's result over its input: no backend has a
    fast erf. Tensors are float32 [...] of one shape.
    """
    if approximate == "tanh":
        tanh = torch.tanh(_inner(x))
        slope = (x * x * (3 * 0.044715) + 1) * math.sqrt(2 / math.pi)
        return grad * ((tanh + 1) * 0.5 + x * (1 - tanh * tanh) * slope * 0.5)
    density = torch.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    distribution = (torch.ops.aten.gelu(x) + TINY / 2) / (x + TINY)
    return grad * (distribution + x * density)


def _exp_below_0(x: Tensor, factor: float) -> Tensor:
    """Compute exp(factor * x) where x < 0, else 1."""
    return torch.exp(torch.nn.functional.hardtanh(x, -STEEP, 0.0) * factor)


def _between(x: Tensor, low: float, high: float) -> Tensor:
    """Compute 1 where both distances are positive, else 0."""
    return positive((x if low == 0 else x - low) * (high - x))


def _inner(x: Tensor) -> Tensor:
    return (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)


def bitwise_not(x: Tensor) -> Tensor:
    """Compute aten.bitwise_not of masks, bool [...]."""
    _check_mask(x)
    return torch.logical_not(x)


def bitwise_and(x: Tensor, y: Tensor) -> Tensor:
    """Compute aten.bitwise_and of masks, bool [...]."""
    _check_mask(x)
    return torch.logical_and(x, y)


def either(x: Tensor, y: Tensor) -> Tensor:
    """Compute aten.bitwise_or and aten.logical_or of masks, bool [...]."""
    _check_mask(x)
    return torch.logical_not(torch.logical_and(torch.logical_not(x), torch.logical_not(y)))


def _check_mask(x: Tensor) -> None:
    if x.dtype is not torch.bool:
        raise LoweringError(f"bits of {x.dtype} have no lowering; only masks (bool) do")
