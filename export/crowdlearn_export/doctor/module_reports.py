"""What each of a model's modules can do alone: whether it slices, whether it trains, and why not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crowdlearn_export.errors import ExportError, UnsupportedModule
from crowdlearn_export.graph.whole import Dropping
from crowdlearn_export.stages.dropout import with_factors
from crowdlearn_export.tracing import layout
from crowdlearn_export.tracing.copies import copied
from crowdlearn_export.tracing.trace import trace


@dataclass(frozen=True)
class ModuleReport:
    """A module that a forward pass calls: whether it slices, whether it trains at all, and why not; and what
    is frozen of it, in words.
    """

    name: str
    kind: str
    slices: bool
    trains: bool
    reason: str = ""
    frozen: str = ""


@dataclass(frozen=True)
class _Call:
    """A module and what it was given first."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def module_reports(model: nn.Module, inputs: Tensor) -> tuple[tuple[ModuleReport, ...], tuple[int, ...]]:
    """Report on the innermost modules that a forward pass calls, and the shape of a sample's scores.

    Raises ExportError if it does not give one tensor of scores for such a batch.
    Inputs are float32 [B, ...].
    """
    calls, scores = _calls(model, inputs)
    return tuple(_module(name, call) for name, call in calls.items()), scores


def _module(name: str, call: _Call) -> ModuleReport:
    kind = type(call.module).__name__
    untrained = why_not(lambda: _lower_alone(call))
    unsliced = untrained or why_not(lambda: _slice_alone(call))
    reason = unsliced.split("; supported")[0].removeprefix(f"it ({kind}): ")
    return ModuleReport(name, kind, not unsliced, not untrained, reason, _frozen(call.module))


def _frozen(module: nn.Module) -> str:
    """Return which weights are frozen, and whether statistics are fixed, in words; "" if nothing is."""
    weights = dict(module.named_parameters())
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    fixed = isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.training
    parts = ["frozen"] if frozen and len(frozen) == len(weights) else [f"{name} frozen" for name in frozen]
    return ", ".join([*parts, *(["statistics fixed"] if fixed else [])])


def _calls(model: nn.Module, inputs: Tensor) -> tuple[dict[str, _Call], tuple[int, ...]]:
    """Return the innermost modules that a forward pass calls, and the shape of a sample's scores."""
    found: dict[str, _Call] = {}
    watched = copied(model)
    for name, module in watched.named_modules():

        def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
            found.setdefault(name, _Call(model.get_submodule(name), args, kwargs))

        module.register_forward_pre_hook(see, with_kwargs=True)
    try:
        with torch.no_grad():
            out = watched(inputs)
    except Exception as error:  # whatever a user's model raises
        shape = tuple(inputs.shape[1:])
        raise ExportError(
            f"the model does not run on float32 samples of shape {shape}: {error}"
            f"{layout.remedy(copied(model).eval(), shape)}"
        ) from error
    if not isinstance(out, Tensor) or out.dim() not in (2, 3) or not out.numel():
        one = isinstance(out, Tensor) and out.dim() == 1
        squeezed = "; leave its last squeeze out, so that it gives [batch, 1]" if one else ""
        given = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        pixels = isinstance(out, Tensor) and out.dim() == 4
        flat = "; for scores of each place of a map end in .flatten(2).transpose(1, 2)" if pixels else ""
        raise ExportError(
            f"the model gives {given}; it must give one tensor of scores, [batch, classes] or "
            f"[batch, positions, classes]{squeezed}{flat}"
        )
    innermost = {
        name: call
        for name, call in found.items()
        if name and not any(other.startswith(f"{name}.") for other in found)
    }
    return innermost, tuple(out.shape[1:])


def _lower_alone(call: _Call) -> None:
    """Lower the module's value and gradients. Raises what tracing and lowering raise."""
    from crowdlearn_export.lowering.lower import lower  # takes seconds

    given = call.args[0]
    module = with_factors(_First(call).train(call.module.training), given)[0]
    parameters = {n: p.detach() for n, p in module.named_parameters()}

    def out(p: dict[str, Tensor], x: Tensor) -> Tensor:
        # A module writes to its buffers: each trial gets its own.
        buffers = {n: b.clone() for n, b in module.named_buffers()}
        with Dropping():
            return torch.func.functional_call(module, {**p, **buffers}, (x.clone(),))

    def backward(x: Tensor) -> tuple[Tensor, ...]:
        if not x.is_floating_point():
            value, vjp = torch.func.vjp(lambda p: out(p, x), parameters)[:2]
            return tuple(vjp(value)[0].values())
        value, vjp = torch.func.vjp(out, parameters, x)[:2]
        slopes, error = vjp(value)
        return (*slopes.values(), error)

    lower(backward, (given,), (0,))


class _First(nn.Module):
    """A module as a function of the first thing that it was given."""

    def __init__(self, call: _Call) -> None:
        super().__init__()
        self.it = copy.deepcopy(call.module)
        first, *rest = call.args
        self._call = _Call(call.module, tuple(None if a is first else a for a in rest), call.kwargs)
        self._again = [a is first for a in rest]

    def forward(self, x: Tensor) -> Tensor:
        rest = [x if again else a for a, again in zip(self._call.args, self._again, strict=True)]
        out = self.it(x, *rest, **self._call.kwargs)
        first: Tensor = out[0] if isinstance(out, tuple) else out
        return first


def _slice_alone(call: _Call) -> None:
    """Trace the module behind a linear map that it can belong to. Raises UnsupportedModule."""
    given = call.args[0]
    if len(call.args) > 1 or given.dim() not in (2, 3, 4):
        raise UnsupportedModule(
            f"it sees {tuple(given.shape[1:])}; neurons are features, or channels of maps and signals"
        )
    module, neurons = copy.deepcopy(call.module), given.shape[1]
    before: list[nn.Module] = []
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        maps = nn.Conv1d if given.dim() == 3 else nn.Conv2d
        before = [nn.Linear(neurons, neurons) if given.dim() == 2 else maps(neurons, neurons, 1)]
    trace(nn.Sequential(*before, module), given)


def why_not(attempt: Callable[[], object]) -> str:
    """Return nothing where `attempt` succeeds, else what its error says."""
    try:
        attempt()
    except Exception as error:  # tracing runs a user's modules
        return in_words(error)
    return ""


def in_words(error: Exception) -> str:
    """Return why something could not be traced, for who wrote the model."""
    text = str(error)
    if isinstance(error, ExportError):
        return text
    if "data-dependent" in text or "control flow" in text:
        return "its forward branches on the values of a tensor; compute both sides and choose by a product"
    if "Constraints violated" in text or "specialized" in text:
        return "it fixes the size of the batch, as a reshape by a number does; reshape with -1 for the batch"
    if any(each in text for each in ("symbolic sizes/strides", "SymInt", "INTERNAL ASSERT")):
        return "PyTorch cannot trace it for batches of any size, or it draws random numbers"
    return f"it cannot be traced: {text}".splitlines()[0]
