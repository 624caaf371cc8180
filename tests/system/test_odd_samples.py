"""Batch norm never sees a single sample: the last one joins those before it, and plain SGD trains as well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from crowdlearn_export.graph.weights import state_of
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.plan import save_plan
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import RunSpec

from .sockets import train_on_sockets
from .unsliced import plain_sgd

pytestmark = pytest.mark.system
DEVICES = 2  # of 719 and 718 samples


def config(batch: int, **group: object) -> RunSpec:
    training = {"epochs": 1, "batch": batch, "micro_batch": 2, "learning_rate": 0.001}
    values = {"data": "digits", "model": "mlp:64-12-10", "group": {"pieces": DEVICES, **group}}
    return RunSpec.model_validate(
        {**values, "training": {**training, "wire": "float32", "kernels": "by_size"}}
    )


async def test_odd_mini_batches_in_twos_equal_plain_sgd(tmp_path: Path) -> None:
    wanted = config(33)
    server, events = await train_on_sockets(tmp_path, wanted, DEVICES)
    prepared = prepare(wanted, lambda event, fields: None)
    graph, template = prepared.graph, prepared.model.state_dict()
    trained = state_of(graph, server.shared.model(), template, prepared.plan.order)
    expected, losses = plain_sgd(prepared.model, wanted, DEVICES, torch.float64)
    assert [fields["loss"] for event, fields in events if event == "progress"] == pytest.approx(
        losses, rel=1e-3
    )
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert float((trained[name] - value).abs().max() / value.abs().max()) <= 1e-3, name


async def test_odd_samples_train_in_mini_batches_of_two(tmp_path: Path) -> None:
    server, events = await train_on_sockets(tmp_path, config(2), DEVICES)
    assert server.groups[0].phase == "done", server.groups[0].reason
    assert not [fields for event, fields in events if event in ("fault", "refused")]
    rows = [fields["rows"] for event, fields in events if event == "progress"]
    assert sorted(rows) == [2] * 717 + [3]
    assert all(np.isfinite(array).all() for array in server.shared.model().values())


def test_a_plan_of_single_samples_is_refused(tmp_path: Path) -> None:
    plan = balanced(prepare(config(33), lambda event, fields: None).graph, DEVICES)
    save_plan(replace(plan, micro_batch=1), tmp_path / "plan.json")
    wanted = config(33, plan=tmp_path / "plan.json")
    wanted = wanted.model_copy(update={"training": wanted.training.model_copy(update={"micro_batch": None})})
    with pytest.raises(ConfigError, match="--micro-batch 2 or more"):
        prepare(wanted, lambda event, fields: None)
