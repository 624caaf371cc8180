"""Diagnosis and programs of a network, without a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_export.doctor.doctor import Diagnosis, diagnose
from crowdlearn_export.doctor.trial import Trial, make_trial
from crowdlearn_export.losses.registry import make_loss
from torch import nn

from crowdlearn_host.models.named import build_model
from crowdlearn_host.models.names import check_name, stated_shape
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.runs.checks.preflight import check_start
from crowdlearn_host.runs.prepare import export as export_programs
from crowdlearn_host.spec.run_spec import RunSpec


def diagnosed(model: nn.Module | str, shape: Sequence[int] | None, batch: int, loss: str) -> Diagnosis:
    """Diagnose a network, or that of a name, on random float32 samples [batch, *shape]."""
    network, inputs = _network_and_samples(model, shape, batch)
    return diagnose(network, inputs, make_loss(loss))


def trial_of(model: nn.Module | str, shape: Sequence[int] | None, batch: int, loss: str) -> Trial:
    """Compile a training step on random float32 samples [batch, *shape], to be tried on a phone."""
    network, inputs = _network_and_samples(model, shape, batch)
    return make_trial(network, inputs, make_loss(loss))


def _network_and_samples(
    model: nn.Module | str, shape: Sequence[int] | None, batch: int
) -> tuple[nn.Module, torch.Tensor]:
    stated = "" if shape is None else "x".join(map(str, shape))
    if isinstance(model, str):
        check_name(model)
        sample = stated_shape(model, stated)
        network = build_model(model, 0)
    else:
        sample = stated_shape(type(model).__name__, stated)
        network = model
    generator = torch.Generator().manual_seed(0)
    return network, torch.randn(batch, *sample, generator=generator)


def exported(spec: RunSpec, folder: Path) -> list[Path]:
    """Export the programs that devices need for `spec` into `folder`; return the paths of the .pte files."""
    check_start(spec)
    prepared = export_programs(check(spec), lambda event, fields: None)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for program in prepared.exported:
        for name, content in program.files().items():
            write_atomically(folder / name, content)
            if name.endswith(".pte"):
                paths.append(folder / name)
    return paths
