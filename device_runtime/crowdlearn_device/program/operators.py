"""The operators that programs may call; the exporter writes no others, and a device loads no others."""

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
