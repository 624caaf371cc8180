"""`crowdlearn-device predict`: what a kept model makes of samples in a file."""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.data.dataset import check_labels, load_samples
from crowdlearn_device.errors import DeviceError
from crowdlearn_device.platform.files import not_to_write, write_atomically
from crowdlearn_device.protocol.frames import Floats

from .model_folder import KeptModel

HEADER = "sample,class,probability"
OWN = re.compile(rf"{HEADER}\n(?:\d+,\d+,[01]\.\d{{6}}\n)*")


def predict(model: Path, inputs: Path, output: Path | None, *, force: bool = False) -> str:
    """Write sample, class and probability of each as CSV to `output`, or standard output; return a summary.

    Raises DeviceError if model, samples or labels cannot be used, or, before they are read, if `output` is
    another file than this command writes and is not to be replaced by `force`; OSError if it cannot be
    written.
    """
    if output is not None and (why := not_to_write(output, force=force, is_own=is_prediction)):
        raise DeviceError(why)
    samples, labels = load_samples(inputs)
    kept = KeptModel.load(model)
    if labels is not None:
        check_labels(labels, kept.classes, str(inputs))
    probabilities = kept.probabilities(samples)
    classes = probabilities.argmax(axis=1)
    text = _csv(classes, probabilities)
    if output is None:
        sys.stdout.write(text)
    else:
        write_atomically(output, text.encode())
    told = f"{len(samples)} samples"
    return told if labels is None else f"{told}, accuracy {100 * float((classes == labels).mean()):.2f} %"


def is_prediction(text: str) -> bool:
    """Return whether the text is what `predict` writes."""
    return OWN.fullmatch(text) is not None


def _csv(classes: NDArray[np.int64], probabilities: Floats) -> str:
    """Return a line for each of `classes` int64 [N] with its probability of float32 [N, classes]."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEADER.split(","))
    for sample, found in enumerate(classes):
        rows.writerow([sample, found, f"{probabilities[sample, found]:.6f}"])
    return text.getvalue()
