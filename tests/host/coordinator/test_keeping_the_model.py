"""After training every device has the group's model, whoever dies while it is handed out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.prediction.model_folder import WEIGHTS
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.state.piece_state import PieceState

from .crowd import Action, Crowd, largest_difference, memory_folder, settings_for
from .crowd_parties import RUN
from .tiny import LAYERS, whole

SETTINGS = settings_for(epochs=1, whole_program=whole().sha256)
CHOSEN = settings_for(epochs=2, whole_program=whole().sha256, chooses=True)
"""Settings of a run whose first epoch is the best."""


def kept_by(crowd: Crowd, number: int) -> dict[str, Floats]:
    """The model on a device's disk."""
    content = (crowd.phones[number].home / "models" / RUN / WEIGHTS).read_bytes()
    state = PieceState.from_bytes(content)
    assert list(state.neurons) == [(0, neurons) for neurons in LAYERS]
    return {name.removeprefix("value/"): a for arrays in state.layers.values() for name, a in arrays.items()}


def assert_all_have_it(crowd: Crowd) -> None:
    assert crowd.done
    # One group that shares every weight: the server's model is the group's.
    due = crowd.disk["models"][0] if crowd.settings.chooses else crowd.model()
    for phone in crowd.phones:
        assert largest_difference(kept_by(crowd, phone.number), due) == 0


def handing_out(crowd: Crowd) -> bool:
    return bool(crowd.group.forming.keepers) and crowd.group.phase == "forming"


def test_every_device_takes_the_model(tmp_path):
    crowd = Crowd(tmp_path, SETTINGS)
    crowd.run()
    assert_all_have_it(crowd)
    assert not list(tmp_path.rglob("*.partial"))
    assert {d.name for d in crowd.group.devices.values()} == set(crowd.log("kept")[-1]["devices"])


def test_every_device_takes_the_model_that_validation_chose(tmp_path):
    crowd = Crowd(tmp_path, CHOSEN)
    crowd.run()
    assert_all_have_it(crowd)
    assert largest_difference(crowd.disk["models"][0], crowd.model()) > 0


def test_a_chosen_model_needs_no_device_that_is_gone(tmp_path):
    crowd = Crowd(tmp_path, CHOSEN)
    crowd.run_until(lambda: handing_out(crowd))
    for phone in crowd.phones:
        crowd.crash(phone.number)
    crowd.connect(3)
    crowd.run()
    crowd.wait(0.0)
    crowd.wait(SETTINGS.grace_seconds + 1)
    crowd.run()
    assert crowd.done
    assert largest_difference(kept_by(crowd, 3), crowd.disk["models"][0]) == 0


def test_without_the_setting_nobody_does(tmp_path):
    crowd = Crowd(tmp_path, settings_for(epochs=1))
    crowd.run()
    assert crowd.done
    assert not list(tmp_path.rglob(WEIGHTS))


@pytest.mark.parametrize("victim", ["holder", "spare", "host"])
@pytest.mark.parametrize("settings", [SETTINGS, CHOSEN], ids=["last", "chosen"])
@pytest.mark.parametrize("nth", range(0, 40, 5))
def test_whoever_dies_while_it_is_handed_out(victim, nth, settings):
    with memory_folder() as folder:
        crowd = Crowd(folder, settings, seed=nth)
        left: list[int] = [nth]

        def before(action: Action) -> None:
            if left[0] < 0 or not handing_out(crowd):
                return
            left[0] -= 1
            if left[0] >= 0:
                return
            if victim == "host":
                crowd.host.effects_left = crowd.rng.randint(0, 3)
                return
            holders = crowd.group.holders
            choice = [p.number for p in crowd.phones if (p.number in holders) == (victim == "holder")]
            number = crowd.rng.choice(choice)
            crowd.crash(number)
            crowd.connect(number)

        crowd.run(before)
        assert left[0] < 0
        assert_all_have_it(crowd)


def test_a_device_that_comes_back_within_the_grace_gets_it_too(tmp_path):
    crowd = Crowd(tmp_path, SETTINGS)
    crowd.run_until(lambda: handing_out(crowd))
    crowd.crash(3)
    crowd.run()
    assert crowd.group.phase == "paused"
    assert "phone-3" in crowd.group.reason
    crowd.connect(3)
    crowd.run()
    assert_all_have_it(crowd)


def test_a_device_that_stays_away_is_not_waited_for_longer(tmp_path):
    crowd = Crowd(tmp_path, SETTINGS)
    crowd.run_until(lambda: handing_out(crowd))
    spare = next(p.number for p in crowd.phones if p.number not in crowd.group.holders)
    crowd.crash(spare)
    crowd.run()
    assert crowd.group.phase == "paused"
    crowd.wait(0.0)
    crowd.wait(SETTINGS.grace_seconds + 1)
    crowd.run()
    assert crowd.done
    assert not (crowd.phones[spare].home / "models").exists()


def test_where_every_weight_was_renewed_before_the_last_device_went(tmp_path):
    crowd = Crowd(
        tmp_path, settings_for(epochs=1, every=1, renews=True, alone=False, whole_program=whole().sha256)
    )
    last = len(crowd.phones) - 1
    crowd.run_until(lambda: len(crowd.log("shared")) == last)
    absent = next(d for d in crowd.group.schedule.order if d not in crowd.group.schedule.finished)
    crowd.crash(absent)
    crowd.run()
    crowd.wait(0.0)
    crowd.wait(SETTINGS.grace_seconds + 1)
    crowd.run()
    assert crowd.done
    assert [told["device"] for told in crowd.log("skipped")] == [f"phone-{absent}"]
    for phone in crowd.phones:
        if phone.number != absent:
            assert largest_difference(kept_by(crowd, phone.number), crowd.model()) == 0


def test_only_the_model_travels_and_only_sealed(tmp_path: Path):
    crowd = Crowd(tmp_path, SETTINGS)
    relayed: list[bytes] = []
    told: list[pb.Frame] = []

    def before(action: Action) -> None:
        frame = action.frame()
        if frame is None or not crowd.group.forming.keepers or action.kind != "hear":
            return
        if frame.HasField("envelope"):
            assert frame.envelope.purpose == pb.PURPOSE_MODEL
            relayed.append(frame.envelope.sealed)
        else:
            told.append(frame)

    crowd.run(before)
    assert relayed
    assert {frame.WhichOneof("body") for frame in told} <= {"key_offer", "ready", "pong"}
    rows = [
        row.tobytes()
        for array in crowd.model().values()
        for row in np.ascontiguousarray(array)
        if row.size > 1
    ]
    assert rows
    assert not any(row in sealed for row in rows for sealed in relayed)
