"""Softmax, cross-entropy and embedding, where an index becomes a one-hot row."""

from __future__ import annotations

import torch
from torch import Tensor

from crowdlearn_export.errors import LoweringError

SUM, MEAN = 2, 1
SMALL = 128
"""Sizes up to which one-hot rows are those of an identity matrix in the program: comparisons are slow."""


def one_hot(index: Tensor, size: int) -> Tensor:
    """Make one-hot rows, [N] -> float [N, size]; an index outside of 0..size-1 gives a row of zeros."""
    if size <= SMALL:
        rows = torch.nn.functional.pad(torch.eye(size), (0, 0, 1, 1))
        return torch.index_select(rows, 0, torch.clamp(index.reshape(-1), -1, size) + 1)
    return (index.reshape(-1, 1) == torch.arange(size)).to(torch.float32)


def softmax_backward(grad: Tensor, out: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Compute aten._softmax_backward_data. Tensors are float32 [..., classes]."""
    weighted = grad * out
    return weighted - out * weighted.sum(dim, keepdim=True)


def log_softmax_backward(grad: Tensor, out: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Compute aten._log_softmax_backward_data. Tensors are float32 [..., classes]."""
    return grad - torch.exp(out) * grad.sum(dim, keepdim=True)


def nll_loss(
    log_probability: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Compute aten.nll_loss_forward: loss and total weight; classes outside the range count for nothing, as
    ignored ones do. Scores are float32 [B, classes], targets int64 [B].
    """
    picked = _picked(log_probability, target, weight, ignore_index)
    total = picked.sum()
    if reduction == 0:
        return -(picked * log_probability).sum(1), total
    loss = -(picked * log_probability).sum()
    return (loss / total if reduction == MEAN else loss), total


def nll_loss_backward(
    grad: Tensor,
    log_probability: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total: Tensor,
) -> Tensor:
    """Compute aten.nll_loss_backward. Scores are float32 [B, classes], targets int64 [B]."""
    picked = _picked(log_probability, target, weight, ignore_index)
    if reduction == MEAN:
        return picked * -(grad / total)
    return picked * -(grad if reduction == SUM else grad.reshape(-1, 1))


def _picked(log_probability: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    classes = int(log_probability.shape[-1])
    if log_probability.dim() != 2:
        raise LoweringError(
            "cross-entropy is lowered for scores [batch, classes]; flatten other dimensions first"
        )
    if 0 <= ignore_index < classes:
        raise LoweringError(
            f"cross-entropy cannot ignore class {ignore_index}; mark ignored targets by a negative number"
        )
    picked = one_hot(target, classes)
    return picked if weight is None else picked * weight


def embedding_backward(
    grad: Tensor, indices: Tensor, size: int, padding_idx: int, scale_by_frequency: bool
) -> Tensor:
    """Compute aten.embedding_dense_backward: the one-hot rows of the indices, transposed, times the gradient.

    Gradients are float32 [..., D], indices int64 [...].
    """
    if scale_by_frequency:
        raise LoweringError("an embedding with scale_grad_by_freq has no lowering; leave it out")
    if size <= SMALL:
        # An index is never outside.
        rows = torch.index_select(torch.eye(size), 0, indices.reshape(-1))
    else:
        rows = one_hot(indices, size)
    if padding_idx >= 0:
        rows = rows * (torch.arange(size) != padding_idx).to(torch.float32)
    return rows.t() @ grad.reshape(-1, grad.shape[-1])
