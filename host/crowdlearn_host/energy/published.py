"""Published measurements of phones' energy, and how far constants that were fitted here deviate from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """Energy of an inference on a phone's CPU: the least and the most joules that were measured over variants
    of a network, whose mean has so many MACs.
    """

    what: str
    least: float
    most: float
    macs: float
    source: str

    @property
    def joules(self) -> float:
        """Return the middle of the range."""
        return (self.least + self.most) / 2


_DEEPEN = "measured on phones with a power monitor: DeepEn2023, table of models, CPU (Tu et al., SEC 2023)"
PUBLISHED = (
    Published("MobileNetV1, 50 variants, inference", 53.59e-3, 136.79e-3, 519e6, _DEEPEN),
    Published("ResNet18, 50 variants, inference", 251.52e-3, 1432.67e-3, 3888e6, _DEEPEN),
    Published("AlexNet, 50 variants, inference", 36.97e-3, 355.58e-3, 815e6, _DEEPEN),
)
"""Retyped from github.com/amai-gsu/DeepEn2023; what it calls FLOPs are multiply-accumulates."""


def deviation(published: Published, joules_per_mac: float) -> dict[str, Any]:
    """Return a row: joules as published, as modelled from joules for a MAC, and the deviation in percent."""
    modelled = joules_per_mac * published.macs
    return {
        "published joules": published.joules,
        "published least": published.least,
        "published most": published.most,
        "joules": modelled,
        "deviation %": 100 * (modelled / published.joules - 1),
        "within": published.least <= modelled <= published.most,
        "published source": published.source,
    }
