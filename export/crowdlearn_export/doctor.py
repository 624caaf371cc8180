"""What a model's modules can do here, before anything is exported."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from crowdlearn_device.executor import ExecuTorchExecutor
from torch import Tensor, nn

from .backends import multiplications, near_border
from .compile import Method, compile_lowered, lower_methods
from .dropout import with_factors
from .errors import ExportError, UnsupportedModule
from .kinks import away_from_kinks_of, double
from .lowering import lower
from .lowering.backend import choose_backend
from .parity import FLOAT32, PARITY, relative_error
from .trace import neuron_graph, trace
from .trace_parity import copied
from .train_step import train_step


@dataclass(frozen=True)
class ModuleReport:
    """A module that a forward pass calls: whether it slices, whether it trains at all, and why not."""

    name: str
    kind: str
    slices: bool
    trains: bool
    reason: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """A model's report. `slices` is empty where it can be sliced, else the reason why it only trains whole.

    Sizes are those of the whole training step for batches up to the example's: program without weights,
    weights, and the memory that the step takes beside both. `backend` is whose kernels it runs on, for the
    `multiplications` of its matrix products; `either` where they are so few that measuring decides.
    `gradient_error` is relative, against float64 autograd, and `float32_error` that of PyTorch's own float32;
    None where the step cannot be compiled, and `compiles` then says why.
    """

    modules: tuple[ModuleReport, ...]
    slices: str
    compiles: str
    program_bytes: int = 0
    step_bytes: int = 0
    weight_bytes: int = 0
    backend: str = ""
    multiplications: int = 0
    either: bool = False
    gradient_error: float | None = None
    float32_error: float | None = None

    @property
    def exact(self) -> bool:
        """Whether the gradients are as good as they have to be."""
        return self.gradient_error is not None and self.gradient_error <= self.allowed < math.inf

    @property
    def allowed(self) -> float:
        """The largest error of gradients that passes."""
        return max(PARITY, FLOAT32 * (self.float32_error or 0.0))


@dataclass(frozen=True)
class _Call:
    """A module and what it was given first."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def diagnose(model: nn.Module, inputs: Tensor) -> Diagnosis:
    """Try everything that training `model` on such batches needs, and tell how it went.

    The labels are of as many classes as the model gives scores. Raises ExportError where it does not give
    one tensor of scores for such a batch, or has other weights than float32 ones.
    """
    calls, classes = _calls(model, inputs)
    targets = torch.arange(len(inputs)) % classes
    slices = _why_not(lambda: neuron_graph(model, inputs))
    modules = tuple(_module(name, call) for name, call in calls.items())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    if not weights:
        return Diagnosis(modules, slices, "the model has nothing that learns")
    try:
        step = train_step(model, nn.functional.cross_entropy, inputs, targets)
        (graph,) = (lowered := lower_methods([step.method])).values()
        backend = choose_backend(graph)
        backends = {step.method.name: backend}
        program = compile_lowered([step.method], lowered, backends, len(inputs))
    except Exception as error:  # the exporter fails in as many ways as there are models
        untrained = [f"{m.name} ({m.kind}): {m.reason}" for m in modules if not m.trains]
        return Diagnosis(modules, slices, "; ".join(untrained) or in_words(error), weight_bytes=weights)
    errors = _gradient_errors(model, step.method, program.pte, inputs, targets, list(step.state))
    return Diagnosis(
        modules,
        slices,
        "",
        len(program.pte),
        program.arena_bytes + program.workspace_bytes,
        weights,
        backend,
        multiplications(graph),
        near_border(graph),
        *errors,
    )


def in_words(error: Exception) -> str:
    """Why something could not be traced, for who wrote the model."""
    text = str(error)
    if isinstance(error, ExportError):
        return text
    if "data-dependent" in text or "control flow" in text:
        return "its forward branches on the values of a tensor; compute both sides and choose by a product"
    if "Constraints violated" in text or "specialized" in text:
        return "it fixes the size of the batch, as a reshape by a number does; reshape with -1 for the batch"
    if "symbolic sizes/strides" in text:
        return "PyTorch cannot trace it for batches of any size, or it draws random numbers"
    return f"it cannot be traced: {text}".splitlines()[0]


def _why_not(attempt: Callable[[], object]) -> str:
    """Nothing where `attempt` succeeds, else what its error says."""
    try:
        attempt()
    except Exception as error:  # tracing runs a user's modules
        return in_words(error)
    return ""


def _calls(model: nn.Module, inputs: Tensor) -> tuple[dict[str, _Call], int]:
    """The innermost modules that a forward pass calls, and how many classes it gives scores of."""
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
        raise ExportError(f"the model does not run on float32 samples of shape {shape}: {error}") from error
    if not isinstance(out, Tensor) or out.dim() != 2 or not out.shape[1]:
        given = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise ExportError(f"the model gives {given}; it must give one tensor of scores [batch, classes]")
    innermost = {
        name: call
        for name, call in found.items()
        if name and not any(other.startswith(f"{name}.") for other in found)
    }
    return innermost, out.shape[1]


def _module(name: str, call: _Call) -> ModuleReport:
    kind = type(call.module).__name__
    if isinstance(call.module, nn.RNNBase | nn.RNNCellBase):
        return ModuleReport(
            name, kind, False, False, "a recurrence has no lowering; use convolutions or attention"
        )
    untrained = _why_not(lambda: _lower_alone(call))
    unsliced = untrained or _why_not(lambda: _slice_alone(call))
    reason = unsliced.split("; supported")[0].removeprefix(f"it ({kind}): ")
    return ModuleReport(name, kind, not unsliced, not untrained, reason)


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


def _lower_alone(call: _Call) -> None:
    """Lower the module's value and gradients. Raises what tracing and lowering raise."""
    given = call.args[0]
    module = with_factors(_First(call).train(call.module.training), given)[0]
    parameters = {n: p.detach() for n, p in module.named_parameters()}

    def out(p: dict[str, Tensor], x: Tensor) -> Tensor:
        # A module writes to its buffers: each trial gets its own.
        buffers = {n: b.clone() for n, b in module.named_buffers()}
        return torch.func.functional_call(module, {**p, **buffers}, (x.clone(),))

    def backward(x: Tensor) -> tuple[Tensor, ...]:
        if not x.is_floating_point():
            value, vjp = torch.func.vjp(lambda p: out(p, x), parameters)[:2]
            return tuple(vjp(value)[0].values())
        value, vjp = torch.func.vjp(out, parameters, x)[:2]
        slopes, error = vjp(value)
        return (*slopes.values(), error)

    lower(backward, (given,), (0,))


def _slice_alone(call: _Call) -> None:
    """Trace the module behind a linear map that it can belong to. Raises UnsupportedModule."""
    given = call.args[0]
    if len(call.args) > 1 or given.dim() not in (2, 4):
        raise UnsupportedModule(f"it sees {tuple(given.shape[1:])}; neurons are features or channels of maps")
    module, neurons = copy.deepcopy(call.module), given.shape[1]
    before: list[nn.Module] = []
    if not isinstance(module, nn.Linear | nn.Conv2d):
        before = [nn.Linear(neurons, neurons) if given.dim() == 2 else nn.Conv2d(neurons, neurons, 1)]
    trace(nn.Sequential(*before, module), given)


def _gradient_errors(
    model: nn.Module, method: Method, pte: bytes, inputs: Tensor, targets: Tensor, names: list[str]
) -> tuple[float, float]:
    """The errors of the step's gradient, on the first and on a repeated call, and of PyTorch's in float32,
    against float64 autograd: on samples away from kinks, as far as there are some, and nothing is dropped.
    """
    executor = ExecuTorchExecutor(pte)
    exact = copy.deepcopy(model).double()
    for module in exact.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    rows = away_from_kinks_of(exact, inputs)
    found = []
    for some in (rows, rows[::2], rows[1::2], rows[::3], rows[1::3]):
        # A wrong program is wrong on any samples; those next to a kink differ by chance.
        if len(some) < 2:
            break
        found.append(_errors_on(exact, some, method, executor, inputs[some], targets[some], names))
        if found[-1][0] <= max(PARITY, FLOAT32 * found[-1][1]) < math.inf:
            break
    return min(found)


def _errors_on(
    exact: nn.Module,
    rows: Tensor,
    method: Method,
    executor: ExecuTorchExecutor,
    inputs: Tensor,
    targets: Tensor,
    names: list[str],
) -> tuple[float, float]:
    """The errors of the step and of PyTorch's float32 on these samples, the rows of the example."""
    exact = copy.deepcopy(exact)
    narrow = copy.deepcopy(exact).float()
    for network, x in ((exact, double([inputs])[0]), (narrow, inputs)):
        torch.autograd.backward(nn.functional.cross_entropy(network(x), targets))
    gradients = {n: p.grad.numpy() for n, p in exact.named_parameters() if p.grad is not None}
    in_float32 = {n: p.grad.numpy() for n, p in narrow.named_parameters() if p.grad is not None}
    errors = []
    state = [tensor.numpy() for tensor in method.example[: len(names)]]
    factors = [tensor[rows].numpy() for tensor in method.example[len(names) + 3 :]]
    for _ in range(2):
        given = [array.copy() for array in state]
        batch = [inputs.numpy(), targets.numpy(), torch.tensor(1.0).numpy()]
        executor.run(method.name, [*given, *batch, *factors])
        old, new = (dict(zip(names, arrays, strict=True)) for arrays in (state, given))
        found = {name: old[name].astype(np.float64) - new[name] for name in gradients}
        errors.append(relative_error(found, gradients))
    return max(errors), relative_error(in_float32, gradients)
