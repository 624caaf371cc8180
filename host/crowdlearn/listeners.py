"""Listeners that write the curves of a run for other tools: pip install 'crowdlearn[tracking]'.

crowdlearn.train(spec, listeners=[TensorBoard("logs")])
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from crowdlearn_host.errors import ConfigError

from .training import Event

__all__ = ["Curves", "MLflow", "TensorBoard"]


class Curves:
    """The figures of a run as they come: loss by mini-batch, and what is reported at the end of each
    epoch.
    """

    def __call__(self, event: Event) -> None:
        """Take an event of the run."""
        fields = event.fields
        if event.name == "progress" and "loss" in fields:
            self.write("loss", float(fields["loss"]), int(fields["boundary"]))
        elif event.name == "evaluated":
            names = ("training_loss", "test_loss", "test_accuracy", "samples_per_second")
            for name in names:
                if fields.get(name) is not None:
                    self.write(name, float(fields[name]), int(fields["epoch"]))
        elif event.name == "round":
            for name in ("loss", "accuracy", "test_loss"):
                if fields.get(name) is not None:
                    self.write(name, float(fields[name]), int(fields["round"]))
        elif event.name in ("done", "stopped"):
            self.close()

    def write(self, name: str, value: float, step: int) -> None:
        """Write one figure at a step: a mini-batch, an epoch or a round."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is not written yet."""


class TensorBoard(Curves):
    """Curves as TensorBoard's event files in a folder. Raises ConfigError without tensorboardX."""

    def __init__(self, folder: str | Path) -> None:
        self._writer: Any = _extra("tensorboardX").SummaryWriter(str(folder))

    def write(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class MLflow(Curves):
    """Curves as metrics of the MLflow run that is active. Raises ConfigError if MLflow is not installed."""

    def __init__(self) -> None:
        self._mlflow: Any = _extra("mlflow")

    def write(self, name: str, value: float, step: int) -> None:
        self._mlflow.log_metric(name, value, step=step)


def _extra(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"{module} is not installed; pip install 'crowdlearn[tracking]'") from error
