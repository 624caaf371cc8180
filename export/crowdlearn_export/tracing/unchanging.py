"""The gate of every model: a call leaves modules and weights as they are, and depends on no earlier call.

A program computes what one call computed when it was traced, and moves weights by their gradients alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.freezing import resting_modules, to_training
from crowdlearn_export.ops.local_ops import describe

from .copies import copied
from .evaluation import ROWS, agree, ran
from .undropped import Undropped


def check_unchanging(
    model: nn.Module,
    sample: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    sliced: bool = False,
) -> None:
    """Run a copy of the model in training and in evaluation, on the same samples again after others, with the
    same buffers and without dropout. `sample` is the shape of one sample. A model that is `sliced` is read in
    training mode, so that its forward must not leave that.

    Raises UnsupportedModule naming what a call changed, or if scores depend on earlier calls.
    """
    draw = torch.Generator().manual_seed(0)
    numbers = (torch.randn(ROWS, *sample, generator=draw) for _ in range(2))
    x, other = (each if dtype.is_floating_point else (each > 0).to(dtype) for each in numbers)
    tried = copied(model)
    to_training(tried, resting_modules(tried))
    modules = dict(tried.named_modules())
    parameters = dict(tried.named_parameters())
    kept = {name: value.detach().clone() for name, value in (*parameters.items(), *tried.named_buffers())}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), Undropped():
        for mode in ("training", "evaluation"):
            state = _state(tried, modes=sliced)
            given = [_scores(tried, rows, kept) for rows in (x, other, x)]
            _check_modules(modules, dict(tried.named_modules()))
            _check_parameters(parameters, dict(tried.named_parameters()), kept)
            _check_state(state, _state(tried, modes=sliced))
            if not agree(given[0], given[2]):
                raise UnsupportedModule(
                    f"{type(model).__name__} gives other scores for the same samples and weights in {mode}; "
                    "its forward must not depend on random numbers or earlier calls; state that moves is a "
                    "buffer (register_buffer)"
                )
            tried.eval()


def _scores(model: nn.Module, x: Tensor, kept: dict[str, Tensor]) -> Tensor:
    """Return what the model gives for samples, where it has the buffers that it began with."""
    for name in [name for name, _ in model.named_buffers() if name in kept]:
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner)._buffers[own] = kept[name].clone()
    scores = ran(model, x, or_else=", or not a second time", advice="every call must do the same")
    return scores.detach().clone() if isinstance(scores, Tensor) else torch.zeros(0)


def _check_modules(before: dict[str, nn.Module], after: dict[str, nn.Module]) -> None:
    for name, module in (before | after).items():
        if before.get(name) is not after.get(name):
            raise UnsupportedModule(
                f"{describe(name, module)} is replaced, added or removed while the model runs; make its "
                "modules in __init__, once"
            )


def _check_parameters(
    before: dict[str, nn.Parameter], after: dict[str, nn.Parameter], kept: dict[str, Tensor]
) -> None:
    for name in before | after:
        same = before.get(name) is after.get(name)
        if not same or not torch.equal(after[name].nan_to_num(), kept[name].nan_to_num()):
            raise UnsupportedModule(
                f"{name} is written to while the model runs, and training moves weights by their gradients "
                "alone; compute with a changed copy in forward, as self.weight.clamp(-1, 1)"
            )


def _state(model: nn.Module, *, modes: bool) -> dict[str, tuple[object, ...]]:
    """Return how each module runs, by name: its mode if `modes` count, its hooks, and which of its parameters
    learn.
    """
    return {
        describe(name, module) if name else "the model": (
            modes and module.training,
            *module._forward_hooks,
            *module._forward_pre_hooks,
            *(value.requires_grad for value in module.parameters(recurse=False)),
        )
        for name, module in model.named_modules()
    }


def _check_state(before: dict[str, tuple[object, ...]], after: dict[str, tuple[object, ...]]) -> None:
    for name, state in before.items():
        if state != after[name]:
            raise UnsupportedModule(
                f"{name} is switched while the model runs (its mode, a hook, or what of it learns); do that "
                "before training, once"
            )
