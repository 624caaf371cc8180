"""GRU and LSTM, written out step by step, in as few operations as a step can have.

All that does not wait for the step before is computed for all steps at once: what the inputs give the gates,
the slopes of the gates, and the gradients of the weights, which are one product each. So a step goes forward
and back in some thirty operations, and compiling takes a few tenths of a second for each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from crowdlearn_export.errors import UnsupportedModule

LONGEST = 256
"""Steps of the longest recurrence that is written out: compiling takes the longer, the longer it is."""


class Drop(Protocol):
    """Dropout with a probability, of float32 [...]."""

    def __call__(self, x: Tensor, probability: float) -> Tensor: ...


class _Gru(torch.autograd.Function):
    """A layer of a GRU: the states [L, B, H], and what the way back needs.

    They come of the inputs' gates [L, B, 3 * H], a state [B, H] before the first step, and the weights of
    states.
    """

    @staticmethod
    def forward(gates: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None, back: bool) -> Any:
        size = h.shape[1]
        cut = [2 * size, size]
        both_weights, both_bias = weight[: 2 * size], None if bias is None else bias[: 2 * size]
        new_weights, new_bias = weight[2 * size :], None if bias is None else bias[2 * size :]
        entering, entering_new = torch.split(gates, cut, 2)
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for step, step_new in _order(_steps(entering, entering_new), back):
            both = torch.sigmoid(step + F.linear(h, both_weights, both_bias))
            held = F.linear(h, new_weights, new_bias)
            new = torch.tanh(step_new + both[:, :size] * held)
            h = new + both[:, size:] * (h - new)
            found.append((h, both, held, new))
        return tuple(_stacked(each, back) for each in zip(*found, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, start, weight, bias, ctx.back = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(start, weight, *output)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        start, weight, states, both, held, new = ctx.saved_tensors
        size = start.shape[1]
        reset, update = both[..., :size], both[..., size:]
        before = _before(start, states, ctx.back)
        of_new = (1 - update) * (1 - new * new)
        inner = torch.cat([held * reset * (1 - reset), (before - new) * update * (1 - update), reset], 2)
        down: Tensor | None = None
        found: list[tuple[Tensor, Tensor]] = []
        for slope, by_new, by_inner, stays in _order(_steps(slopes[0], of_new, inner, update), not ctx.back):
            slope = slope if down is None else slope + down
            entered = slope * by_new
            product = torch.cat([entered, slope, entered], 1) * by_inner
            down = slope * stays + product @ weight
            found.append((entered, product))
        entered, products = (_stacked(each, not ctx.back) for each in zip(*found, strict=True))
        gates = torch.cat([products[..., : 2 * size], entered], 2)
        return (gates, down, *_of_weights(products, before, ctx.biased), None)


class _Lstm(torch.autograd.Function):
    """A layer of an LSTM: the states [L, B, H], the last cell [B, H], and what the way back needs.

    They come of the inputs' gates [L, B, 4 * H], both states [B, H] before the first step, and the weights of
    states.
    """

    @staticmethod
    def forward(gates: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor | None, back: bool) -> Any:
        size = h.shape[1]
        found: list[tuple[Tensor, ...]] = []
        for (step,) in _order(_steps(gates), back):
            sums = step + F.linear(h, weight, bias)
            both, cell = torch.sigmoid(sums), torch.tanh(sums[:, 2 * size : 3 * size])
            c = both[:, size : 2 * size] * c + both[:, :size] * cell
            seen = torch.tanh(c)
            h = both[:, 3 * size :] * seen
            found.append((h, c, both, cell, seen))
        states, cells, *rest = (_stacked(each, back) for each in zip(*found, strict=True))
        return (states, c.clone(), cells, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, start, first, weight, bias, ctx.back = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(start, first, weight, output[0], *output[2:])

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        start, first, weight, states, cells, both, cell, seen = ctx.saved_tensors
        enter, forget, _, leave = both.chunk(4, 2)
        before, old = _before(start, states, ctx.back), _before(first, cells, ctx.back)
        of_cell = leave * (1 - seen * seen)
        inner = torch.cat(
            [cell * enter * (1 - enter), old * forget * (1 - forget), enter * (1 - cell * cell)], 2
        )
        of_leave = seen * leave * (1 - leave)
        each = _steps(slopes[0], of_cell, inner, of_leave, forget)
        down: Tensor | None = None
        kept, found = slopes[1], []
        for slope, by_cell, by_inner, by_leave, forgets in _order(each, not ctx.back):
            slope = slope if down is None else slope + down
            kept = kept + slope * by_cell
            sums = torch.cat([torch.cat([kept, kept, kept], 1) * by_inner, slope * by_leave], 1)
            kept, down = kept * forgets, sums @ weight
            found.append(sums)
        gates = _stacked(found, not ctx.back)
        return (gates, down, kept, *_of_weights(gates, before, ctx.biased), None)


def gru(
    x: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    drop: Drop,
) -> tuple[Tensor, Tensor]:
    """Compute torch.gru, step by step. Inputs are float32 [B, L, features]."""

    def layer(gates: Tensor, at: int, weights: Sequence[Tensor], *, back: bool) -> Tensor:
        bias = weights[3] if len(weights) > 2 else None
        states: Tensor = _Gru.apply(gates, hx[at], weights[1], bias, back)[0]  # type: ignore[no-untyped-call]
        return states

    between = functools.partial(drop, probability=dropout if train else 0.0)
    out, last = _layers(layer, x, params, has_biases, num_layers, between, bidirectional, batch_first)
    return out, torch.stack(last)


def lstm(
    x: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    drop: Drop,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute torch.lstm, step by step. Inputs are float32 [B, L, features]."""
    cells = []

    def layer(gates: Tensor, at: int, weights: Sequence[Tensor], *, back: bool) -> Tensor:
        bias = weights[3] if len(weights) > 2 else None
        states, cell, *_ = _Lstm.apply(gates, hx[0][at], hx[1][at], weights[1], bias, back)  # type: ignore[no-untyped-call]
        cells.append(cell)
        return states

    between = functools.partial(drop, probability=dropout if train else 0.0)
    out, last = _layers(layer, x, params, has_biases, num_layers, between, bidirectional, batch_first)
    return out, torch.stack(last), torch.stack(cells)


def gru_cell(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    weight_of_states: Tensor,
    bias: Tensor | None = None,
    bias_of_states: Tensor | None = None,
) -> Tensor:
    """Compute torch.gru_cell, a step of samples float32 [B, features] and states [B, H]."""
    gates = F.linear(x, weight, bias).unsqueeze(0)
    states: Tensor = _Gru.apply(gates, h, weight_of_states, bias_of_states, False)[0]  # type: ignore[no-untyped-call]
    return states[0]


def lstm_cell(
    x: Tensor,
    state: Sequence[Tensor],
    weight: Tensor,
    weight_of_states: Tensor,
    bias: Tensor | None = None,
    bias_of_states: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute torch.lstm_cell, a step of samples float32 [B, features], states and cells [B, H]."""
    gates = F.linear(x, weight, bias).unsqueeze(0)
    states, cell, *_ = _Lstm.apply(gates, *state, weight_of_states, bias_of_states, False)  # type: ignore[no-untyped-call]
    return states[0], cell


def _layers(
    layer: Callable[..., Tensor],
    x: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    between: Callable[[Tensor], Tensor],
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Return the states of the last layer [B, L, H], or [L, B, H], as they came; and the last of every
    layer. Inside, samples stand side by side at each step, [L, B, features]: inputs are narrower than gates.
    """
    each, ways = 4 if has_biases else 2, 2 if bidirectional else 1
    if len(params) != each * num_layers * ways:
        raise UnsupportedModule("a recurrence with projections cannot be trained; leave proj_size out")
    x = x.transpose(0, 1) if batch_first else x
    if x.shape[0] > LONGEST:
        raise UnsupportedModule(
            f"a recurrence of {x.shape[0]} steps is too long, {LONGEST} are possible; shorten the sequence "
            "first, as Conv1d or AvgPool1d with a stride do, or give shorter samples"
        )
    last = []
    for number in range(num_layers):
        x = between(x) if number else x
        found = []
        for way in range(ways):
            at = number * ways + way
            weights = params[each * at : each * (at + 1)]
            gates = F.linear(x, weights[0], weights[2] if has_biases else None)
            states = layer(gates, at, weights, back=way == 1)
            found.append(states)
            last.append(states[0] if way else states[-1])
        x = torch.cat(found, 2) if ways > 1 else found[0]
    return x.transpose(0, 1) if batch_first else x, last


def _steps(*each: Tensor) -> list[tuple[Tensor, ...]]:
    """Return the steps of tensors [L, B, ...], side by side."""
    return [tuple(x.select(0, at) for x in each) for at in range(each[0].shape[0])]


def _order(steps: Sequence[Any], back: bool) -> Sequence[Any]:
    return steps[::-1] if back else steps


def _stacked(steps: Sequence[Tensor], back: bool) -> Tensor:
    """Return steps in the order of time, [L, B, ...]."""
    return torch.stack(tuple(_order(steps, back)))


def _before(start: Tensor, states: Tensor, back: bool) -> Tensor:
    """Return the state before each step, [L, B, H]."""
    first = start.unsqueeze(0)
    return torch.cat([states[1:], first] if back else [first, states[:-1]])


def _of_weights(sums: Tensor, before: Tensor, biased: bool) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of the weights of states and of their bias, from those [L, B, gates] of the sums
    of all steps.
    """
    rows = sums.reshape(-1, sums.shape[2])
    return rows.t() @ before.reshape(-1, before.shape[2]), rows.sum(0) if biased else None


RECURRENT: dict[str, Callable[..., Any]] = {"gru": gru, "lstm": lstm}
"""The recurrences, by the name of the function."""
CELLS: dict[str, Callable[..., Any]] = {"gru_cell": gru_cell, "lstm_cell": lstm_cell}
"""Single steps of them."""
