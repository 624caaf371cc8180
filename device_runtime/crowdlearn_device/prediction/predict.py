"""`crowdlearn-device predict`: what a kept model makes of samples in a file."""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.data.dataset import as_targets, load_samples
from crowdlearn_device.data.unit import check_units
from crowdlearn_device.errors import DeviceError
from crowdlearn_device.platform.files import not_to_write, write_atomically
from crowdlearn_device.program.executor import Load, load_program
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.protocol.targets import IGNORED

from .model_folder import KeptModel

HEADER = "sample,class,probability"
NUMBERS = re.compile(r"sample(?:,output_\d+)+\n(?:\d+(?:,[-+.e0-9naif]+)+\n)*")
POSITIONS_HEADER = "sample,position,class,probability"
OF_POSITIONS = re.compile(rf"{POSITIONS_HEADER}\n(?:\d+,\d+,\d+,[01]\.\d{{6}}\n)*")
OWN = re.compile(rf"{HEADER}\n(?:\d+,\d+,[01]\.\d{{6}}\n)*")


def predict(
    model: Path,
    inputs: Path,
    output: Path | None,
    *,
    force: bool = False,
    load_with: Load = load_program,
) -> str:
    """Write sample, class and probability of each as CSV to `output`, or standard output; return a summary.

    Raises DeviceError if model, samples or labels cannot be used, and OSError if `output` cannot be written.
    Without `force`, raises DeviceError before anything is read if `output` is a file that this command does
    not write.
    """
    if output is not None and (why := not_to_write(output, force=force, is_own=is_prediction)):
        raise DeviceError(why)
    data, labels = load_samples(inputs)
    kept = KeptModel.load(model, load_with)
    if kept.unit is not None:
        check_units(kept.unit, data, "what the model was trained on", str(inputs), alike=False)
    samples = data.inputs
    if not kept.targets.are_classes:
        return _numbers(kept, samples, labels, inputs, output)
    if labels is not None:
        labels = as_targets(labels, kept.targets, kept.classes, str(inputs))
    probabilities = kept.probabilities(samples)
    classes = probabilities.argmax(axis=-1)
    text = _csv_of_positions(probabilities) if classes.ndim > 1 else _csv(classes, probabilities)
    if output is None:
        sys.stdout.write(text)
    else:
        write_atomically(output, text.encode())
    summary = f"{len(samples)} samples"
    if labels is None:
        return summary
    right = (classes == labels)[labels != IGNORED]
    return f"{summary}, accuracy {100 * float(right.mean()):.2f} %"


def _numbers(
    kept: KeptModel, samples: Floats, labels: NDArray[Any] | None, inputs: Path, output: Path | None
) -> str:
    """Write a line for each sample with a number for each output; return a summary."""
    found = kept.numbers(samples)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["sample", *(f"output_{number}" for number in range(found.shape[1]))])
    for sample, values in enumerate(found):
        rows.writerow([sample, *(f"{value:.6g}" for value in values)])
    if output is None:
        sys.stdout.write(text.getvalue())
    else:
        write_atomically(output, text.getvalue().encode())
    summary = f"{len(samples)} samples"
    if labels is None:
        return summary
    missed = np.abs(found - as_targets(labels, kept.targets, found.shape[1], str(inputs))).mean()
    return f"{summary}, mean absolute error {float(missed):.6g}"


def is_prediction(text: str) -> bool:
    """Return whether the text is what `predict` writes."""
    return any(form.fullmatch(text) for form in (OWN, OF_POSITIONS, NUMBERS))


def _csv_of_positions(probabilities: Floats) -> str:
    """Return a line for each position with its class, of float32 [N, positions, classes]."""
    lines = [POSITIONS_HEADER]
    for sample, position in np.ndindex(probabilities.shape[:2]):
        each = probabilities[sample, position]
        lines.append(f"{sample},{position},{each.argmax()},{each.max():.6f}")
    return "\n".join(lines) + "\n"


def _csv(classes: NDArray[np.int64], probabilities: Floats) -> str:
    """Return a line for each of `classes` int64 [N] with its probability of float32 [N, classes]."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEADER.split(","))
    for sample, found in enumerate(classes):
        rows.writerow([sample, found, f"{probabilities[sample, found]:.6f}"])
    return text.getvalue()
