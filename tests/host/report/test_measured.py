"""The report shows what evaluations told: curves of metrics, confusion, numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.report.page import page
from crowdlearn_host.report.run import read_run
from crowdlearn_host.runs.results.evaluation import MOST_PAIRS, evaluate
from torch import nn


def test_curves_of_metrics_and_the_last_confusion(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", create=True) as folder:
        folder.metric(epoch=0, boundary=1, rows=8, loss=2.0, correct=4, bytes={})
        for epoch, f1 in enumerate((0.25, float("nan"), 0.75)):
            folder.event(
                "evaluated",
                epoch=epoch,
                test_loss=1.0 / (epoch + 1),
                metrics={"f1": f1},
                validation_loss=2.0,
                validation_metrics={"f1": 0.5},
                confusion=[[epoch, 1], [2, 3]],
            )
    run = read_run(tmp_path / "run")
    assert run.measured.curves["f1"] == {
        "test": ((1.0, 0.25), (3.0, 0.75)),
        "validation": ((1.0, 0.5), (2.0, 0.5), (3.0, 0.5)),
    }
    assert run.measured.confusion == ((2, 1), (2, 3))
    told = page(run)
    for words in ("f1 after each epoch", "loss after each epoch", "Confusion, at the last evaluation"):
        assert words in told
    assert "Predictions and targets" not in told


def test_an_evaluation_counts_what_is_taken_for_what() -> None:
    inputs = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    model = nn.Linear(3, 3, bias=False)
    state = {"weight": torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])}
    found = evaluate(model, state, Dataset(inputs, np.array([0, 1, 1, 2])))
    assert found.confusion == ((0, 1, 0), (1, 1, 0), (0, 0, 1))
    assert sum(map(sum, found.confusion)) == found.samples


def test_some_pairs_of_many_numbers_are_kept(tmp_path: Path) -> None:
    data = Dataset(np.ones((500, 1), np.float32), np.linspace(0, 1, 500, dtype=np.float32))
    model = nn.Linear(1, 1)
    found = evaluate(model, model.state_dict(), data, make_loss("mse"))
    assert len(found.pairs) == MOST_PAIRS
    assert (found.pairs[0][0], found.pairs[-1][0]) == (0.0, 1.0)
    with RunFolder(tmp_path / "run", create=True) as folder:
        folder.metric(epoch=0, boundary=1, rows=8, loss=2.0, bytes={})
        folder.event("evaluated", epoch=0, test_loss=1.0, metrics={}, pairs=found.pairs)
    assert "Predictions and targets, at the last evaluation" in page(read_run(tmp_path / "run"))
