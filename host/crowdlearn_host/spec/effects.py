"""Options of a description that have an effect beside certain others only, so that none is given in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Effect:
    """An `option` ("table.key") that has an effect where `holds` is true of the description; `needs` says so
    in a configuration's words.
    """

    option: str
    needs: str
    holds: Callable[[Any], bool]


ALWAYS = (
    Effect("training.step_factor", "training.schedule = 'step'", lambda spec: spec.training.step_epochs > 0),
    Effect(
        "privacy.delta",
        "privacy.epsilon, privacy.noise or sharing.noise",
        lambda spec: spec.privacy.private or spec.sharing.noise is not None,
    ),
    Effect("privacy.clip", "privacy.epsilon or privacy.noise", lambda spec: spec.privacy.private),
    Effect("privacy.fraction", "privacy.sums = 'masked'", lambda spec: spec.privacy.sums == "masked"),
    Effect("privacy.first_layer", "privacy.sums = 'shares'", lambda spec: spec.privacy.sums == "shares"),
    Effect("sharing.clip", "sharing.noise", lambda spec: spec.sharing.noise is not None),
)
"""The options of runs and simulations alike."""

OF_RUNS = (
    *ALWAYS,
    Effect("privacy.owners", "privacy.sums = 'shares'", lambda spec: spec.privacy.sums == "shares"),
    Effect("privacy.heirs_needed", "privacy.heirs = 'shared'", lambda spec: spec.privacy.heirs == "shared"),
    Effect("sharing.wait", "sharing.secure", lambda spec: spec.sharing.secure),
    Effect("fleet.profile", "fleet.virtual", lambda spec: spec.fleet.virtual > 0),
    Effect("fleet.arch", "fleet.virtual", lambda spec: spec.fleet.virtual > 0),
)

OF_SIMULATIONS = (
    *ALWAYS,
    Effect(
        "partition.alpha", "partition.kind = 'dirichlet'", lambda spec: spec.partition.kind == "dirichlet"
    ),
    Effect("partition.shards", "partition.kind = 'shards'", lambda spec: spec.partition.kind == "shards"),
)


def check_effects(spec: BaseModel, effects: Iterable[Effect]) -> None:
    """Raise ValueError if an option of `spec` is not as it is by default, and has no effect."""
    for effect in effects:
        table, key = effect.option.split(".")
        section: BaseModel = getattr(spec, table)
        unlike = getattr(section, key) != type(section).model_fields[key].default
        if unlike and not effect.holds(spec):
            raise ValueError(
                f"{effect.option} has an effect only with {effect.needs}: set that, or leave {key} out"
            )
