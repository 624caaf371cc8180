"""Functions of tensors, forward and backward, as one graph of operators that are right and fast."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from crowdlearn_export.errors import LoweringError
from crowdlearn_export.graph.attention import attention, multi_head_attention
from crowdlearn_export.graph.plain import interpolate
from crowdlearn_export.lowering.passes.constants import fold_constants
from crowdlearn_export.lowering.passes.permutations import Permutations
from crowdlearn_export.lowering.passes.simplify import (
    fuse_linear,
    infer_batches,
    join_views,
    name_floats,
    share_constants,
    share_expressions,
    sink_views,
)
from crowdlearn_export.lowering.rules.table import core, rules

from .own_gradients import own_gradients
from .shortcuts import rare_collections, shapes_alone

SIMPLER = (
    infer_batches,
    name_floats,
    fold_constants,
    share_constants,
    sink_views,
    join_views,
    share_expressions,
    fuse_linear,
)


@rare_collections()
@shapes_alone()
def lower(function: Callable[..., Any], example: Sequence[Tensor], batched: Collection[int]) -> GraphModule:
    """Return `function` as a graph of lowered operators; dimension 0 of the inputs at `batched` is one
    symbol, the batch. Inputs are of any dtype and shape [...].
    """
    inputs = _symbolic(example, batched)
    functional = torch.func.functionalize(function, remove="mutations")
    compiling = torch.compiler._compile_session_context()  # libraries branch on no values then
    with compiling, sdpa_kernel(SDPBackend.MATH), own_gradients(), _Plain():
        module = make_fx(functional, decomposition_table=rules(), tracing_mode="fake")(*inputs)
    if any(len(example[at]) > 1 and not _is_free(inputs[at].shape[0]) for at in batched):
        raise LoweringError(
            "it fixes the size of the batch, as len(x) or a reshape by a number does; take x.shape[0], or -1 "
            "in a reshape"
        )
    module.graph.eliminate_dead_code()
    module = make_fx(Permutations(module).run, decomposition_table=core(), tracing_mode="fake")(*inputs)
    for simplify in SIMPLER:
        module = simplify(module)
    return module


RELUS = (torch.relu, torch.Tensor.relu, torch.nn.functional.relu)
MAX_POOLS = (torch.max_pool2d, torch.nn.functional.max_pool2d)


class _Plain(TorchFunctionMode):
    """Functions that PyTorch writes out in a way that a program cannot hold, or dearly.

    Attention over heads, and dense layers over [batch, ..., features], keep the batch apart: PyTorch's own
    folding would fix it. An average over the whole map is a mean: PyTorch's follows it with a stride of its
    own. The gradient of mish takes the logarithm of an exponential that may be infinite. The maximum of
    positive parts is the positive part of the maximum, on a map that is smaller by the pool's stride.
    Attention without a mask, or with the causal one, needs no look for rows that are masked altogether. Maps
    lie in another order than PyTorch's, so that a view of one may have to copy.
    """

    def __init__(self) -> None:
        super().__init__()
        self._positive_parts: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.linear and args[0].dim() > 2:
            x, weight, *bias = args
            rows = func(x.reshape(-1, x.shape[-1]), weight, *bias, **(kwargs or {}))
            return rows.reshape(*x.shape[:-1], weight.shape[0])
        if func is Tensor.view and not isinstance(args[1], torch.dtype):
            return args[0].reshape(*args[1:])
        if func is torch.nn.functional.mish:
            out = args[0] * torch.tanh(torch.nn.functional.softplus(args[0]))
            return args[0].copy_(out) if (kwargs or {}).get("inplace") else out
        if func is torch.nn.functional.multi_head_attention_forward:
            return multi_head_attention(*args, **(kwargs or {}))
        if func is torch.nn.functional.adaptive_avg_pool2d and tuple(args[1:]) in ((1,), ((1, 1),)):
            return args[0].mean((-2, -1), keepdim=True)
        if func is torch.nn.functional.interpolate:
            return interpolate(*args, **(kwargs or {}))
        if func is torch.nn.functional.scaled_dot_product_attention and len(args) == 3:
            asked = {name: value for name, value in (kwargs or {}).items() if _asks(value)}
            if asked.keys() <= {"scale", "is_causal"}:
                return attention(*args, **asked)
        if func in MAX_POOLS and id(args[0]) in self._positive_parts:
            return torch.relu(func(self._positive_parts[id(args[0])][1], *args[1:], **(kwargs or {})))
        out = func(*args, **(kwargs or {}))
        if func in RELUS and out is not args[0]:
            self._positive_parts[id(out)] = out, args[0]
        return out


def _asks(value: Any) -> bool:
    """Return whether an option is given at all: no mask, no dropout and nothing to be done are defaults."""
    return isinstance(value, Tensor) or bool(value)


def _is_free(batch: int | torch.SymInt) -> bool:
    """Return whether tracing has left the size of the batch open."""
    return isinstance(batch, torch.SymInt) and not batch.node.expr.is_number


def _symbolic(example: Sequence[Tensor], batched: Collection[int]) -> list[Tensor]:
    """Make stand-ins for `example`, of which only the batch is symbolic, whatever the other sizes."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    inputs: list[Tensor] = []
    for position, tensor in enumerate(example):
        sizes = [DimDynamic.STATIC] * tensor.dim()
        if position in batched:
            sizes[0] = DimDynamic.DUCK
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        inputs.append(
            mode.from_tensor(tensor, symbolic_context=context, source=ConstantSource(f"input{position}"))
        )
    return inputs
