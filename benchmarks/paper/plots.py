"""The curves of a table as an SVG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("svg")
from crowdlearn.simulation import RoundRecord
from matplotlib import pyplot as plt


def plot_errors(path: Path, title: str, runs: Mapping[str, Sequence[Sequence[RoundRecord]]]) -> None:
    """Test error of the global model by epoch, the mean of the seeds, one line a run."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for label, seeds in runs.items():
        known = [r for r in range(len(seeds[0])) if all(records[r].accuracy is not None for records in seeds)]
        errors = [100 - 100 * mean(float(records[r].accuracy or 0) for records in seeds) for r in known]
        epochs = [(r + 1) / len(seeds[0]) * (seeds[0][-1].epoch + 1) for r in known]
        axes.plot(epochs, errors, label=label, marker="o" if len(known) == 1 else "")
    axes.set(title=title, xlabel="epoch", ylabel="test error, %", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
