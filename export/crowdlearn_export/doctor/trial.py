"""A training step of a model with inputs and what it gives here, for another device to be compared with."""

from __future__ import annotations

from dataclasses import dataclass

from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.replay import Arrays, replay_arrays
from torch import Tensor, nn

from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.graph.freezing import resting_modules, to_training
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import CROSS_ENTROPY
from crowdlearn_export.quiet import quietly
from crowdlearn_export.tracing.copies import copied
from crowdlearn_export.tracing.whole import as_samples, sample_dtype

from .module_reports import module_reports
from .train_step_parity import Objective, step_of


@dataclass(frozen=True)
class Trial:
    """A .pte, arrays METHOD/in0 and so on, and the arrays METHOD/out0, METHOD/after0 that they give here."""

    pte: bytes
    inputs: Arrays
    expected: Arrays


@quietly()
def make_trial(model: nn.Module, inputs: Tensor, loss: Loss = CROSS_ENTROPY) -> Trial:
    """Compile the training step that `diagnose` looks at. Raises ExportError if there is none.

    Inputs are float32 [B, ...].
    """
    inputs = as_samples(inputs, sample_dtype(model, inputs.shape[1:]))
    _, outputs = module_reports(model, inputs)
    model = copied(model)
    to_training(model, resting_modules(model))
    objective = Objective(loss, loss.targets(*outputs), inputs, outputs[-1])
    step = step_of(model, objective)
    program = compile_program(step.methods, max_batch=len(inputs))
    arrays = {
        f"{method.name}/in{number}": tensor.detach().contiguous().numpy().copy()
        for method in step.methods
        for number, tensor in enumerate(method.example)
    }
    return Trial(program.pte, arrays, replay_arrays(ExecuTorchExecutor(program.pte), arrays))
