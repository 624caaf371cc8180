"""Programs that are damaged at random: what a verifier has to refuse, or a process of their own to bear."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.program.executor import Load
from crowdlearn_device.program.verification import verify_program
from crowdlearn_device.protocol.frames import Array

WORDS = (0, 1, 2, 3, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)


def mutated(pte: bytes, rng: random.Random) -> bytes:
    """Return the program with one to four places of it changed, or with its end cut off."""
    found = bytearray(pte)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found))
        match rng.randrange(5):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                found[at] = rng.randrange(256)
            case 2:
                at = min(at & ~3, len(found) - 4)
                struct.pack_into("<I", found, at, rng.choice(WORDS))
            case 3:
                at = min(at & ~3, len(found) - 4)
                (old,) = struct.unpack_from("<I", found, at)
                struct.pack_into("<I", found, at, (old + rng.choice((-8, -4, -1, 1, 4, 8))) & 0xFFFFFFFF)
            case 4:
                other = rng.randrange(len(found))
                found[at : at + 4] = found[other : other + 4].ljust(4, b"\0")
    return bytes(found[: rng.randrange(len(found))] if rng.random() < 0.03 else found)


def outcome(pte: bytes, load: Load, arrays: Mapping[str, Sequence[Array]], *, verified: bool = True) -> str:
    """Return how far a program gets: it is "refused" before it is loaded, "failed" as it is loaded or run,
    "ended" its process, or "ran". `arrays` are a method's inputs by its name. Anything else is raised.
    """
    try:
        if verified:
            verify_program(pte)
    except ProgramError:
        return "refused"
    try:
        executor = load(pte, len(pte))
        for method, inputs in arrays.items():
            executor.run(method, [x.copy() for x in inputs])
    except ProgramError as error:
        return "ended" if "damaged or malicious" in str(error) else "failed"
    return "ran"
