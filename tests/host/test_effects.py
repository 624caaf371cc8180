"""Options that only others give an effect: refused alone, and taken beside them."""

from typing import Any

import pytest
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.spec.effects import OF_RUNS, OF_SIMULATIONS
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulation import SimulationConfig

RUN = {"model": "mlp:64-16-10", "data": "digits"}
SHARED = {"group": {"pieces": 4}}
GIVEN: dict[str, tuple[Any, dict[str, dict[str, Any]]]] = {
    "training.step_factor": (0.5, {"training": {"schedule": "step", "step_epochs": 1}}),
    "privacy.delta": (1e-6, {"privacy": {"epsilon": 4.0}}),
    "privacy.clip": (2.0, {"privacy": {"epsilon": 4.0}}),
    "privacy.fraction": (12, {"privacy": {"sums": "masked"}}),
    "privacy.first_layer": ("shared", {"privacy": {"sums": "shares"}, **SHARED}),
    "sharing.clip": (2.0, {"sharing": {"noise": 1.0, "secure": True, "theta": 1.0}, "group": {"groups": 8}}),
    "privacy.owners": ([["one", "two"]], {"privacy": {"sums": "shares"}, **SHARED}),
    "privacy.heirs_needed": (3, {"privacy": {"heirs": "shared"}}),
    "sharing.wait": (2.0, {"sharing": {"secure": True}, "group": {"groups": 8}}),
    "fleet.profile": ("redmi-7", {"fleet": {"virtual": 3}}),
    "fleet.arch": ("arm64", {"fleet": {"virtual": 3}}),
    "partition.alpha": (0.1, {"partition": {"kind": "dirichlet"}}),
    "partition.shards": (4, {"partition": {"kind": "shards"}}),
}
"""A value for each option, and what gives it an effect."""
CASES = [
    *((RunSpec, effect) for effect in OF_RUNS),
    *((SimulationConfig, effect) for effect in OF_SIMULATIONS),
]


def refusal(kind: type[Any], tables: dict[str, Any]) -> str:
    tables = dict(tables)
    if kind is SimulationConfig:  # has numbers in place of some tables
        tables.pop("group", None)
    try:
        parse_config({**(RUN if kind is RunSpec else {}), **tables}, kind, "the test")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("kind", "effect"), CASES, ids=lambda case: getattr(case, "option", "") or case.__name__
)
def test_an_option_is_refused_where_it_has_no_effect(kind: type[Any], effect: Any) -> None:
    table, key = effect.option.split(".")
    value, beside = GIVEN[effect.option]
    alone = {table: {key: value}}
    assert f"{effect.option} has an effect only with {effect.needs}" in refusal(kind, alone)
    assert refusal(kind, {**beside, table: {**beside.get(table, {}), key: value}}) == ""
