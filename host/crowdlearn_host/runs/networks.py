"""Diagnosis and programs of a network, without a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_export.doctor.doctor import Diagnosis, diagnose
from crowdlearn_export.doctor.trial import Trial, make_trial
from crowdlearn_export.errors import ExportError
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import make_loss
from torch import nn

from crowdlearn_host.models.named import build_model
from crowdlearn_host.models.names import check_name, stated_shape
from crowdlearn_host.models.trainable import trainable
from crowdlearn_host.runs.checks.augmenting import augment_cost, cost_in_words
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.runs.checks.preflight import check_start
from crowdlearn_host.runs.data import load_split, sample_shape
from crowdlearn_host.runs.prepare import export as export_programs
from crowdlearn_host.spec.augment import check_augment
from crowdlearn_host.spec.run_spec import RunSpec


def diagnosed(
    model: nn.Module | str | RunSpec, shape: Sequence[int] | None, batch: int, loss: str
) -> Diagnosis:
    """Diagnose a network, that of a name, or that of a run, on random float32 samples [batch, *shape].

    A run has its shape and loss, and changes its samples. Raises ConfigError if these cannot be changed so.
    """
    chain = model.training.augment if isinstance(model, RunSpec) else ()
    network, inputs, made = _asked(model, shape, batch, loss)
    sample = tuple(inputs.shape[1:])
    check_augment(chain, sample, integers=False)
    if chain:
        with suppress(ExportError):  # which the diagnosis tells
            trains = trainable(network, made, inputs[:2], type(network).__name__, pieces=1)
            check_augment(chain, sample, integers=trains.takes_codes)
    report = diagnose(network, inputs, made)
    if not isinstance(model, RunSpec) or not chain:
        return report
    rows = model.training.batch
    return replace(
        report, notes=(*report.notes, cost_in_words(chain, augment_cost(chain, sample, rows), rows))
    )


def trial_of(model: nn.Module | str | RunSpec, shape: Sequence[int] | None, batch: int, loss: str) -> Trial:
    """Compile a training step on random float32 samples [batch, *shape], to be tried on a phone."""
    return make_trial(*_asked(model, shape, batch, loss))


def _asked(
    model: nn.Module | str | RunSpec, shape: Sequence[int] | None, batch: int, loss: str
) -> tuple[nn.Module, torch.Tensor, Loss]:
    """Return a network, samples [batch, *shape] and the loss; those of a run, if `model` describes one."""
    made = make_loss(loss)
    if isinstance(model, RunSpec):
        shape = sample_shape(model, load_split(model.data, "test") if model.data else None)
        wanted = model.training.loss
        model, made = model.model, make_loss(wanted.kind, **wanted.options)
    stated = "" if shape is None else "x".join(map(str, shape))
    if isinstance(model, str):
        check_name(model)
        sample = stated_shape(model, stated)
        network = build_model(model, 0)
    else:
        sample = stated_shape(type(model).__name__, stated)
        network = model
    generator = torch.Generator().manual_seed(0)
    return network, torch.randn(batch, *sample, generator=generator), made


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
