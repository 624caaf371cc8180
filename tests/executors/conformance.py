"""What every executor keeps to; `test_executors.py` runs it here, and in the Python of a bundle.

Needs numpy, pytest, the device package, and the programs of `programs.py` in the folder CROWDLEARN_PROGRAMS.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.program.executor import EXECUTORS, Executor, load_program
from crowdlearn_device.program.isolation.warden import Warden
from crowdlearn_device.program.replay import replay, replay_arrays

PROGRAMS = Path(os.environ.get("CROWDLEARN_PROGRAMS", ""))
AGREEMENT, ZERO = 1e-5, 1e-6
"""Largest difference by an array's largest value; what part of a method's largest value counts as zero."""

ONLY = os.environ.get("CROWDLEARN_EXECUTOR", "")
HERE = [
    name
    for name, (needs, _) in EXECUTORS.items()
    if importlib.util.find_spec(needs) is not None and ONLY in ("", name)
]


ISOLATED = "isolated"
"""The first of them in a process of its own."""


@pytest.fixture(scope="module")
def warden() -> Iterator[Warden]:
    warden = Warden()
    yield warden
    warden.close()


@pytest.fixture(params=[*HERE, *([ISOLATED] if ONLY in ("", ISOLATED) else [])])
def load(request: pytest.FixtureRequest) -> Callable[[bytes], Executor]:
    if request.param == ISOLATED:
        kept: Warden = request.getfixturevalue("warden")
        return kept.load
    module, _, name = EXECUTORS[request.param][1].partition(":")
    made: Callable[[bytes], Executor] = getattr(importlib.import_module(module), name)
    return made


def pte(name: str = "dense-whole") -> bytes:
    return (PROGRAMS / f"{name}.pte").read_bytes()


def arrays(name: str, kind: str = "") -> dict[str, Any]:
    with np.load(PROGRAMS / f"{name}{kind}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def step(name: str = "dense-whole", method: str = "train_step") -> list[Any]:
    given = arrays(name)
    return [given[f"{method}/in{n}"] for n in range(sum(key.startswith(f"{method}/") for key in given))]


def names() -> list[str]:
    return sorted(path.stem for path in PROGRAMS.glob("*.pte"))


def test_there_are_programs_and_an_executor() -> None:
    assert len(names()) >= 5
    assert HERE


@pytest.mark.parametrize("name", names())
def test_every_method_gives_what_executorch_gives(name: str, load: Callable[[bytes], Executor]) -> None:
    found, expected = replay_arrays(load(pte(name)), arrays(name)), arrays(name, ".expected")
    assert set(found) == set(expected)
    for key, wanted in expected.items():
        assert (found[key].shape, found[key].dtype) == (wanted.shape, wanted.dtype), key
        if wanted.dtype.kind != "f" or not wanted.size:
            np.testing.assert_array_equal(found[key], wanted)
            continue
        method = key.partition("/")[0]
        largest = max(np.abs(x).max(initial=0) for k, x in expected.items() if k.partition("/")[0] == method)
        size = np.abs(wanted).max()
        zero = size <= ZERO * largest  # in mathematics: what is left is rounding
        error = np.abs(found[key] - wanted).max() / (largest if zero else size)
        assert error <= (ZERO if zero else AGREEMENT), f"{key} differs by {error:.1e}"


def test_updates_are_written_over_the_arrays_that_were_given(load: Callable[[bytes], Executor]) -> None:
    given = step()
    before = [x.copy() for x in given]
    load(pte()).run("train_step", given)
    changed = [not np.array_equal(x, y) for x, y in zip(given, before, strict=True)]
    wanted = arrays("dense-whole", ".expected")
    after = [wanted[f"train_step/after{n}"] for n in range(len(given))]
    assert changed == [not np.array_equal(x, y) for x, y in zip(after, before, strict=True)]
    assert any(changed)


def test_arrays_that_are_held_give_the_same_step_after_step(load: Callable[[bytes], Executor]) -> None:
    one, two = load(pte()), load(pte())
    mine, theirs = step(), step()
    one.hold(mine)
    for _ in range(3):
        for a, b in zip(one.run("train_step", mine), two.run("train_step", theirs), strict=True):
            np.testing.assert_array_equal(a, b)
    for x, y in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(x, y)


def test_arrays_that_the_executor_made_are_updated_in_place(load: Callable[[bytes], Executor]) -> None:
    one, two = load(pte()), load(pte())
    theirs = step()
    mine = [one.zeros(x.shape) if x.dtype == np.float32 else x.copy() for x in theirs]
    for x, y in zip(mine, theirs, strict=True):
        x[...] = y
    one.hold(mine)
    for _ in range(3):
        for a, b in zip(one.run("train_step", mine), two.run("train_step", theirs), strict=True):
            np.testing.assert_array_equal(a, b)
    for x, y in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(x, y)
    one.hold(())
    one.run("train_step", mine)  # still of use


def test_outputs_outlive_the_next_run(load: Callable[[bytes], Executor]) -> None:
    executor, given = load(pte("dense-predict")), step("dense-predict", "predict")
    first = executor.run("predict", given)[0]
    kept = first.copy()
    executor.run("predict", [given[0] + 1, *given[1:]])
    np.testing.assert_array_equal(first, kept)


def test_borrowed_outputs_are_those_of_the_run(load: Callable[[bytes], Executor]) -> None:
    executor, given = load(pte("dense-predict")), step("dense-predict", "predict")
    borrowed = executor.run("predict", given, borrowed=True)[0].copy()
    np.testing.assert_array_equal(borrowed, executor.run("predict", given)[0])


def test_arrays_that_are_strided_or_read_only_are_read(load: Callable[[bytes], Executor]) -> None:
    executor, given = load(pte("dense-predict")), step("dense-predict", "predict")
    wanted = executor.run("predict", given)[0]
    spread = np.zeros((given[0].shape[0], 2 * given[0].shape[1]), np.float32)
    spread[:, ::2] = given[0]
    np.testing.assert_array_equal(executor.run("predict", [spread[:, ::2], *given[1:]])[0], wanted)
    given[0].flags.writeable = False
    np.testing.assert_array_equal(executor.run("predict", given)[0], wanted)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_smaller_batches_are_taken(rows: int, load: Callable[[bytes], Executor]) -> None:
    executor, given = load(pte("dense-predict")), step("dense-predict", "predict")
    whole = executor.run("predict", given)[0]
    part = executor.run("predict", [given[0][:rows].copy(), *given[1:]])[0]
    np.testing.assert_allclose(part, whole[:rows], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 66, b"\x1c\0\0\0\xff\xffET", b"\x1c\0\0\0ET12" + b"\0" * 60]
)
def test_what_is_no_program_is_refused(content: bytes, load: Callable[[bytes], Executor]) -> None:
    with pytest.raises(ProgramError):
        load(content).run("predict", [])


def test_a_method_that_is_not_there_is_refused(load: Callable[[bytes], Executor]) -> None:
    with pytest.raises(ProgramError, match="predict_nothing"):
        load(pte()).run("predict_nothing", [])


def test_arrays_of_another_shape_dtype_or_number_are_refused(load: Callable[[bytes], Executor]) -> None:
    executor, given = load(pte("dense-predict")), step("dense-predict", "predict")
    for wrong in (
        [given[0][:, :-1].copy(), *given[1:]],
        [given[0].astype(np.float64), *given[1:]],
        given[:-1],
        [np.zeros((1000, *given[0].shape[1:]), np.float32), *given[1:]],
    ):
        with pytest.raises(ProgramError, match="predict"):
            executor.run("predict", wrong)
    executor.run("predict", given)  # still of use


def test_the_first_executor_that_is_here_is_taken() -> None:
    expected = EXECUTORS[HERE[0]][1].rpartition(":")[2]
    assert type(load_program(pte())).__name__ == expected


def test_a_file_of_arrays_is_replayed(tmp_path: Path) -> None:
    replay(PROGRAMS / "dense-predict.pte", PROGRAMS / "dense-predict.npz", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as archive:
        assert set(archive.files) == set(arrays("dense-predict", ".expected"))
    (tmp_path / "none.npz").write_bytes(b"no arrays")
    with pytest.raises(ProgramError, match="holds no arrays"):
        replay(PROGRAMS / "dense-predict.pte", tmp_path / "none.npz", tmp_path / "again.npz")
    gap: dict[str, Any] = {"predict/in1": np.zeros(2, np.float32)}
    np.savez(tmp_path / "gap.npz", **gap)
    with pytest.raises(ProgramError, match="in0"):
        replay(PROGRAMS / "dense-predict.pte", tmp_path / "gap.npz", tmp_path / "again.npz")
    assert not (tmp_path / "again.npz").exists()
