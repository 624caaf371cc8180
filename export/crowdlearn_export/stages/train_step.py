"""A whole model's training step as one method: loss, gradients and the optimizer's step inside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from crowdlearn_device.optimizers.base import RATE, Optimizer
from crowdlearn_device.optimizers.sgd import Sgd
from torch import Tensor, nn

from crowdlearn_export.compiler.method import Method
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.dropping import Drop

from .dropout import FACTORS, with_factors

Loss = Callable[[Tensor, Tensor], Tensor]
COUNTER = "num_batches_tracked"
"""The buffer in which a batch norm counts its batches, and which it does not read if it has a momentum."""


PLAIN = Sgd()


@dataclass(frozen=True)
class TrainStep:
    """A step and what it starts from.

    The method takes the tensors of `state` in their order, then inputs and targets; then the optimizer's
    numbers (scalar tensors, the learning rate first), and the factors of every dropout in `dropped`
    (`dropout.masks` draws them). It returns the loss, and writes the new state over the old one. State names
    are those of the model; what an optimizer keeps of parameter `w` is as `momentum.w`.
    """

    method: Method
    state: Mapping[str, Tensor]
    dropped: Mapping[str, Drop]


def train_step(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    optimizer: Optimizer = PLAIN,
) -> TrainStep:
    """Return one step of an optimizer on `model`, in the mode (train or eval) that it is in.

    `inputs` and `targets` are an example batch of at least 2. Parameters that need no gradient, and buffers
    of whole numbers, are constants of the program. `model` stays as it is. Raises LoweringError for a dropout
    that is no product with factors, or is called more than once. Raises UnsupportedModule for a module with
    weights that has two names, and for whole numbers that a call changes. Inputs are float32 [B, ...],
    targets [B, ...].
    """
    _refuse_tied(model)
    dropping, dropped = with_factors(model, inputs)
    parameters = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    buffers = {n: b.detach().clone() for n, b in model.named_buffers() if b.is_floating_point()}
    constants = _constants(model, inputs)
    slots = {f"{s}.{n}": torch.zeros_like(p) for s in optimizer.slots for n, p in parameters.items()}
    state = {**parameters, **slots, **buffers}

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        now = dict(zip(state, tensors[: len(state)], strict=True))
        x, y, *rest = tensors[len(state) :]
        factors = rest[len(optimizer.numbers) :]
        numbers = dict(zip(optimizer.numbers, rest, strict=False))
        drawn = {f"{name}.{FACTORS}": f for name, f in zip(dropped, factors, strict=True)}

        def objective(weights: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
            # A module writes to its buffers: it gets copies, which become outputs.
            written = {n: now[n].clone() for n in buffers}
            counted = {n: torch.zeros(c.shape, dtype=c.dtype) for n, c in constants.items() if COUNTER in n}
            tensors = {**weights, **written, **constants, **counted, **drawn}
            value = loss(torch.func.functional_call(dropping, tensors, (x,)), y)
            # The rate can scale one number instead of every gradient, if the step is linear.
            return value * numbers[RATE] if optimizer.is_linear else value, (value, written)

        weights = {n: now[n] for n in parameters}
        gradients, (value, written) = torch.func.grad(objective, has_aux=True)(weights)
        updated: dict[str, Tensor] = {}
        for name, weight in weights.items():
            if optimizer.is_linear:
                updated[name] = optimizer.scaled_step(weight, gradients[name], numbers)
                continue
            kept = [f"{slot}.{name}" for slot in optimizer.slots]
            moved = optimizer.step(weight, gradients[name], [now[n] for n in kept], numbers)
            updated |= zip((name, *kept), moved, strict=True)
        updated |= written
        return (value, *(updated[n] for n in state))

    ones = [torch.ones(len(inputs), *drop.shape) for drop in dropped.values()]
    scalars = [torch.tensor(0.1) for _ in optimizer.numbers]
    example = (*state.values(), inputs, targets, *scalars, *ones)
    rate = len(state) + 2
    batched = (rate - 2, rate - 1, *range(rate + len(scalars), len(example)))
    updates = {1 + i: i for i in range(len(state))}
    return TrainStep(Method("train_step", step, example, batched, updates), state, dropped)


def _refuse_tied(model: nn.Module) -> None:
    """Refuse a module with two names: torch.func.functional_call would leave its own tensors in it."""
    names: dict[nn.Module, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        first = names.setdefault(module, name)
        if first != name and module.state_dict():
            raise UnsupportedModule(
                f"{name} ({type(module).__name__}) is {first}, used twice; give each use its own weights"
            )


def _constants(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the buffers that hold no float32, as they stay."""
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.training
            and module.momentum is None
        ):
            raise UnsupportedModule(
                f"{name} ({type(module).__name__}): its average over all batches has no lowering; give it "
                "a momentum"
            )
    constants = {n: b.detach() for n, b in model.named_buffers() if not b.is_floating_point()}
    read = {name: before for name, before in constants.items() if COUNTER not in name}
    if not read:
        return constants
    called = copy.deepcopy(model)
    with torch.no_grad():
        called(inputs)
    after = dict(called.named_buffers())
    for name, before in read.items():
        if not torch.equal(before, after[name]):
            raise UnsupportedModule(
                f"{name} changes at every call, and a program keeps no whole numbers; leave it out"
            )
    return constants
