"""`crowdlearn-device predict`: what a kept model makes of samples in a file."""

from __future__ import annotations

import csv
import sys
from contextlib import nullcontext
from pathlib import Path

from crowdlearn_device.data.dataset import load_samples
from crowdlearn_device.errors import DeviceError
from crowdlearn_device.platform.files import not_to_write

from .model_folder import KeptModel


def predict(model: Path, inputs: Path, output: Path | None, *, force: bool = False) -> str:
    """Write sample, class and probability of each as CSV to `output`, or standard output; what to tell.

    Raises DeviceError where model or samples cannot be used, and, before they are read, where `output` is
    there and not to be replaced by `force`; OSError where it cannot be written.
    """
    if output is not None and (why := not_to_write(output, force=force)):
        raise DeviceError(why)
    samples, labels = load_samples(inputs)
    probabilities = KeptModel.load(model).probabilities(samples)
    classes = probabilities.argmax(axis=1)
    with output.open("w", newline="") if output is not None else nullcontext(sys.stdout) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["sample", "class", "probability"])
        for sample, found in enumerate(classes):
            rows.writerow([sample, found, f"{probabilities[sample, found]:.6f}"])
    told = f"{len(samples)} samples"
    return told if labels is None else f"{told}, accuracy {100 * float((classes == labels).mean()):.2f} %"
