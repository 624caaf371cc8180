"""Secure sums: exact at every drop-out, and nothing for a host that lies."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pytest
from crowdlearn_device.errors import AggregationError
from crowdlearn_device.privacy.aggregation.contributor import Contributor
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint
from crowdlearn_device.privacy.aggregation.graph import neighbours, threshold
from crowdlearn_device.privacy.aggregation.masks import common
from crowdlearn_device.privacy.aggregation.messages import SumRound
from crowdlearn_device.privacy.aggregation.shamir import join, split
from crowdlearn_device.privacy.aggregation.unmasking import KeptInMemory, Unmasking
from crowdlearn_device.security.identity import Identity
from crowdlearn_host.privacy.aggregation.aggregator import Aggregator
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass
class Crowd:
    """`groups` groups, each cut into pieces at `cuts`, that sum a vector of `size` positions."""

    groups: int
    size: int
    cuts: tuple[int, ...] = ()
    least: int = 2
    id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    uneven: bool = False

    def __post_init__(self) -> None:
        stretches = {}
        pieces = len(self.cuts) + 1
        for group in range(self.groups):
            shift = group if self.uneven else 0
            edges = [0, *(min(cut + shift, self.size) for cut in self.cuts), self.size]
            for piece in range(pieces):
                stretches[group * pieces + piece] = ((edges[piece], edges[piece + 1]),)
        self.round = SumRound(self.id, stretches, self.least, self.groups)
        self.identities = {member: Identity.generate() for member in stretches}
        self.confirmed = {member: KeptInMemory() for member in stretches}
        self.numbers = FixedPoint(self.groups)
        rng = np.random.default_rng(0)
        self.values = {
            member: rng.normal(size=sum(b - a for a, b in ranges)).astype(np.float32)
            for member, ranges in stretches.items()
        }

    def contributor(self, number: int) -> Contributor:
        known = {member: identity.public for member, identity in self.identities.items()}
        return Contributor(self.round, number, self.identities[number], known, self.confirmed[number])

    def expected(self, survivors: Collection[int]) -> np.ndarray:
        total = np.zeros(self.size, np.uint32)
        for member in survivors:
            at = 0
            for start, stop in self.round.stretches[member]:
                total[start:stop] += self.numbers.encode(self.values[member][at : at + stop - start])
                at += stop - start
        return total


def run(
    crowd: Crowd, before: Collection[int] = (), masked: Collection[int] = (), last: Collection[int] = ()
) -> tuple[Aggregator, np.ndarray]:
    """The sum, where some members vanish before they mask, after it, or before they reveal."""
    host = Aggregator(crowd.round, crowd.size)
    members = {number: crowd.contributor(number) for number in crowd.round.stretches}
    adverts = host.announce([member.advertise() for member in members.values()])
    sealed = [each for number, member in members.items() for each in member.share(adverts[number])]
    shares = host.pass_on(sealed)
    for number, member in members.items():
        if number not in before:
            host.take(member.mask(shares[number], crowd.numbers.encode(crowd.values[number])))
    gone = {*before, *masked}
    confirmations = host.confirm(
        [each for n in host.survivors if n not in gone for each in members[n].confirm(host.survivors)]
    )
    revealed = [
        members[n].reveal(confirmations.get(n, [])) for n in host.survivors if n not in gone and n not in last
    ]
    return host, host.unmask(revealed)


@pytest.mark.parametrize("groups", [3, 8, 24])
@pytest.mark.parametrize("uneven", [False, True])
def test_the_sum_is_exact_to_the_bit_whoever_drops_out_and_when(groups: int, uneven: bool) -> None:
    for part in (0.0, 0.1, 0.3):
        crowd = Crowd(groups, 101, (30, 70), uneven=uneven)
        count = int(part * groups)
        gone = [3 * k for k in range(count)]  # of every cohort, the same
        later = [3 * k + 1 for k in range(count)]
        last = [3 * k + 2 for k in range(count)]
        host, total = run(crowd, gone, later, last)
        survivors = [m for m in crowd.round.stretches if m not in gone]
        assert list(host.survivors) == survivors
        assert (total == crowd.expected(survivors)).all()
        assert host.counts().min() == groups - count


def test_the_mean_is_that_of_floats_to_a_millionth() -> None:
    crowd = Crowd(8, 40, (10,))
    _, total = run(crowd)
    floats = np.zeros(40)
    for member, ranges in crowd.round.stretches.items():
        for start, stop in ranges:
            floats[start:stop] += crowd.values[member]
    assert np.abs(crowd.numbers.decode(total) - floats).max() < 8 * 2**-20


def test_a_masked_vector_alone_is_noise() -> None:
    crowd = Crowd(4, 100_000)
    crowd.values[0] = np.zeros(100_000, np.float32)
    members = {number: crowd.contributor(number) for number in crowd.round.stretches}
    host = Aggregator(crowd.round, crowd.size)
    adverts = host.announce([member.advertise() for member in members.values()])
    shares = host.pass_on([each for n, m in members.items() for each in m.share(adverts[n])])
    words = members[0].mask(shares[0], crowd.numbers.encode(crowd.values[0])).words
    assert abs(float((words >> 31).mean()) - 0.5) < 0.01
    assert len(np.unique(words)) > 99_000


def test_a_host_that_shows_two_sets_gets_nothing() -> None:
    crowd = Crowd(8, 20)
    host = Aggregator(crowd.round, crowd.size)
    members = {number: crowd.contributor(number) for number in crowd.round.stretches}
    adverts = host.announce([member.advertise() for member in members.values()])
    shares = host.pass_on([each for n, m in members.items() for each in m.share(adverts[n])])
    for n, m in members.items():
        host.take(m.mask(shares[n], crowd.numbers.encode(crowd.values[n])))
    everyone, but_seven = tuple(range(8)), tuple(range(7))
    halves = {n: everyone if n < 4 else but_seven for n in range(7)}
    confirmations = host.confirm([each for n in range(7) for each in members[n].confirm(halves[n])])
    for n in range(7):
        with pytest.raises(AggregationError, match="different sets"):
            members[n].reveal(confirmations[n])
        with pytest.raises(AggregationError, match="two sets"):
            members[n].confirm(but_seven if n < 4 else everyone)


def test_a_host_that_announces_keys_of_its_own_is_found_out() -> None:
    crowd = Crowd(5, 20)
    members = {number: crowd.contributor(number) for number in crowd.round.stretches}
    fake = crowd.contributor(4)
    adverts = {n: m.advertise() for n, m in members.items()}
    told = {**adverts, 4: fake.advertise()}
    sealed = [each for n in range(4) for each in members[n].share([a for m, a in told.items() if m != n])]
    sealed += members[4].share([a for m, a in adverts.items() if m != 4])
    to_first = [each for each in sealed if each.receiver == 0]
    with pytest.raises(AggregationError, match="forged"):
        members[0].mask(to_first, crowd.numbers.encode(crowd.values[0]))


def test_too_few_contributors_release_nothing() -> None:
    whole, other = ((0, 5),), ((5, 9),)
    few = SumRound(b"x", {0: whole, 1: whole, 2: whole, 3: other}, 4, 4)
    with pytest.raises(AggregationError, match="fewer than 4 devices"):
        Contributor(few, 0, Identity.generate(), {}, KeptInMemory())
    crowd = Crowd(6, 10, least=5)
    with pytest.raises(AggregationError, match="4 contributors are left, 5 are needed"):
        run(crowd, before=[0, 1])
    with pytest.raises(AggregationError, match="hides none"):
        SumRound(b"x", {}, 1, 4)


def test_a_round_is_unmasked_once() -> None:
    crowd = Crowd(4, 10)
    run(crowd)
    with pytest.raises(AggregationError, match="confirmed before"):
        run(crowd)


def test_a_host_that_crashed_asks_again_and_gets_the_same() -> None:
    crowd = Crowd(4, 10)
    host = Aggregator(crowd.round, crowd.size)
    members = {number: crowd.contributor(number) for number in crowd.round.stretches}
    adverts = host.announce([member.advertise() for member in members.values()])
    shares = host.pass_on([each for n, m in members.items() for each in m.share(adverts[n])])
    for n, m in members.items():
        host.take(m.mask(shares[n], crowd.numbers.encode(crowd.values[n])))
    first = {n: m.confirm(host.survivors) for n, m in members.items()}
    assert {n: m.confirm(host.survivors) for n, m in members.items()} == first
    confirmations = host.confirm([each for told in first.values() for each in told])
    revealed = [members[n].reveal(confirmations[n]) for n in members]
    assert revealed == [members[n].reveal(confirmations[n]) for n in members]
    assert (host.unmask(revealed) == crowd.expected(host.survivors)).all()


def test_a_device_that_restarts_unmasks_from_its_disk_and_a_host_too() -> None:
    crowd = Crowd(5, 10)
    host = Aggregator(crowd.round, crowd.size)
    members = {number: crowd.contributor(number) for number in crowd.round.stretches}
    adverts = host.announce([member.advertise() for member in members.values()])
    shares = host.pass_on([each for n, m in members.items() for each in m.share(adverts[n])])
    for n in (0, 1, 2, 3):
        host.take(members[n].mask(shares[n], crowd.numbers.encode(crowd.values[n])))
    again = Aggregator.from_json(json.loads(json.dumps(host.to_json())), host.total.copy())
    kept = {n: Unmasking.from_json(members[n].unmasking.to_json()) for n in again.survivors}  # type: ignore[union-attr]
    told = [each for n, part in kept.items() for each in part.confirm(again.survivors, crowd.confirmed[n])]
    confirmations = again.confirm(told)
    kept = {n: Unmasking.from_json(part.to_json()) for n, part in kept.items()}
    with pytest.raises(AggregationError, match="two sets"):
        kept[0].confirm((0, 1, 2), crowd.confirmed[0])
    with pytest.raises(AggregationError, match="1 contributors are left"):
        Unmasking.from_json(members[0].unmasking.to_json()).confirm((0,), KeptInMemory())  # type: ignore[union-attr]
    assert again.can_agree(kept)
    assert not again.can_agree([0])
    total = again.unmask([part.reveal(confirmations[n]) for n, part in kept.items()])
    assert (total == crowd.expected(again.survivors)).all()


def test_messages_that_do_not_fit_are_refused() -> None:
    crowd = Crowd(4, 10)
    member = crowd.contributor(0)
    others = [crowd.contributor(n).advertise() for n in (1, 2, 3)]
    with pytest.raises(AggregationError, match="1 of 3 neighbours"):
        member.share(others[:1])
    with pytest.raises(AggregationError, match="before its keys"):
        member.mask([], crowd.numbers.encode(crowd.values[0]))
    member.share(others)
    with pytest.raises(AggregationError, match="announced twice"):
        member.share(others)
    with pytest.raises(AggregationError, match="9 values for 10"):
        member.mask([], crowd.numbers.encode(crowd.values[0][:9]))
    with pytest.raises(AggregationError, match="cannot have"):
        member.confirm((0, 1))
    with pytest.raises(AggregationError, match="nothing was confirmed"):
        member.reveal([])
    with pytest.raises(AggregationError, match="diverged"):
        crowd.numbers.encode(np.full(3, 1e6, np.float32))
    with pytest.raises(AggregationError, match="diverged"):
        crowd.numbers.encode(np.full(3, np.nan, np.float32))


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 5), st.randoms())
def test_a_secret_is_told_by_its_threshold_of_shares_alone(secret, needed, more, random) -> None:
    shares = split(secret, needed, needed + more)
    chosen = random.sample(range(len(shares)), needed)
    assert join({k + 1: shares[k] for k in chosen}, needed) == secret
    if needed > 1:
        with pytest.raises(AggregationError, match="are needed"):
            join({k + 1: shares[k] for k in chosen[1:]}, needed)


@given(st.integers(2, 260))
@settings(max_examples=40, deadline=None)
def test_neighbours_are_mutual_and_many(members: int) -> None:
    found = neighbours(range(members), b"seed")
    assert all(one in found[other] for one, others in found.items() for other in others)
    assert {len(others) for others in found.values()} == {min(members - 1, 100)}
    assert all(2 * threshold(len(others)) > len(others) for others in found.values())


def test_common_stretches() -> None:
    assert common(((0, 5), (8, 12)), ((3, 9), (10, 11))) == ((3, 5), (8, 9), (10, 11))
    assert common(((0, 5),), ((5, 9),)) == ()
