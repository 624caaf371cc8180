import stat
from typing import Any

import pytest
from crowdlearn_device.errors import EnvelopeError, StateError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.security.envelope import Channel
from crowdlearn_device.security.identity import Identity
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey


def public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def channels(run: str = "run", generation: int = 3) -> tuple[Channel, Channel]:
    a, b = Identity.generate(), Identity.generate()
    ea, eb = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    return (
        Channel(run, generation, 1, a, ea, 2, b.public, public(eb)),
        Channel(run, generation, 2, b, eb, 1, a.public, public(ea)),
    )


def test_what_one_seals_the_other_opens_in_order():
    a, b = channels()
    for text in (b"first", b"second"):
        assert b.open(a.seal(pb.PURPOSE_ACTIVATION, text)) == text
        assert a.open(b.seal(pb.PURPOSE_ERROR, text)) == text


def test_the_sealed_bytes_do_not_hold_the_content():
    a, _ = channels()
    assert b"secret sums" not in a.seal(pb.PURPOSE_ACTIVATION, b"secret sums").SerializeToString()


@pytest.mark.parametrize(
    "field", ["sealed", "purpose", "sequence", "sender", "receiver", "generation", "more"]
)
def test_an_altered_envelope_is_refused_and_the_true_one_still_opens(field):
    a, b = channels()
    envelope = a.seal(pb.PURPOSE_ACTIVATION, b"content")
    altered = pb.Envelope.FromString(envelope.SerializeToString())
    if field == "sealed":
        altered.sealed = bytes([altered.sealed[0] ^ 1]) + altered.sealed[1:]
    elif field == "purpose":
        altered.purpose = pb.PURPOSE_ERROR
    else:
        setattr(altered, field, getattr(altered, field) + 1)
    with pytest.raises(EnvelopeError):
        b.open(altered)
    assert b.open(envelope) == b"content"


def test_replays_and_gaps_are_refused():
    a, b = channels()
    first, second, third = (a.seal(pb.PURPOSE_ACTIVATION, bytes([i])) for i in range(3))
    b.open(first)
    with pytest.raises(EnvelopeError, match="replayed"):
        b.open(first)
    with pytest.raises(EnvelopeError, match="out of order"):
        b.open(third)
    assert b.open(second) == b"\1"


def test_what_goes_express_is_numbered_by_itself():
    a, b = channels()
    slow, next_slow = (a.seal(pb.PURPOSE_ACTIVATION, text) for text in (b"slow", b"next"))
    fast, next_fast = (a.seal(pb.PURPOSE_ERROR, text, express=True) for text in (b"fast", b"next"))
    assert b.open(fast) == b"fast"
    assert b.open(slow) == b"slow"
    assert b.open(next_slow) == b"next"
    with pytest.raises(EnvelopeError, match="replayed"):
        b.open(fast)
    assert b.open(next_fast) == b"next"


def test_an_envelope_stays_in_its_lane():
    a, b = channels()
    moved = a.seal(pb.PURPOSE_ACTIVATION, b"x")
    moved.express = True
    with pytest.raises(EnvelopeError, match="altered"):
        b.open(moved)


def test_an_envelope_of_another_run_or_stranger_is_refused():
    a, _ = channels("run")
    _, b = channels("run")
    with pytest.raises(EnvelopeError, match="not from that device"):
        b.open(a.seal(pb.PURPOSE_ACTIVATION, b"x"))


def test_a_server_that_puts_its_own_ephemeral_key_between_cannot_read():
    a, b = Identity.generate(), Identity.generate()
    own, server = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    channel = Channel("run", 1, 1, a, own, 2, b.public, public(server))
    # The server knows its ephemeral key and every public one, but not b's identity key.
    pretender = Channel("run", 1, 2, Identity.generate(), server, 1, a.public, public(own))
    with pytest.raises(EnvelopeError):
        pretender.open(channel.seal(pb.PURPOSE_ACTIVATION, b"x"))


class Agrees:
    """In place of a private key: what can be agreed on without it, by the public key; else a guess."""

    def __init__(self, known: dict[bytes, bytes]) -> None:
        self._known = known

    def exchange(self, peer: X25519PublicKey) -> bytes:
        return self._known.get(peer.public_bytes_raw(), bytes(32))


def agreed(private: X25519PrivateKey, peer: bytes) -> bytes:
    return private.exchange(X25519PublicKey.from_public_bytes(peer))


def test_identity_keys_that_leak_later_open_nothing_that_was_sealed_before():
    a, b = Identity.generate(), Identity.generate()
    ea, eb = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    channel = Channel("run", 1, 1, a, ea, 2, b.public, public(eb))
    without_ephemeral: Any = Agrees({a.public: agreed(a.private, public(eb))})
    thief = Channel("run", 1, 2, b, without_ephemeral, 1, a.public, public(ea))
    with pytest.raises(EnvelopeError, match="not from that device"):
        thief.open(channel.seal(pb.PURPOSE_ACTIVATION, b"x"))


def test_a_device_whose_own_key_leaked_still_knows_who_answers():
    a, b = Identity.generate(), Identity.generate()
    eb, server = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    channel = Channel("run", 1, 2, b, eb, 1, a.public, public(server))
    known: Any = Agrees({b.public: agreed(b.private, a.public)})
    pretender = Channel("run", 1, 1, Identity(known), server, 2, b.public, public(eb))
    with pytest.raises(EnvelopeError, match="not from that device"):
        channel.open(pretender.seal(pb.PURPOSE_ACTIVATION, b"x"))


def test_nothing_is_sealed_under_a_key_stream_that_was_used_before():
    """Of two contents under one stream everybody can read the difference."""
    a, b = Identity.generate(), Identity.generate()
    ea, eb = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    sealed = [
        channel.seal(pb.PURPOSE_ACTIVATION, bytes(32), express=express).sealed[:32]
        for run, generation in (("run", 1), ("run", 2), ("other", 1))
        for channel in (
            Channel(run, generation, 1, a, ea, 2, b.public, public(eb)),
            Channel(run, generation, 2, b, eb, 1, a.public, public(ea)),
        )
        for express in (False, False, True, True)
    ]
    assert len(set(sealed)) == len(sealed) == 24


def test_a_key_that_is_none_is_refused():
    with pytest.raises(EnvelopeError, match="X25519"):
        Channel("r", 1, 1, Identity.generate(), X25519PrivateKey.generate(), 2, bytes(32), bytes(32))


def test_an_identity_lasts_and_is_readable_by_its_owner_alone(tmp_path):
    path = tmp_path / "identity.key"
    first = Identity.load(path)
    assert Identity.load(path).public == first.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(StateError, match="delete it"):
        Identity.load(path)
