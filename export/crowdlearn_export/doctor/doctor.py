"""What a model can do here, before anything is exported."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import get_args

from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import TRAIN_STEP
from torch import Tensor, nn

from crowdlearn_export.compiler.compile import compile_lowered, lower_methods
from crowdlearn_export.errors import ExportError, UnsupportedModule
from crowdlearn_export.graph.freezing import resting_modules, to_training
from crowdlearn_export.graph.neuron_graph import FrozenAs
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import CROSS_ENTROPY
from crowdlearn_export.lowering.backend import choose_backend, multiplications
from crowdlearn_export.program.backends import near_border
from crowdlearn_export.program.parity import allowed_error
from crowdlearn_export.quiet import quietly
from crowdlearn_export.stages.piece_stages import clipping_doubt
from crowdlearn_export.tracing.copies import copied
from crowdlearn_export.tracing.evaluation import check_evaluation
from crowdlearn_export.tracing.trace import trace
from crowdlearn_export.tracing.unchanging import check_unchanging
from crowdlearn_export.tracing.whole import as_samples, sample_dtype

from .held_frozen import Rounding, held_frozen
from .module_reports import ModuleReport, in_words, module_reports, why_not
from .train_step_parity import Objective, gradient_errors, step_of
from .verdict import notes, trainable_graph

ALONE = "it trains with the others, and cannot be tried alone"


@dataclass(frozen=True)
class Savings:
    """The savings of freezing, each as it is and as it would be if all of it learned: weights that learn,
    MACs of a sample's training step, and floats of a sample's errors, which may have to be sent. `rounded`
    tells what each type in fewer bytes would save beside that, and cost, where it can.
    """

    weights: tuple[int, int]
    macs: tuple[int, int]
    errors: tuple[int, int]
    rounded: tuple[Rounding, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """A model's report. `slices` is empty if it can be sliced, else the reason why it only trains whole.

    Sizes are those of the whole training step for batches up to the example's: program without weights,
    weights, and the memory that the step takes beside both. `backend` is whose kernels it runs on, for the
    `multiplications` of its matrix products; `either` where they are so few that measuring decides.
    `gradient_error` is relative, against float64 autograd, and `float32_error` that of PyTorch's own float32;
    None if the step cannot be compiled, and `compiles` then says why. `frozen` is None if everything
    learns, or cannot be sliced. `notes` are doubts; `private` is one of steps of DP-SGD, "" if there is none.
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
    frozen: Savings | None = None
    notes: tuple[str, ...] = ()
    private: str = ""

    @property
    def exact(self) -> bool:
        """Return True if the gradients are as good as they have to be."""
        return self.gradient_error is not None and self.gradient_error <= self.allowed < math.inf

    @property
    def allowed(self) -> float:
        """Return the largest error of gradients that passes."""
        return allowed_error(self.float32_error or 0.0)


@quietly()
def diagnose(model: nn.Module, inputs: Tensor, loss: Loss = CROSS_ENTROPY) -> Diagnosis:
    """Try everything that training `model` on such batches needs, and tell how it went.

    The targets are as many as the model gives scores. Raises ExportError if it does not give
    one tensor of scores for such a batch, or has other weights than float32 ones.
    Inputs are float32 [B, ...].
    """
    inputs = as_samples(inputs, sample_dtype(model, inputs.shape[1:]))
    modules, outputs = module_reports(model, inputs)
    model = copied(model)
    to_training(model, resting_modules(model))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    sample, dtype = inputs.shape[1:], inputs.dtype
    refused = (
        why_not(lambda: check_evaluation(model, sample, dtype))
        or why_not(lambda: check_unchanging(model, sample, dtype))
        or why_not(lambda: loss.targets(*outputs))
    )
    slices = why_not(lambda: trainable_graph(model, inputs, loss=loss))
    if refused:
        return Diagnosis(modules, slices or refused, refused, weight_bytes=weights)
    frozen = None if slices else _savings(model, inputs)
    doubts = notes(model, inputs, loss)
    if not any(p.requires_grad for p in model.parameters()):
        return Diagnosis(modules, slices, "the model has nothing that learns", notes=doubts)
    try:
        objective = Objective(loss, loss.targets(*outputs), inputs, outputs[-1])
        step = step_of(model, objective)
        lowered = lower_methods(step.methods)
        backends = {name: choose_backend(graph, len(inputs)) for name, graph in lowered.items()}
        program = compile_lowered(step.methods, lowered, backends, len(inputs))
    except Exception as error:  # the exporter fails in as many ways as there are models
        untrained = [f"{m.name} ({m.kind}): {m.reason}" for m in modules if not m.trains]
        why = "; ".join(untrained) or in_words(error)
        return Diagnosis(modules, slices, why, weight_bytes=weights, frozen=frozen, notes=doubts)
    modules = tuple(each if each.trains else replace(each, trains=True, reason=ALONE) for each in modules)
    counted = multiplications(lowered[TRAIN_STEP], len(inputs))
    errors = gradient_errors(model, step, objective, ExecuTorchExecutor(program.pte))
    return Diagnosis(
        modules,
        slices,
        "",
        len(program.pte),
        program.arena_bytes + program.workspace_bytes,
        weights,
        backends[TRAIN_STEP],
        counted,
        near_border(counted),
        *errors,
        frozen,
        doubts,
        _of_clipping(model, inputs, loss),
    )


def _of_clipping(model: nn.Module, inputs: Tensor, loss: Loss) -> str:
    try:
        return clipping_doubt(trainable_graph(model, inputs, loss=loss, pieces=1))
    except ExportError as error:
        return in_words(error)


def _savings(model: nn.Module, inputs: Tensor) -> Savings | None:
    free = copied(model)
    free.train().requires_grad_(True)
    graph, thawed = trace(model, inputs), trace(free, inputs)
    if not graph.frozen:
        return None
    rounded = []
    for frozen_as in get_args(FrozenAs):
        with suppress(UnsupportedModule):  # no weights but biases and norms, or one that is too large
            _, rounding = held_frozen(graph, copied(model), frozen_as, inputs)
            rounded += [rounding] if rounding else []
    return Savings(
        (graph.parameters, thawed.parameters),
        (graph.training_macs, thawed.training_macs),
        (graph.errors, thawed.errors),
        tuple(rounded),
    )
