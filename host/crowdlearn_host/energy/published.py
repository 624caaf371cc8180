"""Published measurements of phones' energy, and how far constants that were fitted here deviate from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """Energy of a network on a phone's CPU: the least and the most joules that were published for variants
    of the same work, which takes so many MACs.
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


def _answer(model: str, parameters: float, tokens: int, joules: tuple[float, float]) -> Published:
    """Return what a language model spent on reading and writing so many tokens. They are medians of 30 runs
    with weights in each of two formats of 4 bits; a token takes a MAC for each parameter.
    """
    return Published(f"{model}, {tokens} tokens", min(joules), max(joules), parameters * tokens, _EHSANI)


_DEEPEN = "measured on phones with a power monitor: DeepEn2023, table of models, CPU (Tu et al., SEC 2023)"
_EHSANI = (
    "measured on a Galaxy S25 Ultra by its battery's gauge, beyond idle, CPU: total_energy_consumption of "
    "github.com/eziyoo/LLMs-on-Devices at 82d1d9d (Ehsani et al., Sustainability Is Not Linear, 2026)"
)
PUBLISHED = (
    Published("MobileNetV1, 50 variants, inference", 53.59e-3, 136.79e-3, 519e6, _DEEPEN),
    Published("ResNet18, 50 variants, inference", 251.52e-3, 1432.67e-3, 3888e6, _DEEPEN),
    Published("AlexNet, 50 variants, inference", 36.97e-3, 355.58e-3, 815e6, _DEEPEN),
    _answer("Qwen2 0.5B", 0.49e9, 203, (43.95, 36.83)),
    _answer("Qwen2.5 1.5B", 1.5e9, 213, (92.87, 93.42)),
    _answer("Qwen2.5 3B", 3.09e9, 213, (151.54, 157.80)),
    _answer("Llama 3.1 8B", 8.03e9, 219, (291.69, 302.50)),
)
"""Retyped from github.com/amai-gsu/DeepEn2023, whose FLOPs are multiply-accumulates, with the mean of a
network's variants; and from data/aggregated/final_results.csv, with parameters as docs/METHODS.md there has
them. The latter's window begins 2 s before the program and holds the loading of the model.
"""


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
