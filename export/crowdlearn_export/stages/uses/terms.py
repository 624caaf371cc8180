"""What one use of an array adds to its gradients of samples, and the ghost that all uses together have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crowdlearn_export.errors import UnsupportedModule

from ..ghosts import Ghost, added, square

Shaped = Callable[[Tensor], Tensor]
"""A function from a gradient [targets, sources] to the array's own shape."""


def as_it_is(gradient: Tensor) -> Tensor:
    """Return a gradient [targets, sources] itself."""
    return gradient


@dataclass(frozen=True)
class Own:
    """Gradients of samples that are in memory, as those of scales and biases are: float [B, ...]."""

    values: Tensor


@dataclass(frozen=True)
class Outer:
    """A sum over positions of outer products of `left` [B, positions, targets] and `right` [B, positions,
    sources]. `shaped` makes an array's gradient of that.
    """

    left: Tensor
    right: Tensor
    shaped: Shaped = as_it_is


@dataclass(frozen=True)
class Looked:
    """Rows that samples look up in a table of `rows`, int64 [B, positions], with errors float [B, positions,
    width]. The row `padding` learns nothing; -1 stands for none.
    """

    index: Tensor
    errors: Tensor
    rows: int
    padding: int


Term = Own | Outer | Looked


def ghost_of(terms: Sequence[Term]) -> Ghost:
    """Return the ghost of an array, or of a part of one, with these uses. Raises UnsupportedModule if it is
    used as a map and otherwise.
    """
    own = [term.values for term in terms if isinstance(term, Own)]
    if len(own) == len(terms):
        return _of_own(added(own))
    if own:
        raise UnsupportedModule("an array is used as a map and otherwise")
    if len(terms) == 1 and isinstance(terms[0], Looked):
        return _of_table(terms[0])
    return _of_products([_as_products(term) if isinstance(term, Looked) else term for term in terms])


def _of_own(values: Tensor) -> Ghost:
    return Ghost(square(values), lambda factors: torch.tensordot(factors, values, dims=1))


def _of_products(terms: Sequence[Term]) -> Ghost:
    """Return the ghost of outer products over the positions of all uses, in the cheaper of two ways."""
    outers = [term for term in terms if isinstance(term, Outer)]
    left, right = (
        each[0] if len(each) == 1 else torch.cat(each, 1)
        for each in ([term.left for term in outers], [term.right for term in outers])
    )
    shaped, (positions, targets), sources = outers[0].shaped, left.shape[1:], right.shape[2]
    if positions > 1 and positions * (targets + sources) > targets * sources:
        own = torch.bmm(left.transpose(1, 2), right).reshape(-1, targets * sources)

        def of_own(factors: Tensor) -> Tensor:
            return shaped((factors.unsqueeze(0) @ own).reshape(targets, sources))

        return Ghost(square(own), of_own)
    if positions == 1:
        squared = square(left) * square(right)
    else:
        products = torch.bmm(left, left.transpose(1, 2)) * torch.bmm(right, right.transpose(1, 2))
        squared = products.sum((1, 2)).clamp(min=0.0)  # rounding may leave less than nothing

    def summed(factors: Tensor) -> Tensor:
        scaled = (left * factors.reshape(-1, 1, 1)).reshape(-1, targets)
        return shaped(scaled.t() @ right.reshape(-1, sources))

    return Ghost(squared, summed)


def _of_table(term: Looked) -> Ghost:
    """Return the ghost of a table: rows that a sample looks up twice add up."""
    index, errors = term.index, term.errors
    if term.padding >= 0:
        errors = errors * (index != term.padding).to(errors.dtype).unsqueeze(2)
    if index.shape[1] == 1:
        squared = square(errors)
    else:
        same = (index.unsqueeze(2) == index.unsqueeze(1)).to(errors.dtype)
        squared = (torch.bmm(errors, errors.transpose(1, 2)) * same).sum((1, 2)).clamp(min=0.0)

    def summed(factors: Tensor) -> Tensor:
        rows = (errors * factors.reshape(-1, 1, 1)).reshape(-1, errors.shape[2])
        found: Tensor = torch.ops.aten.embedding_dense_backward(rows, index.reshape(-1), term.rows, -1, False)
        return found

    return Ghost(squared, summed)


def _as_products(term: Looked) -> Outer:
    """Return a look-up as a map of one-hot rows, as it adds to other uses of the table."""
    rows = torch.arange(term.rows)
    hot = (term.index.unsqueeze(2) == rows) & (rows != term.padding)
    return Outer(hot.to(term.errors.dtype), term.errors)
