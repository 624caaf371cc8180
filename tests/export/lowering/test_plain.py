"""Functions in words that the compiler knows equal PyTorch's own, in value and gradient, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from crowdlearn_export.errors import LoweringError, UnsupportedModule
from crowdlearn_export.graph.whole import Dropping
from crowdlearn_export.lowering.lower import lower
from torch import Tensor

from .reference import assert_close, assert_compiles, exact, with_gradients

WEIGHT = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "the largest of windows": lambda x: F.adaptive_max_pool2d(x, (2, 3)),
    "the largest of a map": lambda x: F.adaptive_max_pool2d(x, 1),
    "the largest of a signal": lambda x: F.adaptive_max_pool1d(x.flatten(2), 6),
    "reflected": lambda x: F.pad(x, (1, 2, 3, 0), "reflect"),
    "replicated": lambda x: F.pad(x, (1, 0, 2, 3), "replicate"),
    "around": lambda x: F.pad(x.flatten(2), (2, 1), "circular"),
    "zeros": lambda x: F.pad(x, (1, 2)),
    "bilinear": lambda x: F.bilinear(x[:, :, 0, 0], x[:, :, 1, 2], WEIGHT.to(x.dtype)),
    "response": lambda x: F.local_response_norm(x, 3, alpha=0.5),
    "deviation": lambda x: x.std((2, 3)),
    "variance": lambda x: x.var(1, correction=0),
    "normalised": lambda x: F.normalize(x.flatten(1)),
    "norm": lambda x: torch.linalg.vector_norm(x, 1, (1, 2)),
    "rolled": lambda x: torch.roll(x, (1, -2), (2, 3)),
}


def plainly(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def within(x: Tensor) -> Tensor:
        with Dropping():
            return function(x)

    return within


def maps() -> Tensor:
    return torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("what", FUNCTIONS)
def test_it_is_pytorchs(what: str) -> None:
    function, given = FUNCTIONS[what], [maps()]
    lowered = lower(with_gradients(plainly(function), given), given, (0,))
    assert_close(lowered(*given), exact(function, given))


def test_phones_have_all_that_they_need() -> None:
    def all_of_them(x: Tensor) -> Tensor:
        return torch.cat([function(x).flatten(1) for function in FUNCTIONS.values()], 1)

    assert_compiles(plainly(all_of_them), [maps()])


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.adaptive_max_pool2d(x, 4), "no whole multiple|not a whole multiple"),
        (lambda x: F.pad(x, (7, 0), "reflect"), "does not fit"),
        (lambda x: torch.linalg.vector_norm(x, 3, (1, 2)), "order 3"),
        (lambda x: x.var(0), "over the batch"),
        (lambda x: x * x.new_ones((len(x), 1, 1, 1)), "fixes the size of the batch"),
    ],
)
def test_what_has_no_plain_form_is_refused(function: Callable[[Tensor], Tensor], words: str) -> None:
    given = [maps()]
    with pytest.raises((UnsupportedModule, LoweringError), match=words):
        lower(with_gradients(plainly(function), given), given, (0,))
