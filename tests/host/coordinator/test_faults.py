"""What a device gets or computes wrong ends as a fault with a reason, never as a crash."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.member import events as member_events
from crowdlearn_device.member.handlers.passing import carry_out
from crowdlearn_device.member.handlers.table import handle
from crowdlearn_device.member.roles.base import Deliver
from crowdlearn_device.member.roles.piece_pass import PiecePass
from crowdlearn_device.piece.piece import Piece
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import encode_tensor
from crowdlearn_device.protocol.schedule import Pass
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_host.coordinator.group.events import Received

from .crowd import ONE_PIECE, TWO_PIECES, Crowd, layout_of, settings_for
from .tiny import LAST, LAYERS, TinyExecutor, manifest


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": ONE_PIECE, "every": 1, "renews": True, "learning_rate": 3e38},
        {"counts": ONE_PIECE, "theta": 0.5, "learning_rate": 3e38},
        {"shared_type": pb.FLOAT16, "every": 1, "learning_rate": 2e5},
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
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2, wire_type=wire, every=1))
    crowd.run_until(lambda: crowd.group.phase == "running")
    member = crowd.phones[crowd.group.holders[1]].member
    assert member
    assert member.generation
    assert isinstance(member.generation.role, PiecePass)
    member.generation.role.work.piece._weights._values["weight1"][0, 0] = np.nan
    crowd.run_until(lambda: bool(crowd.log("fault")))
    assert re.search(
        r"of layers \d to \d, piece 1 at step 0: .*nan.* diverged", crowd.log("fault")[0]["reason"]
    )
    assert all(np.isfinite(event["loss"]) for event in crowd.log("progress"))


@pytest.mark.parametrize("purpose", [pb.PURPOSE_ACTIVATION, pb.PURPOSE_ERROR])
def test_sums_and_errors_that_come_too_early_are_a_fault(tmp_path, purpose):
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2), samples=(7, 5))
    crowd.run_until(lambda: crowd.group.phase == "running")
    dominator, follower = crowd.group.holders
    liar, victim = crowd.phones[follower].member, crowd.phones[dominator].member
    assert liar
    assert victim
    assert liar.generation
    assert liar.generation.manifest
    edges = liar.generation.manifest.edges
    if purpose == pb.PURPOSE_ACTIVATION:
        edge, width = next((i, LAYERS[LAST]) for i, e in enumerate(edges) if e.target == LAST)
    else:
        edge, width = next((i, LAYERS[e.target]) for i, e in enumerate(edges) if e.source == 0)
    values = encode_tensor(np.ones((2, width), np.float32), pb.FLOAT32)
    step = liar.generation.assign.boundary
    sums = pb.Sums(step=step, micro=0, edge=edge, micros=2, rows=3, values=values)
    (sealed,) = carry_out(liar.generation, [Deliver(0, purpose, sums.SerializeToString())])
    forged = pb.Frame.FromString(sealed.SerializeToString())
    said = handle(victim, member_events.Received(forged))
    while victim.has_work:
        said += handle(victim, member_events.Turn())
    faults = [frame.fault for frame in said if frame.WhichOneof("body") == "fault"]
    assert [fault.kind for fault in faults] == [pb.FAULT_WIRE]
    assert "before" in faults[0].reason


def test_progress_of_no_samples_is_refused(tmp_path):
    crowd = Crowd(tmp_path, settings_for(epochs=1))
    crowd.run_until(lambda: crowd.group.phase == "running")
    told = pb.Progress(generation=crowd.group.generation, boundary=1, rows=0)
    crowd.host.handle(Received(crowd.group.schedule.dominator, pb.Frame(progress=told)))
    crowd.run()
    assert crowd.done
    assert any("no samples" in event["reason"] for event in crowd.log("refused"))


@pytest.mark.parametrize("absent", ["loss", "forward_1", "backward_2"])
def test_a_program_that_cannot_train_its_piece_is_refused(tmp_path, absent):
    whole = manifest(LAYERS)
    layout = layout_of(ONE_PIECE)
    methods = tuple(method for method in whole.methods if method.name != absent)
    assert len(methods) < len(whole.methods)
    state = PieceState(layout[0], {})
    with pytest.raises(ProgramError, match=absent):
        Piece(replace(whole, methods=methods), TinyExecutor(whole), layout, 0, state, 0, Pass(0, 1), 0.1, 0)


def sums(sent: int, **changes: Any) -> bytes:
    values = encode_tensor(np.ones((sent, LAYERS[1]), np.float32))
    given = {"micro": 0, "edge": 0, "micros": 2, "rows": 3, "values": values, **changes}
    return pb.Sums(**given).SerializeToString()


LARGEST = pb.Tensor(dtype=pb.INT8, shape=[2, LAYERS[1]], data=b"\x7f" * 2 * LAYERS[1], scale=3e38)


@pytest.mark.parametrize(
    ("purpose", "content", "words"),
    [
        (pb.PURPOSE_ACTIVATION, b"\xff", "sums of 1 bytes does not parse"),
        (pb.PURPOSE_RECOVERY, b"\xff", "purpose 5, which is not due"),
        (pb.PURPOSE_SHUFFLE, b"\xff", "statepart of 1 bytes does not parse"),
        (pb.PURPOSE_CONTROL, sums(2), "purpose 0, which is not due"),
        (pb.PURPOSE_SHARING, sums(2), "purpose 4, which is not due"),
        (pb.PURPOSE_ACTIVATION, sums(2, rows=1 << 30, micros=1 << 29), "with 1073741824 rows"),
        (pb.PURPOSE_ACTIVATION, sums(2, micros=3), "micro-batch 0 of 3 with 3 rows"),
        (pb.PURPOSE_ACTIVATION, sums(2, micro=2), "micro-batch 2 of 2 with 3 rows"),
        (pb.PURPOSE_ACTIVATION, sums(1), "for the 2 rows of a micro-batch"),
        (pb.PURPOSE_ACTIVATION, sums(2, values=LARGEST), "int8 tensor with scale"),
    ],
)
def test_whatever_an_authenticated_peer_seals_is_a_fault_with_its_reason(tmp_path, purpose, content, words):
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2), samples=(7, 5))
    crowd.run_until(lambda: crowd.group.phase == "running")
    dominator, follower = crowd.group.holders
    liar, victim = crowd.phones[dominator].member, crowd.phones[follower].member
    assert liar
    assert liar.generation
    assert victim
    (sealed,) = carry_out(liar.generation, [Deliver(1, purpose, content)])
    said = handle(victim, member_events.Received(sealed))
    (fault,) = (frame.fault for frame in said if frame.HasField("fault"))
    assert (fault.kind, fault.generation) == (pb.FAULT_WIRE, crowd.group.generation)
    assert words in fault.reason


@pytest.mark.parametrize("batch", [2, 3])
def test_a_last_sample_that_joined_those_before_it_is_what_was_due(tmp_path, batch):
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2, batch=batch, least_rows=2), samples=(7, 5))
    crowd.run()
    assert crowd.done
    assert not crowd.log("fault")


def test_a_disk_that_takes_nothing_stops_the_run_with_the_reason(tmp_path):
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2), samples=(7, 5))
    crowd.run_until(lambda: crowd.group.phase == "running")
    states = crowd.phones[crowd.group.holders[1]].home / "runs"
    shutil.rmtree(states)
    states.write_bytes(b"")  # nothing can be written below it any more
    crowd.run()
    assert crowd.group.phase == "stopped"
    assert "storage failed (Not a directory); make room there, then resume" in crowd.group.reason
    assert {event["kind"] for event in crowd.log("fault")} == {"FAULT_DEVICE"}


def test_an_error_that_nobody_foresaw_is_told_and_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Piece, "run", lambda piece: {}["nothing"])
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2), samples=(7, 5))
    crowd.run()
    assert crowd.group.phase == "stopped"
    assert "KeyError: 'nothing'; report it with the log" in crowd.group.reason
    assert "Traceback" in caplog.text
