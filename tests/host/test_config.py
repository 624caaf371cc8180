"""A mistake in a configuration file is told with file, key, value and what is allowed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from crowdlearn_host.common.toml_files import Section, load_toml, parse_config
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.planner.problem.fleet import load_fleet
from crowdlearn_host.runs.checks.preflight import check_ports
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulation import SimulationConfig
from pydantic import BaseModel, Field


class Inner(Section):
    theta: float = Field(default=0.5, ge=0, le=1)
    kind: Literal["iid", "shards"] = "iid"


class Outer(Section):
    devices: int = Field(ge=1)
    sharing: Inner = Inner()


def load(folder: Path, text: str) -> Outer:
    (folder / "a.toml").write_text(text)
    return load_toml(folder / "a.toml", Outer)


def test_a_right_file_becomes_the_model(tmp_path: Path) -> None:
    config = load(tmp_path, "devices = 3\n[sharing]\ntheta = 0.9\n")
    assert config == Outer(devices=3, sharing=Inner(theta=0.9))
    assert load(tmp_path, "\ufeffdevices = 3\r\n[sharing]\r\ntheta = 0.9\r\n") == config
    (tmp_path / "a.toml").write_bytes("devices = 3".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"a.toml is not in UTF-8 .*; save it so"):
        load_toml(tmp_path / "a.toml", Outer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("devices = 0", ["a.toml", "devices = 0", "greater than or equal to 1"]),
        ("", ["a.toml", "devices is missing"]),
        ("devices = 1\n[sharing]\ntheta = 2.0", ["sharing.theta = 2.0", "less than or equal to 1"]),
        ("devices = 1\n[sharing]\ntheta = nan", ["sharing.theta = nan", "finite"]),
        ("devices = 1\n[sharing]\nkind = 'x'", ["sharing.kind = 'x'", "'iid' or 'shards'"]),
        ("devices = 1\n[sharing]\nthetta = 1", ["sharing.thetta is not a key", "kind, theta"]),
        ("devices = true", ["devices = True: should not be true or false"]),
        ("devices = 'a'\nwhat = 1", ["devices = 'a'", "what is not a key", "devices, sharing"]),
        ("devices = ", ["a.toml is not TOML", "Invalid value"]),
        ("\x00", ["a.toml"]),
        ("a = " + "[" * 100_000, ["a.toml"]),
    ],
)
def test_a_mistake_names_file_key_value_and_what_is_allowed(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"name": "../a"}, "name = '../a': should be 1 to 61 of the letters"),
        ({"fleet": {"listen": "0.0.0.0"}}, "fleet.listen = '0.0.0.0': should be HOST:PORT"),
    ],
)
def test_a_pattern_is_told_in_words(mistake: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RunSpec.parse({"model": "mlp:64-8-10", "data": "digits", **mistake}, "a.toml")


def test_an_unreadable_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_toml(tmp_path / "none.toml", Outer)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not in UTF-8"):
        load_toml(tmp_path / "binary.toml", Outer)


def test_a_run_that_wants_more_devices_than_it_names_is_told_so(tmp_path: Path) -> None:
    text = 'model = "mlp:64-16-10"\ndata = "digits"\n[group]\npieces = 3\n[fleet]\nvirtual = 2\n'
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"^\S*a.toml: 3 devices are needed, .* the fleet has 2;"):
        load_toml(tmp_path / "a.toml", RunSpec)


def test_a_table_is_not_called_empty_when_what_it_holds_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[[class]]\nname = "x"\ncount = 0\nmacs_per_second = 1e9\n')
    with pytest.raises(ConfigError) as caught:
        load_fleet(tmp_path / "a.toml")
    assert "give either count or devices" in str(caught.value)
    assert "at least 1 item" not in str(caught.value)


def test_keys_that_a_table_of_a_list_may_have_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[[class]]\nname = "x"\ncount = 1\nmac_per_second = 1e9\n')
    with pytest.raises(ConfigError, match=r"class\.0\.mac_per_second is not a key; .* macs_per_second, max_"):
        load_fleet(tmp_path / "a.toml")


@pytest.mark.parametrize("fleet", [{}, {"listen": "127.0.0.1:0", "joining": 1}])
def test_relays_of_a_cluster_need_their_number(fleet: dict[str, object]) -> None:
    values = {"model": "mlp:64-12-10", "data": "digits", "fleet": {**fleet, "relay_engine": "ray"}}
    with pytest.raises(ConfigError, match=r"'ray' needs relays \(how many\)"):
        parse_config(values, RunSpec, "the test")


def test_relays_of_a_run_whose_devices_do_not_dial_in_are_refused() -> None:
    values = {"model": "mlp:64-12-10", "data": "digits", "fleet": {"virtual": 3, "relays": 2}}
    with pytest.raises(ConfigError, match=r"dial in; set fleet\.listen"):
        check_ports(parse_config(values, RunSpec, "the test"))


BEGUN: dict[type[Any], dict[str, Any]] = {
    RunSpec: {"name": "n", "model": "mlp:6-8-4", "data": "digits", "fleet": {"virtual": 2}},
    SimulationConfig: {"model": "mlp:6-8-4", "devices": 4, "group": 2},
}
ODD: list[Any] = [{}, [], [1], {"kind": {}}, {"kind": "adam", "x": []}, True, -1, 1 << 70, float("nan")]
ODD += ["", "x" * 100_000, [[]], [{"kind": []}], {"": 1}, "a\0b", [None]]


def sections(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from sections(part)


def places(section: type[BaseModel], depth: int = 0) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        key = field.alias or name
        yield (key,)
        for inner in sections(field.annotation) if depth < 2 else ():
            yield from ((key, *place) for place in places(inner, depth + 1))


def refusal(values: dict[str, Any], kind: type[Any]) -> str:
    try:
        parse_config(values, kind, "the test")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("kind", "sharing", "words"),
    [
        (RunSpec, {"noise": 1.0}, "sharing.noise lies in secure sums"),
        (SimulationConfig, {"noise": 1.0}, "sharing.noise lies in secure sums"),
    ],
)
def test_options_of_sums_that_are_not_asked_for_are_refused(
    kind: type[Any], sharing: dict[str, Any], words: str
) -> None:
    assert words in refusal({**BEGUN[kind], "sharing": sharing}, kind)


@pytest.mark.parametrize("kind", BEGUN)
def test_odd_values_of_any_key_are_taken_or_refused_in_words(kind: type[Any]) -> None:
    for *tables, key in dict.fromkeys(places(kind)):
        for odd in ODD:
            values = {name: dict(of) if isinstance(of, dict) else of for name, of in BEGUN[kind].items()}
            table = values
            for name in tables:
                table = table.setdefault(name, {})
                if not isinstance(table, dict):
                    break
            else:
                table[key] = odd
                assert len(refusal(values, kind)) < 2000, (tables, key, odd)
