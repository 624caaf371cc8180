"""The operators a program may call: those that the phone's runtime has and that compute what they should."""

from __future__ import annotations

from collections.abc import Sequence

from crowdlearn_export.errors import LoweringError

KNOWN_BAD = {
    "max_pool2d_with_indices_backward": "it adds into memory that it never zeroes",
    "convolution_backward": "it is slower than the products it stands for by two orders of magnitude",
}
"""Operators that run, wrongly or far too slowly, and why."""

MISSING_ON_ANDROID = frozenset({"_adaptive_avg_pool2d", "var_mean", "_conj_physical"})
"""In the Linux wheel, not in the official Android library."""

ALLOWED = frozenset({
    "_log_softmax", "_softmax", "abs", "add", "addmm", "amax", "amin", "any", "arange", "argmax",
    "bmm", "cat", "clamp", "copy", "copy_", "cos", "cumsum", "div", "embedding", "eq", "erf", "exp",
    "expand_copy", "full", "full_like", "gather", "ge", "gelu", "gt", "hardtanh", "index_select",
    "le", "leaky_relu", "linear", "log", "logical_and", "logical_not", "lt", "maximum", "mean",
    "minimum", "mm", "mul", "ne", "neg", "ones", "permute_copy", "pow", "reciprocal", "relu",
    "repeat", "rsqrt", "rsub", "scalar_tensor", "select_copy", "sigmoid", "sin", "slice_copy",
    "split_with_sizes_copy", "sqrt", "squeeze_copy", "sub", "sum", "sym_size", "t_copy", "tanh",
    "transpose_copy", "tril", "unsqueeze_copy", "view_copy", "where", "zeros",
})  # fmt: skip
"""ATen operators of both the Linux wheel and the official Android library that programs are tested with."""

RUNTIME = ("dim_order_ops::", "executorch_prim::")
"""Namespaces that are part of every ExecuTorch runtime."""


def check_operators(operators: Sequence[str]) -> None:
    """Raise LoweringError, naming the operator, unless every one is known to be right and on every phone."""
    for operator in operators:
        name = operator.split(".")[0]
        plain = name.removeprefix("aten::")
        if plain in KNOWN_BAD:
            raise LoweringError(f"{name} would reach the program, and {KNOWN_BAD[plain]}; report the model")
        if plain in MISSING_ON_ANDROID:
            raise LoweringError(f"{name} would reach the program, and Android's ExecuTorch does not have it")
        if plain not in ALLOWED and not name.startswith(RUNTIME):
            raise LoweringError(f"{name} has no lowering rule; write the model with operations that have one")
