"""A trained model out, to be used: as ONNX and as .pte, checked against PyTorch before it is written."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import torch
from crowdlearn_device.platform.files import write_atomically

import crowdlearn_export.executorch_quietly  # noqa: F401

# isort: split
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch import Tensor, nn

from crowdlearn_export.errors import ExportError
from crowdlearn_export.quiet import quietly

from .parity import relative_error

AGREEMENT = 1e-5
"""Largest relative difference between an exported model and PyTorch."""


@quietly()
def export_onnx(model: nn.Module, sample: Tensor, path: Path) -> float:
    """Write `model` for inference and return its largest relative difference from PyTorch in onnxruntime.

    `sample` is a batch of at least 2; the file takes any batch. Raises ExportError if the two disagree;
    nothing is written then. The sample is float32 [B, ...].
    """
    import onnxruntime

    program = torch.onnx.export(
        model.eval(), (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False
    )
    assert program is not None
    content = program.model_proto.SerializeToString()
    onnx.checker.check_model(content)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: sample.numpy()})[0]
    error = _agreement(model, sample, found, "onnxruntime")
    write_atomically(path, content)
    return error


@quietly()
def export_pte(model: nn.Module, sample: Tensor, max_batch: int, path: Path) -> float:
    """Write `model` for inference on XNNPACK and return its largest relative difference from PyTorch.

    The file takes 1 to `max_batch` samples; it is compared at both. Raises ExportError if the two disagree;
    nothing is written then. The sample is float32 [B, ...].
    """
    from crowdlearn_device.program.executor import ExecuTorchExecutor

    shapes = ({0: torch.export.Dim("batch", min=1, max=max_batch)},)
    # ExecuTorch fuses batch norm into weights whose names begin with a letter alone; "0.weight" does not.
    named = nn.Sequential(OrderedDict(network=model)).eval()
    # ExecuTorch compares the batch with other sizes, and takes what holds for the example to hold for all.
    largest = _rows(sample, max_batch)
    exported = torch.export.export(named, (largest,), dynamic_shapes=shapes)
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    pte = edge.to_executorch().buffer
    executor, errors = ExecuTorchExecutor(pte), []
    for batch in (largest, largest[:1], largest[: len(sample)]):
        found = executor.run("forward", [batch.numpy()])[0]
        errors.append(_agreement(model, batch, found, "ExecuTorch"))
    write_atomically(path, pte)
    return max(errors)


def _rows(sample: Tensor, count: int) -> Tensor:
    """Return samples like these, `count` of them and none like another, dtype as before."""
    rows = sample[torch.arange(count) % len(sample)]
    if not rows.is_floating_point():
        return rows
    factors = torch.linspace(0.5, 1.5, count, dtype=rows.dtype)
    return rows * factors.reshape(-1, *(1 for _ in rows.shape[1:]))


def _agreement(model: nn.Module, sample: Tensor, found: np.ndarray, where: str) -> float:
    with torch.no_grad():
        error = relative_error({"scores": found}, {"scores": model.eval()(sample).numpy()})
    if not error <= AGREEMENT:
        raise ExportError(
            f"the exported model differs from PyTorch by {error:.1e} in {where} (at most {AGREEMENT:.0e}); "
            "it was not written, please report it"
        )
    return error
