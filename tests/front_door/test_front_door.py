"""`import crowdlearn`: the steps of a user, from a script and from a running event loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crowdlearn
import pytest
from crowdlearn import planning
from crowdlearn_device.errors import DeviceError
from crowdlearn_export.errors import ExportError
from crowdlearn_host.cli.runs.init import TEMPLATE
from crowdlearn_host.errors import ConfigError, HostError, TrainingError

SPEC: dict[str, Any] = {
    "model": "mlp:64-24-10",
    "data": "digits",
    "group": {"pieces": 2},
    "training": {"epochs": 2, "wire": "float32", "kernels": "by_size"},
    "fleet": {"virtual": 2},
}


@pytest.fixture
def spec() -> crowdlearn.RunSpec:
    return crowdlearn.RunSpec.model_validate(SPEC)


def test_every_name_is_there_and_has_words_of_its_own() -> None:
    for name in crowdlearn.__all__:
        assert getattr(crowdlearn, name).__doc__, name
    with pytest.raises(AttributeError, match=r"no attribute 'trian'; it has .*train"):
        crowdlearn.trian  # noqa: B018


def test_the_import_is_light() -> None:
    told = "import crowdlearn, sys; print('torch' in sys.modules or 'executorch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_all_errors_have_one_root() -> None:
    assert all(issubclass(kind, crowdlearn.CrowdlearnError) for kind in (DeviceError, ExportError, HostError))


def test_a_description_is_written_and_read_again(tmp_path: Path, spec: crowdlearn.RunSpec) -> None:
    path = tmp_path / "run.toml"
    path.write_text(spec.to_toml())
    assert crowdlearn.RunSpec.load(path) == spec
    changed = crowdlearn.RunSpec.load(path, ["training.epochs=3", "model=mlp:64-8-10", "sharing.theta = 0.5"])
    assert (changed.training.epochs, changed.model, changed.sharing.theta) == (3, "mlp:64-8-10", 0.5)
    for wrong, told in (
        ("epochs", "KEY=VALUE"),
        ("training.epochs=many", "epochs"),
        ("model.name=1", "no table"),
    ):
        with pytest.raises(ConfigError, match=told):
            crowdlearn.RunSpec.load(path, [wrong])


def test_what_init_writes_can_be_trained(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TEMPLATE.format(name="mine"))
    assert crowdlearn.RunSpec.load(path).name == "mine"
    lines = TEMPLATE.format(name="mine").splitlines()
    told = [
        line.removeprefix("# ") for line in lines if line.startswith("# ") and " = " in line.split("#")[1]
    ]
    commented = [line.split(" =")[0] for line in told]
    assert {"momentum", "theta", "keep_model", "listen"} <= {*commented}
    schema = crowdlearn.RunSpec.model_json_schema()
    assert "training" in json.dumps(schema)


def test_a_run_is_trained_watched_evaluated_and_simulated_to_the_same_weights(
    tmp_path: Path, spec: crowdlearn.RunSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    import scipy.optimize  # noqa: F401 - these change filters themselves, at import
    import sklearn.datasets  # noqa: F401
    import torch

    before = (list(warnings.filters), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    environment = dict(os.environ)
    heard: list[crowdlearn.Event] = []
    run = crowdlearn.train(spec, tmp_path / "run", listeners=[heard.append])
    assert {"exporting", "joined", "progress", "evaluated", "done"} <= {event.name for event in heard}
    simulated = crowdlearn.simulate(spec, tmp_path / "simulated")
    assert (
        list(warnings.filters),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
    ) == before
    assert dict(os.environ) == environment
    assert capfd.readouterr() == ("", "")
    weights, alike = run.model().state_dict(), simulated.model().state_dict()
    for name, value in weights.items():
        assert torch.allclose(value, alike[name], rtol=0, atol=1e-4), name
    assert run.evaluate().accuracy == crowdlearn.evaluate(simulated).accuracy > 0.8
    assert crowdlearn.load_run(tmp_path / "run").metrics == run.metrics
    assert not run.simulated
    assert simulated.simulated
    assert run.report().read_text().startswith("<!doctype html>")
    compared = run.report(against=[simulated])
    assert compared.name == "comparison.html"
    assert "report.html" in compared.read_text()
    assert run.export_onnx(tmp_path / "model.onnx") < 1e-4
    assert run.export_pte(tmp_path / "model.pte", max_batch=4) < 1e-3
    assert (tmp_path / "model.pte").stat().st_size > 0


def test_a_description_is_planned_as_the_command_plans_it(spec: crowdlearn.RunSpec) -> None:
    fleet = crowdlearn.Fleet.model_validate(
        {"class": [{"name": "phone", "count": 2, "samples": 100, "macs_per_second": 1e9, "max_macs": 3300}]}
    )
    steps: list[str] = []
    request = planning.PlanRequest.of(spec)
    found = planning.plan_network(
        request, fleet, seconds=2, on_step=lambda what, number, of: steps.append(what)
    )
    assert steps == ["searching for the plan, for at most 2 processor seconds"]
    assert found.training.wire.dtype_bytes == 4
    assert not found.whole_memory
    plan = crowdlearn.plan(spec, fleet, seconds=2)
    assert [piece.neurons for piece in plan.pieces] == [piece.neurons for piece in found.plan.pieces]
    assert all(piece.macs <= 3300 for piece in plan.pieces)


async def test_a_run_is_stopped_and_resumed_while_an_event_loop_runs(
    tmp_path: Path, spec: crowdlearn.RunSpec
) -> None:
    training = crowdlearn.start(spec, tmp_path / "run")
    while (await asyncio.to_thread(next, iter(training))).name != "pass":
        pass
    training.stop()
    with pytest.raises(TrainingError, match="interrupted"):
        await asyncio.to_thread(training.result)
    assert not training.running
    with pytest.raises(TrainingError, match="interrupted"):  # the same folder holds a run already
        training.result()
    run = await asyncio.to_thread(crowdlearn.resume(tmp_path / "run").result)
    assert [event["event"] for event in run.events].count("done") == 1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: crowdlearn.RunSpec(model="mlp:64-8-10"), "data"),
        (lambda: crowdlearn.RunSpec.model_validate({**SPEC, "group": {"pieces": 0}}), r"group\.pieces = 0"),
        (
            lambda: crowdlearn.Fleet.model_validate({"class": [{"name": "phone"}]}),
            "macs_per_second is",
        ),
        (
            lambda: crowdlearn.RunSpec(**{**SPEC, "sharing": {"noise": 1.5}}),
            "RunSpec: .*set secure",
        ),
    ],
)
def test_a_description_that_is_wrong_is_told_as_in_a_file(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()


def test_mistakes_are_told_before_anything_starts(tmp_path: Path) -> None:
    spec = crowdlearn.RunSpec.model_validate({**SPEC, "data": str(tmp_path / "nothing")})
    with pytest.raises(crowdlearn.CrowdlearnError, match="not a folder"):
        crowdlearn.train(spec, tmp_path / "run")
    with pytest.raises(crowdlearn.CrowdlearnError, match="not a folder"):
        list(crowdlearn.start(spec, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(crowdlearn.CrowdlearnError, match="holds no run"):
        crowdlearn.load_run(tmp_path)
