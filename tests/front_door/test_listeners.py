"""Listeners write what a run tells for other tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from crowdlearn.listeners import Curves, MLflow, TensorBoard
from crowdlearn.training import Event
from crowdlearn_host.errors import ConfigError

EVENTS = [
    Event("progress", {"loss": 2.0, "boundary": 1, "rows": 8}),
    Event("progress", {"loss": 1.5, "boundary": 2, "rows": 8}),
    Event("evaluated", {"epoch": 0, "training_loss": 1.75, "test_accuracy": 0.5}),
    Event("round", {"round": 3, "loss": 1.0, "accuracy": None}),
    Event("joined", {"device": "phone-0"}),
    Event("done", {}),
]


class Kept(Curves):
    def __init__(self) -> None:
        self.written: list[tuple[str, float, int]] = []
        self.closed = 0

    def write(self, name: str, value: float, step: int) -> None:
        self.written.append((name, value, step))

    def close(self) -> None:
        self.closed += 1


def test_curves_are_those_that_the_events_tell() -> None:
    kept = Kept()
    for event in EVENTS:
        kept(event)
    assert kept.written == [
        ("loss", 2.0, 1),
        ("loss", 1.5, 2),
        ("training_loss", 1.75, 0),
        ("test_accuracy", 0.5, 0),
        ("loss", 1.0, 3),
    ]
    assert kept.closed == 1


def test_tensorboard_gets_them(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (extra tracking)")
    writer = TensorBoard(tmp_path)
    for event in EVENTS:
        writer(event)
    (file,) = tmp_path.iterdir()
    assert all(name in file.read_bytes() for name in (b"loss", b"training_loss", b"test_accuracy"))


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(ConfigError, match="mlflow is not installed; pip install"):
        MLflow()
