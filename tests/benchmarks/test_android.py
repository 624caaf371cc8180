"""Our programs on Android's own library, and what is counted as agreement."""

from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.program.android_operators import ON_ANDROID
from crowdlearn_host.bundle.elf import read_elf

from benchmarks.android.agreement import agreement
from benchmarks.android.instructions import CORES, counting_plugin, instructions_of
from benchmarks.android.library import (
    LIBRARIES,
    AndroidLibrary,
    Missing,
    android_library,
    fetch_package,
    for_glibc,
)
from benchmarks.android.programs import NARROW, SHAPES, Program, programs


@pytest.fixture(scope="module")
def libraries(android_cache: Path) -> list[AndroidLibrary]:
    try:
        return [android_library(name, android_cache) for name in LIBRARIES]
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("network", [*SHAPES, "transformer", *NARROW])
def test_androids_own_libraries_give_what_the_python_runtime_gives(
    network: str, libraries: list[AndroidLibrary]
) -> None:
    for program in programs((network,)):
        assert set(program.operators) <= ON_ANDROID
        for library in libraries:
            found = library.run(program.pte, program.inputs)
            for method in program.methods:
                told = agreement(program, method, found)
                assert told.holds, f"{program.name} {method} on {library.name}: {told}"


def test_androids_libraries_have_the_operators_of_the_allow_list(libraries: list[AndroidLibrary]) -> None:
    for library in libraries:
        assert library.operators() == ON_ANDROID, "run python -m benchmarks.android.operators --write"


def test_instructions_of_a_step_are_counted_and_no_others(libraries: list[AndroidLibrary]) -> None:
    program = next(programs(("plain",)))
    for library in libraries:
        try:
            plugin = counting_plugin(library)
        except Missing as reason:
            pytest.skip(str(reason))
        for core in CORES[library.name]:
            found = instructions_of(library, plugin, core, program.pte, program.inputs)
            assert 1_000 < found < 1_000_000, f"{library.name} {core}"  # starting takes millions


def test_arrays_that_a_program_does_not_take_are_refused(libraries: list[AndroidLibrary]) -> None:
    program = next(programs(("dense",)))
    fewer = dict(list(program.inputs.items())[:-1])
    for library in libraries:
        with pytest.raises(RuntimeError, match=f"(?s){library.name}: .*takes another number of arrays"):
            library.run(program.pte, fewer)


def test_a_library_for_glibc_needs_nothing_by_name() -> None:
    python = Path("/proc/self/exe").read_bytes()
    assert read_elf(python).needed
    changed = for_glibc(python)
    assert not read_elf(changed).needed
    assert len(changed) == len(python)


def test_a_difference_is_told_and_sums_that_cancel_are_judged_by_their_own_rounding() -> None:
    exact = {"m/out0": np.array([1.0, 2.0]), "m/out1": np.array([1e-12])}
    rounded = {"m/out0": np.array([1, 2], np.float32), "m/out1": np.array([3e-8], np.float32)}
    program = Program("p", b"", (), {"m/in0": np.zeros(1)}, rounded, exact)
    same = agreement(program, "m", rounded)
    assert (same.error, same.bit_equal, same.cancelling, same.holds) == (0.0, True, 1, True)
    near = {**rounded, "m/out1": np.array([-4e-8], np.float32)}
    assert agreement(program, "m", near).holds
    assert not agreement(program, "m", {**rounded, "m/out1": np.array([1e-6], np.float32)}).holds
    off = agreement(program, "m", {**rounded, "m/out0": np.array([1, 2.001], np.float32)})
    assert (off.holds, off.bit_equal) == (False, False)
    assert off.error == pytest.approx(5e-4, rel=1e-2)


def test_a_package_of_another_hash_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "left-pad-1.3.0.tgz").write_bytes(b"another")
    with pytest.raises(Missing):
        fetch_package("left-pad", "1.3.0", "not the hash", tmp_path)
    assert not (tmp_path / "left-pad-1.3.0.tgz").exists()
