"""Linear maps as a network on shares computes them, inside a model of PyTorch.

`Opened` gives the same bits without any share: fixed point, integers, no randomness. `Triple` runs the sharer
and the three helpers, and lets an observer see what each of them holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import accumulate, pairwise
from secrets import token_bytes
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from crowdlearn_device.privacy.shares.fixed_point import Bits, bits_forward, bits_of_errors
from crowdlearn_device.privacy.shares.linear_map import linear_map
from crowdlearn_device.privacy.shares.replicated import HELPERS, KEY_BYTES, own_keys
from crowdlearn_device.privacy.shares.ring import WEIGHT_BITS, RingProducts
from crowdlearn_device.privacy.shares.triple import Helper, Received, Sharer, facts_of, joined
from crowdlearn_device.protocol.frames import Array, Floats
from crowdlearn_export.ops.signals import on_maps
from torch import Tensor, nn

Kind = Literal["activations", "errors", "masked", "opened"]


@dataclass(frozen=True)
class Held:
    """Numbers that the helper at `position` holds.

    They are both parts of a shared array, uint32 [2, B, ...]; or what it gets of a mini-batch's gradient, the
    others' `masked` parts and the `opened` sum. `bits` are the fractional bits of a shared array, and public.
    """

    position: int
    edge: int
    step: int
    kind: Kind
    values: Array
    bits: Bits = 0


Observer = Callable[[Held], None]


class MapOnShares(Protocol):
    """One linear map of a network, mini-batch after mini-batch; arrays are float32, weights source first."""

    def forward(self, values: Floats, weights: Floats) -> Floats:
        """Return the sums of activations. They are float32 [B, targets, ...]."""
        ...

    def backward(self, errors: Floats, *, back: bool) -> tuple[Floats | None, Floats]:
        """Return the errors of what entered, if they go `back`, and the gradient of the weights.

        Errors are float32 [B, targets, ...].
        """
        ...


class Opened:
    """The arithmetic of shares on numbers in the clear, exact in float64."""

    def __init__(self, kind: str, options: Mapping[str, Any], name: str) -> None:
        self._kind, self._options, self._name = kind, options, name

    def forward(self, values: Floats, weights: Floats) -> Floats:
        """Return the sums of activations. They are float32 [B, targets, ...]."""
        self._linear = linear_map(self._kind, self._options, values.shape[2:])
        self._facts = facts_of(self._linear, weights)
        entering, _ = self._linear.norms(values, None)
        largest = float(np.abs(values).max(initial=0.0))
        column = self._linear.column_norm(values)
        self._bits = bits_forward(largest, entering, column, self._facts, self._name)
        self._values, self._integers = values, _rounded(values, self._bits[0])
        limit = float((1 << WEIGHT_BITS) - 1)
        self._weights = _rounded(weights, self._bits[1]).clamp(-limit, limit)
        return _scaled(self._product(self._integers, self._weights), sum(self._bits))

    def backward(self, errors: Floats, *, back: bool) -> tuple[Floats | None, Floats]:
        """Return the errors of what entered, if they go `back`, and the gradient of the weights.

        Errors are float32 [B, targets, ...].
        """
        bits = self._error_bits(errors)
        below = self._below(errors, bits) if back else None
        gradient = self._derivative(self._weights, errors, bits, self._integers)
        return below, _scaled(gradient, bits + self._bits[0])

    def _error_bits(self, errors: Floats) -> int:
        of_values, of_weights = self._bits
        _, leaving = self._linear.norms(self._values, errors)
        sums = (
            (leaving * self._facts.input_norm, of_weights),
            (self._linear.gradient_bound(self._values, errors), of_values),
        )
        return bits_of_errors(float(np.abs(errors).max(initial=0.0)), sums, self._name)

    def _below(self, errors: Floats, bits: int) -> Floats:
        """Return the errors of what entered, float32 [B, sources, ...]."""
        return _scaled(self._derivative(self._integers, errors, bits, None), bits + self._bits[1])

    def _derivative(self, by: Tensor, errors: Floats, bits: int, values: Tensor | None) -> Tensor:
        """Return the product's derivative by the activations; by the weights if `values` are given."""
        by = by.clone().requires_grad_()
        with torch.enable_grad():
            product = self._product(by, self._weights) if values is None else self._product(values, by)
        (found,) = torch.autograd.grad(product, [by], _rounded(errors, bits))
        return found

    def _product(self, values: Tensor, weights: Tensor) -> Tensor:
        if self._kind == "dense":
            return values.reshape(len(values), -1) @ weights.reshape(-1, weights.shape[-1])
        stride, padding, dilation = (self._options[name] for name in ("stride", "padding", "dilation"))
        if self._kind == "depthwise":
            return F.conv2d(values, weights, None, stride, padding, dilation, len(weights))
        return F.conv2d(values, weights.transpose(0, 1), None, stride, padding, dilation)


class Triple:
    """The same by a sharer and three helpers, whose shares an observer may see."""

    def __init__(
        self, edge: int, kind: str, options: Mapping[str, Any], name: str, observer: Observer | None = None
    ) -> None:
        self._edge, self._kind, self._options, self._name = edge, kind, options, name
        self._observer = observer
        self._step = 0
        self._parties: tuple[Sharer, tuple[Helper, ...]] | None = None

    def forward(self, values: Floats, weights: Floats) -> Floats:
        """Return the sums of activations. They are float32 [B, targets, ...]."""
        self._step += 1
        sharer, helpers = self._parties = self._parties or self._drawn(values.shape[2:])
        for helper in helpers:
            helper.take_weights(weights)
        shared = sharer.activations(self._step, values, helpers[0].facts)
        answers = [helper.forward(Received.at(p, shared)) for p, helper in enumerate(helpers)]
        self._tell("activations", helpers, shared.bits)
        return joined(_both(answers), shared)

    def backward(self, errors: Floats, *, back: bool) -> tuple[Floats | None, Floats]:
        """Return the errors of what entered, if they go `back`, and the gradient of the weights.

        Errors are float32 [B, targets, ...].
        """
        assert self._parties is not None
        sharer, helpers = self._parties
        shared = sharer.errors(self._step, errors, helpers[0].facts)
        below = None
        if back:
            answers = [helper.backward(Received.at(p, shared)) for p, helper in enumerate(helpers)]
            below = joined(_both(answers), shared)
        else:
            for position, helper in enumerate(helpers):
                helper.keep(Received.at(position, shared))
        self._tell("errors", helpers, shared.bits)
        parts = tuple(helper.gradient(self._step) for helper in helpers)
        gradients = [helper.opened(parts) for helper in helpers]
        if self._observer is not None:
            for position in range(HELPERS):
                others = np.stack([part for p, part in enumerate(parts) if p != position])
                self._observer(Held(position, self._edge, self._step, "masked", others))
                self._observer(Held(position, self._edge, self._step, "opened", gradients[position]))
        return below, gradients[0]

    def _drawn(self, source: tuple[int, ...]) -> tuple[Sharer, tuple[Helper, ...]]:
        """Return a triple with fresh keys, for activations whose neurons have this shape."""
        linear = linear_map(self._kind, self._options, source)
        keys = token_bytes(KEY_BYTES), token_bytes(KEY_BYTES), token_bytes(KEY_BYTES)
        products = RingProducts()
        helpers = tuple(Helper(self._edge, linear, p, own_keys(keys, p), products) for p in range(HELPERS))
        return Sharer(self._edge, linear, keys, self._name), helpers

    def _tell(self, kind: Literal["activations", "errors"], helpers: tuple[Helper, ...], bits: Bits) -> None:
        if self._observer is None:
            return
        for position, helper in enumerate(helpers):
            pair = helper.held(errors=kind == "errors")
            both = np.stack([pair.first, pair.second])
            self._observer(Held(position, self._edge, self._step, kind, both, bits))


class Divided:
    """A map whose source neurons several triples hold, `held` by each: every one has the map of its own."""

    def __init__(self, held: Sequence[int], parts: Sequence[MapOnShares], *, depthwise: bool) -> None:
        self._held, self._parts, self._depthwise = held, parts, depthwise

    def forward(self, values: Floats, weights: Floats) -> Floats:
        """Return the sums of activations. They are float32 [B, targets, ...]."""
        ranges = zip(ranges_of(self._held, values.shape[1]), ranges_of(self._held, len(weights)), strict=True)
        found = [
            part.forward(values[:, own], weights[rows])
            for part, (own, rows) in zip(self._parts, ranges, strict=True)
        ]
        return np.concatenate(found, axis=1) if self._depthwise else reduce(np.add, found)

    def backward(self, errors: Floats, *, back: bool) -> tuple[Floats | None, Floats]:
        """Return the errors of what entered, if they go `back`, and the gradient of the weights.

        Errors are float32 [B, targets, ...].
        """
        ranges = ranges_of(self._held, errors.shape[1])
        found = [
            part.backward(errors[:, own] if self._depthwise else errors, back=back)
            for part, own in zip(self._parts, ranges, strict=True)
        ]
        below = [each for each, _ in found if each is not None]
        gradient = np.concatenate([each for _, each in found])
        return (np.concatenate(below, axis=1) if below else None), gradient


def ranges_of(held: Sequence[int], numbers: int) -> list[slice]:
    """Return each triple's range of so many numbers, as many of each neuron."""
    ends = [end * numbers // sum(held) for end in accumulate(held, initial=0)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def maps_of(edges: Mapping[str, int], held: Mapping[str, Sequence[int]]) -> dict[int, tuple[str, int]]:
    """Return the module's name and the triple of each map, by its number: that of its edge, or for further
    triples of one behind all edges.
    """
    count = 1 + max(edges.values(), default=0)
    return {
        edge + triple * count: (name, triple)
        for name, edge in edges.items()
        for triple, neurons in enumerate(held.get(name, (1,)))
        if neurons
    }


Made = Callable[[int, str, Mapping[str, Any], str], MapOnShares]
"""A function that makes a map: of its number, kind, attributes and name."""


def opened(edge: int, kind: str, options: Mapping[str, Any], name: str) -> MapOnShares:
    """Make a map without shares."""
    return Opened(kind, options, name)


def put_on_shares(
    model: nn.Module,
    edges: Mapping[str, int],
    made: Made = opened,
    held: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Let the modules named in `edges` compute as on shares while the model trains.

    `held` are the neurons of each triple, of what enters a module, by its name: of one triple, if it is not
    named.
    """
    numbered = maps_of(edges, held or {})
    for name in edges:
        module = model.get_submodule(name)
        options: dict[str, Any] = {}
        kind = "dense"
        if isinstance(maps := on_maps(module), nn.Conv2d):
            kind = "depthwise" if maps.groups > 1 else "conv"
            options = {"kernel": maps.kernel_size, "stride": maps.stride, "dilation": maps.dilation}
            options["padding"] = _padding(maps)
        parts = [made(number, kind, options, name) for number, (each, _) in numbered.items() if each == name]
        neurons = [n for n in (held or {}).get(name, ()) if n]
        of = parts[0] if len(parts) == 1 else Divided(neurons, parts, depthwise=kind == "depthwise")
        module.forward = partial(_forward, model, module, module.forward, of)


def _padding(module: nn.Conv2d) -> tuple[int, int]:
    if isinstance(module.padding, str):
        same = module.padding == "same"
        pads = [d * (k - 1) // 2 * same for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return pads[0], pads[1]
    return module.padding[0], module.padding[1]


def _forward(
    model: nn.Module, module: nn.Module, whole: Callable[[Tensor], Tensor], of: MapOnShares, x: Tensor
) -> Tensor:
    if not model.training:
        return whole(x)
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    depthwise = isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups > 1
    kernels = weight if depthwise else weight.transpose(0, 1)
    if isinstance(module, nn.Conv1d):  # a signal is a map of height 1
        sums = _OnShares.apply(x.unsqueeze(2), kernels.unsqueeze(2), of).squeeze(2)  # type: ignore[no-untyped-call]
    else:
        sums = _OnShares.apply(x, kernels, of)  # type: ignore[no-untyped-call]
    if isinstance(bias, Tensor):
        sums = sums + bias.reshape(1, -1, *(1 for _ in sums.shape[2:]))
    return sums


class _OnShares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, of: MapOnShares) -> Tensor:
        ctx.of = of
        return torch.from_numpy(of.forward(values.detach().numpy(), weights.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor | None, Tensor, None]:
        below, gradient = ctx.of.backward(errors[0].numpy(), back=ctx.needs_input_grad[0])
        return None if below is None else torch.from_numpy(below), torch.from_numpy(gradient), None


def _both(answers: list[Any]) -> tuple[Any, Any]:
    first, second = (answer for answer in answers if answer is not None)
    return first, second


def _rounded(values: Floats, bits: int) -> Tensor:
    return torch.from_numpy(np.rint(values.astype(np.float64) * 2.0**bits))


def _scaled(integers: Tensor, bits: int) -> Floats:
    """Return integers as real numbers, float32."""
    return np.ascontiguousarray((integers * 2.0**-bits).numpy(), np.float32)
