"""Attention, written so that the batch stays free and its weights can be dropped: PyTorch's own folds the
batch into the heads, and draws at random.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from crowdlearn_export.errors import LoweringError

from .recurrence import Drop


def as_they_are(x: Tensor, probability: float) -> Tensor:
    """Return attention's weights, of which nothing can be dropped. They are float32 [B, ...].

    Raises LoweringError if something is to be dropped.
    """
    if probability:
        raise LoweringError(
            "MultiheadAttention with dropout of its weights has no lowering; train it without"
        )
    return x


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    *,
    drop: Drop = as_they_are,
) -> tuple[Tensor, Tensor | None]:
    """Compute torch.nn.functional.multi_head_attention_forward: [length, batch, width] to the same, and the
    weights, [batch, length, length], where they are asked for; `drop` drops some of these.

    The bias of keys adds the same to all scores of a query, which their softmax does not see: it is left out,
    and its gradient is 0 instead of rounding. Masks may be per sample: `key_padding_mask` [batch, keys], and
    `attn_mask` of three dimensions [batch * heads, queries, keys]. Raises LoweringError for what added keys
    would need.
    """
    unsupported = {
        "add_bias_kv or add_zero_attn": bias_k is not None or bias_v is not None or add_zero_attn,
        "samples without a batch": query.dim() < 3,
        "keys given in advance": static_k is not None or static_v is not None,
    }
    for what, found in unsupported.items():
        if found:
            raise LoweringError(f"MultiheadAttention with {what} has no lowering; train it without")
    if use_separate_proj_weight:
        weights: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_weight is not None
        weights = in_weight.chunk(3)
    biases: Any = [None, None, None] if in_bias is None else [*in_bias.chunk(3)]
    biases[1] = None
    parts = zip((query, key, value), weights, biases, strict=True)
    q, k, v = (_heads(_rows(x.transpose(0, 1), weight, bias), heads) for x, weight, bias in parts)
    scores = (q * (1 / math.sqrt(width // heads))) @ k.transpose(-2, -1)
    if attn_mask is not None:
        added = _added(attn_mask, scores)
        scores = scores + (added if added.dim() == 2 else added.reshape(-1, heads, *added.shape[1:]))
    if key_padding_mask is not None:
        scores = scores + _added(key_padding_mask, scores).reshape(-1, 1, 1, key_padding_mask.shape[1])
    shares = torch.softmax(scores, -1)
    shares = drop(shares, dropout_p if training else 0.0)
    mixed = (shares @ v).permute(0, 2, 1, 3)
    out = _rows(mixed.reshape(*mixed.shape[:2], width), out_weight, out_bias).transpose(0, 1)
    if not need_weights:
        return out, None
    return out, shares.mean(1) if average_attn_weights else shares


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    drop: Drop = as_they_are,
) -> Tensor:
    """Compute torch.nn.functional.scaled_dot_product_attention, of whose weights `drop` drops some.

    All are float32 [..., length, width].
    """
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        scores = scores + torch.full(tuple(scores.shape[-2:]), -1e9).triu(1)
    if attn_mask is not None:
        scores = scores + (torch.where(attn_mask, 0.0, -1e9) if attn_mask.dtype == torch.bool else attn_mask)
    return drop(torch.softmax(scores, -1), dropout_p) @ value


def _rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a dense layer over [batch, length, features], as rows."""
    rows = torch.nn.functional.linear(x.reshape(-1, x.shape[-1]), weight, bias)
    return rows.reshape(*x.shape[:-1], weight.shape[0])


def _heads(x: Tensor, heads: int) -> Tensor:
    """View [batch, length, width] as [batch, heads, length, width of a head]."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).permute(0, 2, 1, 3)


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as what is added to scores: large and negative where PyTorch's says -inf, since
    infinities make NaN of products.
    """
    if mask.dtype == torch.bool:
        return mask.to(like.dtype) * -1e9
    return mask.clamp(min=-1e9)
