"""A thousand altered contents of envelopes, always the same; `python -m benchmarks.fuzz opened` goes on."""

import random

from benchmarks.fuzz.opened import SEEDS, opened


def test_whatever_a_peer_seals_is_taken_or_refused_with_a_typed_error() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        data = bytearray(rng.choice(SEEDS))
        for _ in range(rng.randint(0, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        opened(bytes(data))
