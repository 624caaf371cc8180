"""A run that is kept in a folder, of phones or simulated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crowdlearn_host.common.files import read_lines
from crowdlearn_host.errors import RunError

if TYPE_CHECKING:
    import torch
    from crowdlearn_host.report.report import Report
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

    def report(self, output: str | Path | None = None, *, against: Sequence[Run | str | Path] = ()) -> Path:
        """Write the run as one self-contained HTML page, report.html in its folder unless `output` says
        where, and return its path. Files that are there are replaced.

        With other runs to compare `against`, each gets its report.html, and the page that is returned,
        comparison.html unless `output` says where, links them.
        """
        report = self.compose_report(output, against=against)
        report.write()
        return report.target

    def compose_report(
        self, output: str | Path | None = None, *, against: Sequence[Run | str | Path] = ()
    ) -> Report:
        """Return the pages that `report` would write, and what of the run's files is damaged."""
        from crowdlearn_host.report.report import compose

        others = [other.path if isinstance(other, Run) else Path(other) for other in against]
        return compose(self.path, None if output is None else Path(output), others)

    def export_onnx(self, path: str | Path, *, data: str | Path | None = None) -> float:
        """Write the newest global model as ONNX, and return by how much onnxruntime's outputs differ from
        PyTorch's, at most.

        `data` is a folder with a test split, which tells the shape of a sample, if not the run's own.
        """
        from crowdlearn_host.runs.results.deployed import model_and_sample

        model, sample = model_and_sample(self.path, None if data is None else str(data))
        from crowdlearn_export.program.deploy import export_onnx

        return float(export_onnx(model, sample, Path(path)))

    def export_pte(self, path: str | Path, *, max_batch: int = 32, data: str | Path | None = None) -> float:
        """Write the newest global model for ExecuTorch with XNNPACK, for 1 to `max_batch` samples. Return the
        largest difference of its outputs from PyTorch's. `data` is that of `export_onnx`.
        """
        from crowdlearn_host.runs.results.deployed import model_and_sample

        model, sample = model_and_sample(self.path, None if data is None else str(data))
        from crowdlearn_export.program.deploy import export_pte

        return float(export_pte(model, sample, max_batch, Path(path)))


def load_run(path: str | Path) -> Run:
    """Return the run in the folder `path`. Raises RunError if the folder holds none."""
    folder = Path(path)
    if not (folder / "config.toml").is_file():
        raise RunError(f"{folder} holds no run; look at the folder's name")
    return Run(folder)


def _lines(path: Path) -> list[dict[str, Any]]:
    records: Iterable[dict[str, Any]] = read_lines(path) if path.exists() else ()
    return list(records)
