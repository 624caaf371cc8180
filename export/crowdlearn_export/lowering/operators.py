"""The operators a program may call: those that the phone's runtime has and that compute what they should."""

from __future__ import annotations

from collections.abc import Sequence

from crowdlearn_device.program.android_operators import ON_ANDROID
from crowdlearn_device.program.operators import ALLOWED

from crowdlearn_export.errors import LoweringError

KNOWN_BAD = {
    "max_pool2d_with_indices_backward": "it adds into memory that it never zeroes",
    "convolution_backward": "it is slower than the products it stands for by two orders of magnitude",
}
"""Operators that run, wrongly or far too slowly, and why."""

INSTEAD = {
    "index": "indexing by tensors, as x[rows, at]; to pick a place of each sample, use x.gather",
    "index_put": "writing at indices that are tensors; multiply by a mask instead",
    "scatter_add": "gathering of more than 32 places along a dimension; use an embedding, or products",
}
"""Operators of functions that have another form that trains, and that form."""


def check_operators(operators: Sequence[str]) -> None:
    """Raise LoweringError, naming the operator, unless every one is known to be right and on every phone."""
    for operator in operators:
        name = operator.split(".")[0]
        plain = name.removeprefix("aten::")
        if plain in KNOWN_BAD:
            raise LoweringError(f"{name} would reach the program, and {KNOWN_BAD[plain]}; report the model")
        if plain in INSTEAD:
            raise LoweringError(f"{name} has no lowering rule; it comes of {INSTEAD[plain]}")
        if operator not in ON_ANDROID:
            raise LoweringError(f"{name} would reach the program, and Android's ExecuTorch does not have it")
        if operator not in ALLOWED:
            raise LoweringError(f"{name} has no lowering rule; write the model with operations that have one")
