"""The operators that programs may call; the exporter writes no others, and a device loads no others."""

from .android_operators import ON_ANDROID

WRITTEN = frozenset({
    "_log_softmax", "_softmax", "abs", "add", "addmm", "amax", "amin", "any", "arange", "argmax",
    "bmm", "cat", "clamp", "copy", "copy_", "cos", "cumsum", "div", "embedding", "eq", "erf", "exp",
    "expand_copy", "full", "full_like", "gather", "ge", "gelu", "gt", "hardtanh", "index_select",
    "le", "leaky_relu", "linear", "log", "logical_and", "logical_not", "lt", "maximum", "mean",
    "minimum", "mm", "mul", "ne", "neg", "ones", "permute_copy", "pow", "reciprocal", "relu",
    "repeat", "rsqrt", "rsub", "scalar_tensor", "select_copy", "sigmoid", "sin", "slice_copy",
    "split_with_sizes_copy", "sqrt", "squeeze_copy", "sub", "sum", "sym_size", "t_copy", "tanh",
    "transpose_copy", "tril", "unsqueeze_copy", "view_copy", "where", "zeros",
})  # fmt: skip
"""The operators of ATen, without their overloads, that the exporter writes and programs are tested with."""

RUNTIME = ("dim_order_ops::", "executorch_prim::")
"""Namespaces of ExecuTorch's own, of which programs may call what Android's library has."""

ALLOWED = frozenset(
    name
    for name in ON_ANDROID
    if name.startswith(RUNTIME) or name.removeprefix("aten::").split(".")[0] in WRITTEN
)
"""Names with overloads, as in "aten::add.out": those of Android's library that the exporter writes."""
