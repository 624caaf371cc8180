"""A sealed snapshot opens for its heirs alone, part by part, and as it was sealed or not at all."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from crowdlearn_device.errors import EnvelopeError
from crowdlearn_device.privacy.aggregation.shamir import join, split
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.security import snapshot
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.security.snapshot import SnapshotOpener, seal_snapshot, unwrapped
from hypothesis import given
from hypothesis import strategies as st

OWNER, HEIR, OTHER = (Identity.generate() for _ in range(3))
PART = 4


def sealed(content: bytes, **place: Any) -> list[pb.Snapshot]:
    """Its parts, of a few bytes each."""
    said: dict[str, Any] = {"generation": 1, "boundary": 8, "piece": 2, **place}
    whole = pb.Snapshot(**said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "PART_BYTES", PART)
        return list(seal_snapshot("run", OWNER, {5: HEIR.public}, whole, len(content), [content]))


def opener(first: pb.Snapshot, me: int = 5, identity: Identity = HEIR, run: str = "run") -> SnapshotOpener:
    return SnapshotOpener(run, unwrapped(run, me, identity, OWNER.public, first)[1])


def test_a_snapshot_opens_for_its_heirs_alone() -> None:
    (part,) = sealed(b"four")
    assert b"four" not in part.SerializeToString()
    assert opener(part).open(part) == b"four"
    with pytest.raises(EnvelopeError, match="not sealed to device 6"):
        opener(part, 6, OTHER)
    with pytest.raises(EnvelopeError, match="altered"):
        opener(part, 5, OTHER)
    with pytest.raises(EnvelopeError, match="altered"):
        opener(part, run="another run")


def test_a_snapshot_that_the_server_made_itself_is_refused() -> None:
    place = pb.Snapshot(generation=1, boundary=8, piece=2)
    (part,) = seal_snapshot("run", OTHER, {5: HEIR.public}, place, 4, [b"four"])
    with pytest.raises(EnvelopeError, match="altered"):
        opener(part)


@given(st.lists(st.binary(max_size=9), min_size=1).filter(any))
def test_its_parts_are_its_content_in_order(blocks: list[bytes]) -> None:
    content, whole = b"".join(blocks), pb.Snapshot(generation=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "PART_BYTES", PART)
        parts = list(seal_snapshot("run", OWNER, {5: HEIR.public}, whole, len(content), blocks))
    assert [part.part for part in parts] == list(range(-(-len(content) // PART)))
    assert {part.parts for part in parts} == {len(parts)}
    opening = opener(parts[0])
    assert b"".join(opening.open(part) for part in parts) == content


@pytest.mark.parametrize("field", ["generation", "boundary", "piece", "sender", "part", "parts"])
def test_a_part_opens_as_what_it_was_sealed_as_alone(field: str) -> None:
    parts = sealed(b"twelve bytes")
    opening = opener(parts[0])
    assert opening.open(parts[0]) == b"twel"
    setattr(parts[1], field, getattr(parts[1], field) + 1)
    with pytest.raises(EnvelopeError, match="altered, or not the next"):
        opening.open(parts[1])
    if field != "part":
        setattr(parts[0], field, getattr(parts[0], field) + 1)
        with pytest.raises(EnvelopeError):
            opener(parts[0])


def test_no_part_is_left_out_repeated_reordered_or_of_another_snapshot() -> None:
    parts, others = sealed(b"twelve bytes"), sealed(b"other twelve")
    for number, due in enumerate(parts):
        for wrong in [*others, *(part for part in parts if part is not due)]:
            opening = opener(parts[0])
            assert b"".join(map(opening.open, parts[:number])) == b"twelve bytes"[: PART * number]
            with pytest.raises(EnvelopeError, match="altered, or not the next"):
                opening.open(wrong)
            assert opening.open(due) == b"twelve bytes"[PART * number :][:PART]


def test_two_of_three_heirs_read_a_snapshot_together_and_one_reads_nothing() -> None:
    heirs = {number: Identity.generate() for number in (3, 5, 8)}
    place = pb.Snapshot(generation=1, boundary=4, piece=2, sender=1, needed=2)
    publics = {number: each.public for number, each in heirs.items()}
    (part,) = seal_snapshot("run", OWNER, publics, place, 4, [b"four"], split)
    shares = dict(unwrapped("run", number, own, OWNER.public, part) for number, own in heirs.items())
    for pair in combinations(shares, 2):
        key = join({point: shares[point] for point in pair}, 2)
        assert SnapshotOpener("run", key).open(part) == b"four"
    for share in shares.values():
        with pytest.raises(EnvelopeError):
            SnapshotOpener("run", share).open(part)
    altered = pb.Snapshot.FromString(part.SerializeToString())
    altered.needed = 1
    with pytest.raises(EnvelopeError):
        unwrapped("run", 3, heirs[3], OWNER.public, altered)
