"""Squared norms of samples' gradients of a model that one device runs as a whole, by how it uses its arrays.

Which uses there are, and where samples are in them, is found once, with numbers in place of symbols. Then
the norms are compared with those of each sample alone: what mixes samples, or uses an array otherwise than it
seems, has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.whole import Whole, rows_first
from crowdlearn_export.tracing.in_float64 import InFloat64

from ..ghosts import Ghost, added
from .terms import Own, Term, ghost_of
from .tracking import Part, Spot, Tracking

_vjp: Any = torch.func.vjp  # its annotation leaves out has_aux
PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
"""Numbers of samples, of which one is no other size of a model, nor goes into one."""
ALIKE = 1e-6
"""The largest difference between squared norms, relative to the largest, in float64."""


class Plan(NamedTuple):
    """The uses of a model's arrays: their spots, and which uses, by number and argument, are of the same part
    of which array. `unknown` says why there are no norms, if there are none.
    """

    spots: tuple[Spot, ...] = ()
    same: tuple[tuple[str, tuple[tuple[int, str], ...]], ...] = ()
    unknown: str = ""


class Found(NamedTuple):
    """The result of a mini-batch: the objective's value, scores [B, ...], and ghosts by array."""

    value: Tensor
    scores: Tensor
    ghosts: Mapping[str, Ghost]


def plan_of(graph: NeuronGraph) -> Plan:
    """Return the uses of the arrays of a network that is a whole."""
    whole, first = graph.whole, graph.layers[0]
    assert whole is not None
    return _planned(whole, (first.neurons, *first.sum_shape))


def norms(
    whole: Whole,
    plan: Plan,
    samples: Tensor,
    arrays: Mapping[str, Tensor],
    factors: Sequence[Tensor],
    objective: Callable[[Tensor], Tensor],
) -> Found:
    """Run samples [B, ...] forward and back. `objective` is the sum over samples of a number for each, of
    scores [B, ...].
    """
    rows = samples.shape[0]
    tapped = [spot for spot in plan.spots if spot.looked is None]
    dtype = next(iter(_learning(whole, arrays).values())).dtype
    taps = [torch.zeros(spot.of_out.shape(spot.shape, rows), dtype=dtype) for spot in tapped]
    modes: list[Tracking] = []

    def forward(*taps: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        def within(given: Mapping[str, Tensor], factors: Sequence[Tensor] | None) -> Tracking:
            modes.append(Tracking(_learning(whole, given), factors, whole.drops, 0, plan.spots, taps))
            return modes[-1]

        scores, _ = whole.run(samples, arrays, factors, training=True, within=within)
        return objective(scores), (scores, [use.read for use in modes[-1].uses])

    value, back, (scores, read) = _vjp(forward, *taps, has_aux=True)
    errors = back(torch.ones_like(value))
    (mode,) = modes
    terms = [
        use.terms(x, error, spot.of_read, spot.of_out)
        for use, x, error, spot in zip(mode.uses, read, errors, tapped, strict=True)
    ]
    parts: dict[str, list[Ghost]] = {name: [] for name in _learning(whole, arrays)}
    for name, uses in plan.same:
        number, argument = uses[0]
        view = mode.parts[number][argument].view
        found = ghost_of([_moving(whole, name, view, terms[at][each]) for at, each in uses])
        parts[name].append(_of_array(found, view, whole.shape(name), arrays[name]))
    return Found(value, scores, {name: _together(each, arrays[name], rows) for name, each in parts.items()})


@cache
def _planned(whole: Whole, sample: tuple[int, ...]) -> Plan:
    if any(each.role == "buffer" for each in whole.arrays):
        return Plan(unknown="running statistics, as batch norm has them, mix samples")
    draw = torch.Generator().manual_seed(0)
    shapes = [sample, *(each.shape for each in whole.arrays), *(each.shape for each in whole.drops)]
    sizes = [size for shape in shapes for size in shape]
    rows = next(prime for prime in PRIMES if all(size % prime for size in sizes) or prime == PRIMES[-1])
    samples = torch.randn(rows, *sample, generator=draw, dtype=torch.float64)
    samples = (samples > 0).long() if whole.integers else samples
    factors = [torch.rand(rows, *each.shape, generator=draw, dtype=torch.float64) for each in whole.drops]
    arrays = _drawn(whole, draw)
    modes: list[Tracking] = []

    def within(given: Mapping[str, Tensor], factors: Sequence[Tensor] | None) -> Tracking:
        modes.append(Tracking(_learning(whole, given), factors, whole.drops, rows))
        return modes[-1]

    try:
        with torch.no_grad(), InFloat64():
            scores, _ = whole.run(samples, arrays, factors, training=True, within=within)
        (mode,) = modes
        if mode.refused:
            return Plan(unknown=mode.refused)
        same, unknown = _grouped(mode.parts)
        plan = Plan(tuple(mode.spots), same, unknown)
        weights = torch.randn(scores.shape, generator=draw, dtype=torch.float64)
        with InFloat64():
            return plan if unknown else _compared(whole, plan, samples, arrays, factors, weights)
    except Exception as error:  # models fail in as many ways as there are
        return Plan(unknown=str(error).partition("\n")[0] or type(error).__name__)


def _drawn(whole: Whole, draw: torch.Generator) -> dict[str, Tensor]:
    """Return a model's arrays in float64, as they travel, with random numbers added to what learns."""
    state, arrays = whole.model.state_dict(), {}
    for each in whole.arrays:
        value = state[each.name].detach().double().reshape(rows_first(each.shape))
        if each.role == "parameter":
            spread = 0.1 * float(value.square().mean().sqrt()) or 0.1
            value = value + spread * torch.randn(value.shape, generator=draw, dtype=torch.float64)
        arrays[each.name] = value
    return arrays


def _grouped(
    parts: Sequence[Mapping[str, Part]],
) -> tuple[tuple[tuple[str, tuple[tuple[int, str], ...]], ...], str]:
    """Return which uses are of the same part, and why there are no norms, if parts overlap."""
    groups: list[tuple[Part, list[tuple[int, str]]]] = []
    for number, of_use in enumerate(parts):
        for argument, part in of_use.items():
            same = False
            for known, uses in groups:
                if known.name != part.name:
                    continue
                assert known.places is not None
                assert part.places is not None
                if torch.equal(known.places, part.places):
                    uses.append((number, argument))
                    same = True
                elif torch.isin(known.places, part.places).any():
                    return (), f"{part.name} is used in parts that overlap"
            if not same:
                groups.append((part, [(number, argument)]))
    return tuple((part.name, tuple(uses)) for part, uses in groups), ""


def _compared(
    whole: Whole,
    plan: Plan,
    samples: Tensor,
    arrays: Mapping[str, Tensor],
    factors: Sequence[Tensor],
    weights: Tensor,
) -> Plan:
    """Return the plan if its norms are those of each sample alone."""
    found = norms(whole, plan, samples, arrays, factors, lambda scores: (scores * weights).sum())
    names = list(_learning(whole, arrays))
    own = {name: arrays[name].clone().requires_grad_() for name in names}
    for row in range(len(samples)):
        one = slice(row, row + 1)
        scores, _ = whole.run(samples[one], {**arrays, **own}, [each[one] for each in factors], training=True)
        alone = torch.autograd.grad((scores * weights[one]).sum(), list(own.values()), materialize_grads=True)
        for name, gradient in zip(names, alone, strict=True):
            exact, squared = float(gradient.square().sum()), found.ghosts[name].squared
            if not abs(float(squared[row]) - exact) <= ALIKE * max(float(squared.max()), 1e-12):
                return Plan(unknown=f"the gradient of {name} does not follow from each sample alone")
    return plan


def _learning(whole: Whole, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {each.name: arrays[each.name] for each in whole.arrays if each.role == "parameter"}


def _moving(whole: Whole, name: str, view: Callable[[Tensor], Tensor], term: Term) -> Term:
    """Return a term without the rows of a bias that get no gradient."""
    rows = whole.still.get(name)
    if rows is None or not isinstance(term, Own):
        return term
    moves = torch.ones(whole.shape(name), dtype=term.values.dtype)
    moves[list(rows)] = 0.0
    return Own(term.values * view(moves))


def _of_array(part: Ghost, view: Callable[[Tensor], Tensor], shape: tuple[int, ...], array: Tensor) -> Ghost:
    """Return the ghost of an array of this shape that is used through a view."""

    def summed(factors: Tensor) -> Tensor:
        _, back = _vjp(lambda array: view(array.reshape(shape)), array)
        found: Tensor = back(part.summed(factors))[0]
        return found

    return Ghost(part.squared, summed)


def _together(parts: Sequence[Ghost], array: Tensor, rows: int) -> Ghost:
    """Return the ghost of an array whose parts have these, and no number in common; `rows` are samples."""
    if not parts:
        return Ghost(array.new_zeros(rows), lambda factors: torch.zeros_like(array))
    if len(parts) == 1:
        return parts[0]
    return Ghost(
        added([part.squared for part in parts]),
        lambda factors: added([part.summed(factors) for part in parts]),
    )
