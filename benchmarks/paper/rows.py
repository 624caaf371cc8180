"""The runs behind every table: a label, the paper's figure where it has one, and the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crowdlearn.simulation import SimulationConfig

Values = Mapping[str, Any]

DEVICES = 120
EPOCHS = 50
TRAINING = {"epochs": EPOCHS, "batch": 100, "learning_rate": 0.2}
"""The paper tells neither batch nor learning rate; these serve every row that is not called ours."""
HALF = {"theta": 0.5, "tau": 0.5}
BEST = {"theta": 0.9, "tau": 0.5, "omega": 10}


def _hasty(epochs: int) -> Values:
    """Learning settings that get far in few epochs."""
    return {"epochs": epochs, "batch": 25, "learning_rate": 0.25, "schedule": "linear"}


def _frugal(epochs: int) -> Values:
    """What moves fewest bytes: an int8 wire, all weights shared after every pass, so that none shuffle."""
    return {
        "group": 12,
        "rotation": "minimal",
        "training": {**_hasty(epochs), "wire": "int8"},
        "sharing": {"theta": 1.0, "tau": 0.0, "omega": 10, "every": 1, "values": "int8"},
    }


_LOCAL = {
    "method": "fedavg",
    "fedavg": {"local_epochs": 5},
    "training": {"epochs": 20, "batch": 25, "learning_rate": 0.1},
}
"""Federated averaging that travels seldom: five epochs between two averages."""


@dataclass(frozen=True)
class Row:
    """One run of a table; `paper` is the paper's test error in per cent."""

    label: str
    values: Values
    paper: float | None = None

    def config(self, model: str, seed: int, epochs: int | None = None) -> SimulationConfig:
        """The run's configuration, shortened to `epochs` where given."""
        training = {**TRAINING, **self.values.get("training", {})}
        if epochs is not None:
            training["epochs"] = min(epochs, training["epochs"])
        values = {"devices": DEVICES, **self.values, "model": model, "seed": seed, "training": training}
        return SimulationConfig.parse(values, self.label)


def _groups(papers: tuple[float, ...]) -> tuple[Row, ...]:
    sizes = (1, 5, 10, 15, 20)
    return (
        Row("standalone, nothing shared", {"group": 1, "sharing": {"enabled": False}}),
        *(Row(f"n = {n}", {"group": n, "sharing": HALF}, p) for n, p in zip(sizes, papers[:5], strict=True)),
        Row("centralised", {"devices": 1, "group": 1, "sharing": {"enabled": False}}, papers[5]),
    )


def _theta(papers: tuple[float, ...]) -> tuple[Row, ...]:
    return tuple(
        Row(f"theta = {theta}", {"group": 12, "sharing": {"theta": theta, "tau": 0.5, "omega": 10}}, paper)
        for theta, paper in zip((0.1, 0.3, 0.5, 0.7, 0.9), papers, strict=True)
    )


def _skew(name: str, partition: Values) -> tuple[Row, ...]:
    return (
        Row(f"{name}, ours", {"group": 12, "sharing": BEST, "partition": partition}),
        Row(f"{name}, FedAvg", {"method": "fedavg", "partition": partition}),
    )


MLP_TABLES: dict[str, tuple[Row, ...]] = {
    "groups": _groups((5.15, 5.29, 3.63, 3.10, 2.62, 1.73)),
    "theta": _theta((7.33, 3.83, 2.70, 2.37, 1.93)),
    "best": (
        Row(
            "n = 12, our settings",
            {"group": 12, "sharing": BEST, "training": {"batch": 25, "schedule": "cosine"}},
            1.93,
        ),
    ),
    "bytes": (
        Row("the paper's protocol", {"group": 12, "sharing": {**HALF, "omega": 10}}),
        Row(
            "the paper's protocol, 8 epochs",
            {"group": 12, "sharing": {**HALF, "omega": 10}, "training": _hasty(8)},
        ),
        Row("ours, 3 epochs", _frugal(3)),
        Row("ours, 8 epochs", _frugal(8)),
        Row("FedAvg", {"method": "fedavg"}),
        Row("FedAvg, 5 local epochs", _LOCAL),
    ),
    "skew": (
        *_skew("Dirichlet 0.5", {"kind": "dirichlet", "alpha": 0.5}),
        *_skew("Dirichlet 0.1", {"kind": "dirichlet", "alpha": 0.1}),
    ),
    "tau": tuple(
        Row(f"tau = {tau}", {"group": 12, "sharing": {"theta": 0.5, "tau": tau, "omega": 10}}, paper)
        for tau, paper in zip(
            (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), (3.07, 2.91, 2.70, 2.91, 3.14, 5.72), strict=True
        )
    ),
    "omega": tuple(
        Row(f"omega = {omega}", {"group": 12, "sharing": {**HALF, "omega": omega}}, paper)
        for omega, paper in zip((5, 10, 15, 20, 25), (3.18, 2.53, 3.53, 3.82, 3.76), strict=True)
    ),
}
CNN_TABLES: dict[str, tuple[Row, ...]] = {
    "cnn-groups": _groups((46.88, 46.11, 37.65, 34.40, 32.40, 29.54)),
    "cnn-theta": _theta((51.41, 46.93, 35.35, 33.26, 31.57)),
}
