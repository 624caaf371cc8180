"""Virtual phones over adb train on shares, lose devices, and end in the same bits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.runs.folder import new_run
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.runs.train import train
from crowdlearn_host.spec.run_spec import RunSpec

from .over_adb import trained
from .test_survival import assert_same, kill_runtime

pytestmark = pytest.mark.system
CONFIG: dict[str, Any] = {
    "name": "test",
    "data": "digits",
    "model": "mlp:64-40-24-20-10",
    "group": {"pieces": 4},
    "training": {"epochs": 1, "batch": 48, "learning_rate": 0.05, "momentum": 0.9, "kernels": "by_size"},
    "privacy": {"sums": "shares"},
}


def test_phones_on_shares_learn_as_in_the_clear(tmp_path: Path) -> None:
    runs = {}
    for sums in ("shares", "plain"):
        config = RunSpec.model_validate({**CONFIG, "privacy": {"sums": sums}})
        runs[sums] = trained(prepare(config, lambda event, fields: None), 4, tmp_path / sums)
    losses = {sums: [m["loss"] for m in read_lines(run / "metrics.jsonl")] for sums, run in runs.items()}
    assert len(losses["shares"]) == len(losses["plain"]) >= 28
    assert np.mean(losses["shares"][-8:]) <= np.mean(losses["plain"][-8:]) + 0.1
    states = {sums: load_model_state(run) for sums, run in runs.items()}
    assert states["shares"].keys() == states["plain"].keys()


@pytest.mark.parametrize("pieces", [4, pytest.param(7, marks=pytest.mark.nightly)])
def test_killed_dominators_and_helpers_cost_no_bit(tmp_path: Path, pieces: int) -> None:
    """Keys are fresh in every generation; a spare takes over what a lost helper kept."""
    training = {**CONFIG["training"], "snapshot_every": 3}
    config = RunSpec.model_validate({**CONFIG, "training": training, "group": {"pieces": pieces}})
    prepared = prepare(config, lambda event, fields: None)
    due, kills = [3, 8, 14, 20], list[asyncio.Task[None]]()
    with phones.running(pieces + 1, tmp_path / "home") as started:
        serials = [phone.serial for phone in started]

        def on_event(event: str, fields: dict[str, Any]) -> None:
            if event == "progress" and due and fields["boundary"] == due[0]:
                due.pop(0)
                kills.append(asyncio.get_running_loop().create_task(kill_runtime(serials[len(kills)])))

        states = {}
        for name, told in (("undisturbed", lambda event, fields: None), ("disturbed", on_event)):
            with new_run(tmp_path / name, "", prepared, tmp_path) as opened:
                asyncio.run(train(prepared, serials, opened, told))
            states[name] = load_model_state(tmp_path / name)
    assert len(kills) == 4
    assert all(kill.done() and kill.exception() is None for kill in kills)
    assert_same(tmp_path / "disturbed", states["undisturbed"])
    events = [line["event"] for line in read_lines(tmp_path / "disturbed" / "events.jsonl")]
    assert events.count("recovering") >= 1
