"""What a model's modules can do here, before anything is exported."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from crowdlearn_device.executor import ExecuTorchExecutor
from torch import Tensor, nn

from .compile import Method, compile_program
from .errors import ExportError
from .lowering import lower
from .trace import neuron_graph
from .train_step import train_step


@dataclass(frozen=True)
class ModuleReport:
    """A leaf module: whether it trains at all, and why not."""

    name: str
    kind: str
    trains: bool
    reason: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """A model's report. `slices` is empty where it can be sliced, else the reason why it only trains whole.

    Sizes are those of the whole training step for batches up to the example's: program without weights,
    planned activations, weights. `gradient_error` is relative, against float64 autograd; None where it
    cannot be compiled, and `compiles` then says why.
    """

    modules: tuple[ModuleReport, ...]
    slices: str
    compiles: str
    program_bytes: int = 0
    arena_bytes: int = 0
    weight_bytes: int = 0
    backends: Mapping[str, str] | None = None
    gradient_error: float | None = None


def diagnose(model: nn.Module, inputs: Tensor, targets: Tensor) -> Diagnosis:
    """Try everything that training `model` on such batches needs, and tell how it went."""
    try:
        neuron_graph(model, inputs)
        slices = ""
    except ExportError as error:
        slices = str(error)
    modules = tuple(_module(name, module, seen) for name, (module, seen) in _leaves(model, inputs).items())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    try:
        step = train_step(model, nn.functional.cross_entropy, inputs, targets)
        program = compile_program([step.method], max_batch=len(inputs))
    except Exception as error:  # the exporter fails in as many ways as there are models
        return Diagnosis(
            modules, slices, f"{type(error).__name__}: {error}".splitlines()[0], weight_bytes=weights
        )
    gradient_error = _gradient_error(model, step.method, program.pte, inputs, targets, list(step.state))
    return Diagnosis(
        modules,
        slices,
        "",
        len(program.pte),
        program.arena_bytes,
        weights,
        program.backends,
        gradient_error,
    )


def _leaves(model: nn.Module, inputs: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
    """Every leaf module that a forward pass calls, with its first input."""
    seen: dict[str, tuple[nn.Module, Tensor]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda m, given, name=name: seen.setdefault(name, (m, given[0].detach())) and None
        )
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _module(name: str, module: nn.Module, seen: Tensor) -> ModuleReport:
    def backward(x: Tensor) -> tuple[Tensor, ...]:
        parameters = {n: p.detach() for n, p in module.named_parameters()}

        def out(p: dict[str, Tensor], given: Tensor) -> Tensor:
            # A module writes to its buffers: each trial gets its own.
            buffers = {n: torch.zeros(b.shape, dtype=b.dtype) for n, b in module.named_buffers()}
            return torch.func.functional_call(module, {**p, **buffers}, (given,))

        if not x.is_floating_point():
            value, vjp = torch.func.vjp(lambda p: out(p, x), parameters)[:2]
            return tuple(vjp(value)[0].values())
        value, vjp = torch.func.vjp(out, parameters, x)[:2]
        slopes, error = vjp(value)
        return (*slopes.values(), error)

    kind = type(module).__name__
    try:
        lower(backward, (seen,), (0,))
    except ExportError as error:
        return ModuleReport(name, kind, False, str(error))
    except Exception as error:  # tracing runs a user's module
        return ModuleReport(name, kind, False, f"cannot be traced: {error}".splitlines()[0])
    return ModuleReport(name, kind, True)


def _gradient_error(
    model: nn.Module, method: Method, pte: bytes, inputs: Tensor, targets: Tensor, names: list[str]
) -> float:
    """The step's gradient against float64 autograd, on the first and on a repeated call; nothing is
    dropped.
    """
    exact = copy.deepcopy(model).double()
    for module in exact.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    given = inputs.double() if inputs.is_floating_point() else inputs
    torch.autograd.backward(nn.functional.cross_entropy(exact(given), targets))
    gradients = {n: p.grad for n, p in exact.named_parameters() if p.grad is not None}
    scale = max(float(g.abs().max()) for g in gradients.values())
    executor, worst = ExecuTorchExecutor(pte), 0.0
    rate = len(names) + 2
    start = [torch.tensor(1.0).numpy() if i == rate else t.numpy() for i, t in enumerate(method.example)]
    for _ in range(2):
        new = dict(zip(names, executor.run(method.name, start)[1:], strict=True))
        old = dict(zip(names, start, strict=False))
        for name, gradient in gradients.items():
            found = torch.from_numpy(old[name]).double() - torch.from_numpy(new[name]).double()
            worst = max(worst, float((found - gradient).abs().max()) / scale)
    return worst
