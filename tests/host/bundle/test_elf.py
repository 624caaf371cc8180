import sys
from contextlib import suppress
from pathlib import Path

import pytest
from crowdlearn_host.bundle.elf import NotElf, is_elf, machine_of, read_elf
from hypothesis import given
from hypothesis import strategies as st

PYTHON = Path(sys.executable).resolve().read_bytes()


def test_a_program_of_this_computer_is_read() -> None:
    elf = read_elf(PYTHON)
    assert elf.machine == machine_of(PYTHON[:20])
    assert any(name.startswith("libc.so") for name in elf.needed)
    assert elf.alignment >= 4096


@given(st.binary(max_size=200))
def test_other_content_is_refused(content: bytes) -> None:
    if not is_elf(content):
        with pytest.raises(NotElf):
            machine_of(content)


@given(st.integers(20, 4096), st.binary(min_size=1, max_size=8), st.integers(6, 400))
def test_a_damaged_program_is_refused_or_read(size: int, noise: bytes, at: int) -> None:
    damaged = bytearray(PYTHON[:size])
    damaged[at : at + len(noise)] = noise
    with suppress(NotElf):
        read_elf(bytes(damaged))
