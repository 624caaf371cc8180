"""A run that is kept in a folder, of phones or simulated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crowdlearn_host.common.files import read_lines
from crowdlearn_host.errors import RunError

if TYPE_CHECKING:
    import torch
    from crowdlearn_host.runs.results.evaluation import Evaluation
    from crowdlearn_host.runs.session import Result
    from crowdlearn_host.simulation.state import RoundRecord
    from torch import nn


@dataclass(frozen=True)
class Run:
    """A run in the folder `path`. Everything is read from the folder when it is asked for.

    `outcome` is that of a run that this process has trained: seconds, evaluation, training loss, traffic by
    purpose, and the models that the run's own virtual phones kept. `rounds` are those of a simulation that it
    has run.
    """

    path: Path
    outcome: Result | None = field(default=None, compare=False, repr=False)
    rounds: tuple[RoundRecord, ...] = field(default=(), compare=False, repr=False)

    @property
    def simulated(self) -> bool:
        """Return True if the run was simulated, not trained on devices."""
        return not (self.path / "run.db").exists()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Return the records of metrics.jsonl: one a mini-batch on devices, one a round in a simulation."""
        return _lines(self.path / "metrics.jsonl")

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the records of events.jsonl, each with "time" (seconds since 1970) and "event"."""
        return _lines(self.path / "events.jsonl")

    def model(self) -> nn.Module:
        """Return the network with the newest global weights, in evaluation mode.

        Raises RunError if the run has no model yet or its weights are damaged.
        """
        from crowdlearn_host.runs.results.trained_model import trained_model

        return trained_model(self.path)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the newest global weights by their names in the model. Raises RunError if there are none."""
        from crowdlearn_host.coordinator.storage.run_folder import load_model_state

        return load_model_state(self.path)

    def evaluate(self, data: str | Path | None = None) -> Evaluation:
        """Evaluate the newest global model on the test split of the folder `data`, or of the run's own data.

        Raises ConfigError if neither names test data, RunError if the run has no model yet.
        """
        from crowdlearn_host.coordinator.storage.run_folder import check_has_model

        check_has_model(self.path)  # before what takes seconds to import
        from crowdlearn_host.runs.results.trained_model import evaluated

        return evaluated(self.path, None if data is None else str(data))

    def report(self, output: str | Path | None = None) -> Path:
        """Write the run as one self-contained HTML page, report.html in its folder unless `output` says
        where.

        Returns the page's path. A file that is there is replaced.
        """
        from crowdlearn_device.platform.files import write_atomically
        from crowdlearn_host.report.page import page
        from crowdlearn_host.report.run import read_run

        target = Path(output) if output is not None else self.path / "report.html"
        write_atomically(target, page(read_run(self.path)).encode())
        return target


def load_run(path: str | Path) -> Run:
    """Return the run in the folder `path`. Raises RunError if the folder holds none."""
    folder = Path(path)
    if not (folder / "config.toml").is_file():
        raise RunError(f"{folder} holds no run; look at the folder's name")
    return Run(folder)


def _lines(path: Path) -> list[dict[str, Any]]:
    records: Iterable[dict[str, Any]] = read_lines(path) if path.exists() else ()
    return list(records)
