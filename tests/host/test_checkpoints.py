"""Checkpoints are written and tested beside training, which waits for neither."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from crowdlearn_device.transport.join import join_host
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment
from crowdlearn_host.runs.data import load_split, to_npz
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.runs.results import checkpoints
from crowdlearn_host.runs.results.evaluation import Evaluation, evaluate
from crowdlearn_host.runs.train import train
from crowdlearn_host.spec.run_spec import RunSpec

ENOUGH_SECONDS = 120
EPOCHS = 6
Events = list[tuple[str, dict[str, Any]]]


async def trained(
    tmp_path: Path, home: Path, groups: int = 1, **checkpoint: Any
) -> tuple[Evaluation | None, Events, RunFolder]:
    """A run of one device a group, and what it told."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = int(tried.getsockname()[1])
    values = {
        "model": "mlp:64-12-10",
        "data": "digits",
        "group": {"pieces": 1, "groups": groups},
        "training": {"epochs": EPOCHS, "batch": 128, "kernels": "by_size"},
        "fleet": {"listen": f"127.0.0.1:{port}", "joining": groups},
        "checkpoints": checkpoint,
    }
    prepared = prepare(parse_config(values, RunSpec, "the test"), lambda *_: None)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.npz").write_bytes(to_npz(load_split("digits", "test")))
    _, pin = certificate(home)
    joining = [
        asyncio.create_task(
            join_host(
                tmp_path / name,
                tmp_path / "data",
                name,
                f"wss://127.0.0.1:{port}",
                Enrolment(home).enrol(name),
                pin,
                once=True,
            )
        )
        for name in (f"phone-{number}" for number in range(groups))
    ]
    events: Events = []
    with RunFolder(tmp_path / "run", create=True) as folder:
        told = lambda event, fields: events.append((event, fields))  # noqa: E731
        result = await asyncio.wait_for(train(prepared, [], folder, told), ENOUGH_SECONDS)
        await asyncio.gather(*joining)
    return result, events, folder


def epochs_of(events: Events, event: str) -> list[int]:
    return [fields["epoch"] for name, fields in events if name == event]


async def test_training_does_not_wait_for_an_evaluation_and_what_is_left_out_is_told(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first evaluation takes until the run is over. Which model it is of depends on when its thread
    begins, and that is no promise.
    """
    over, took = threading.Event(), []

    def slow(*args: Any) -> Evaluation:
        assert over.wait(ENOUGH_SECONDS)
        took.append(evaluate(*args))
        return took[-1]

    monkeypatch.setattr(checkpoints, "evaluate", slow)
    monkeypatch.setattr(
        checkpoints.Checkpoints,
        "finish",
        lambda self, real=checkpoints.Checkpoints.finish: (over.set(), real(self))[1],
    )
    result, events, folder = await trained(tmp_path, home, keep=2)
    evaluated, left_out = epochs_of(events, "evaluated"), epochs_of(events, "not_evaluated")
    assert len(evaluated) == 2
    assert evaluated[1] == EPOCHS - 1
    assert sorted(evaluated + left_out) == list(range(EPOCHS))
    assert result == took[-1]
    assert set(folder.checkpoints()) <= {evaluated[0], EPOCHS - 2, EPOCHS - 1}


@pytest.mark.parametrize("evaluate", ["epoch", "group"])
async def test_groups_are_evaluated_together_unless_each_is_asked_for(
    tmp_path: Path, home: Path, evaluate: str
) -> None:
    result, events, folder = await trained(tmp_path, home, groups=2, evaluate=evaluate, keep=1)
    told = sorted(epochs_of(events, "evaluated") + epochs_of(events, "not_evaluated"))
    each = 2 if evaluate == "group" else 1
    assert told == sorted([*range(EPOCHS)] * each)
    assert result is not None
    accuracies = {f["epoch"]: f["test_accuracy"] for e, f in events if e == "evaluated"}
    best = max(accuracies, key=lambda epoch: (accuracies[epoch], epoch))
    assert set(folder.checkpoints()) <= {best, EPOCHS - 1} | {max(accuracies)}
    assert EPOCHS - 1 in folder.checkpoints()


async def test_a_slow_disk_holds_up_no_relay(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on while something is saved: a disk that waits for it gets its answer."""
    save, loop = RunFolder.save, asyncio.get_running_loop()
    answers: list[bool] = []

    def slow(self: RunFolder, *args: Any, **kwargs: Any) -> None:
        answered = threading.Event()
        loop.call_soon_threadsafe(answered.set)
        answers.append(answered.wait(30))
        save(self, *args, **kwargs)

    monkeypatch.setattr(RunFolder, "save", slow)
    await trained(tmp_path, home)
    assert len(answers) >= EPOCHS
    assert all(answers)
