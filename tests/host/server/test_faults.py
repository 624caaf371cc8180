"""What a device gets or computes wrong ends as a fault with a reason, never as a crash."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.piece import Piece
from crowdlearn_device.schedule import Pass
from crowdlearn_device.state import PieceState
from crowdlearn_device.wire import encode_tensor

from .crowd import ONE_PIECE, TWO_PIECES, Crowd, layout_of, settings_for
from .tiny import LAST, LAYERS, TinyExecutor, manifest


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": ONE_PIECE, "every": 1, "renews": True, "learning_rate": 3e38},
        {"counts": ONE_PIECE, "theta": 0.5, "learning_rate": 3e38},
        {"values": pb.FLOAT16, "every": 1, "learning_rate": 2e5},
    ],
)
def test_weights_that_diverged_stop_the_run_with_the_reason(tmp_path, changes):
    crowd = Crowd(tmp_path, settings_for(alone=False, **changes))
    with np.errstate(all="ignore"):
        crowd.run()
    assert crowd.group.phase == "stopped"
    assert re.search("diverged|train slower", crowd.group.reason)


@pytest.mark.parametrize("wire", [pb.FLOAT32, pb.FLOAT16, pb.INT8])
def test_a_follower_with_a_weight_that_is_nan_says_so_before_the_next_update(tmp_path, wire):
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2, wire=wire, every=1))
    crowd.run_until(lambda: crowd.group.phase == "running")
    member = crowd.phones[crowd.group.holders[1]].member
    assert member
    assert member._generation
    assert member._generation._work
    member._generation._work._piece._weights._values["weight1"][0, 0] = np.nan
    crowd.run_until(lambda: crowd.told("fault"))
    assert re.search(
        r"of layers \d to \d, piece 1 at step 0: .*nan.* diverged", crowd.told("fault")[0]["reason"]
    )
    assert all(np.isfinite(event["loss"]) for event in crowd.told("progress"))


@pytest.mark.parametrize("purpose", [pb.PURPOSE_ACTIVATION, pb.PURPOSE_ERROR])
def test_sums_and_errors_that_come_too_early_are_a_fault(tmp_path, purpose):
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2), samples=(7, 5))
    crowd.run_until(lambda: crowd.group.phase == "running")
    dominator, follower = crowd.group.holders
    liar, victim = crowd.phones[follower].member, crowd.phones[dominator].member
    assert liar
    assert victim
    assert liar._generation
    edges = liar._generation._manifest.edges
    if purpose == pb.PURPOSE_ACTIVATION:
        edge, width = next((i, LAYERS[LAST]) for i, e in enumerate(edges) if e.target == LAST)
    else:
        edge, width = next((i, LAYERS[e.target]) for i, e in enumerate(edges) if e.source == 0)
    values = encode_tensor(np.ones((2, width), np.float32), pb.FLOAT32)
    step = liar._generation._assign.boundary
    sums = pb.Sums(step=step, micro=0, edge=edge, micros=2, rows=3, values=values)
    liar._generation.deliver(0, purpose, sums.SerializeToString(), express=False)
    forged = pb.Frame.FromString(liar.outbox.pop().SerializeToString())
    victim.receive(forged)
    while victim.work():
        pass
    faults = [frame.fault for frame in victim.outbox if frame.WhichOneof("body") == "fault"]
    assert [fault.kind for fault in faults] == [pb.FAULT_WIRE]
    assert "before" in faults[0].reason


def test_progress_of_no_samples_is_refused(tmp_path):
    crowd = Crowd(tmp_path, settings_for(epochs=1))
    crowd.run_until(lambda: crowd.group.phase == "running")
    told = pb.Progress(generation=crowd.group.generation, boundary=1, rows=0)
    crowd.group.receive(crowd.group.schedule.dominator, pb.Frame(progress=told))
    crowd.run()
    assert crowd.done
    assert any("no samples" in event["reason"] for event in crowd.told("refused"))


@pytest.mark.parametrize("absent", ["loss", "forward_1", "backward_2"])
def test_a_program_that_cannot_train_its_piece_is_refused(tmp_path, absent):
    whole = manifest(LAYERS)
    layout = layout_of(ONE_PIECE)
    methods = tuple(method for method in whole.methods if method.name != absent)
    assert len(methods) < len(whole.methods)
    state = PieceState(layout[0], {})
    with pytest.raises(ProgramError, match=absent):
        Piece(replace(whole, methods=methods), TinyExecutor(whole), layout, 0, state, 0, Pass(0, 1), 0.1, 0)
