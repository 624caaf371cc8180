"""The window on disk: a crash between any two writes changes nothing that counted."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.sharing.selection import CHUNK_WEIGHTS
from crowdlearn_device.sharing.update import Update, chunks, encode_update
from crowdlearn_host.coordinator.group.effects import Merge
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.errors import RunError
from crowdlearn_host.methods.slicenet import journal

SIZE = 1000
OMEGA = 8
"""Full after some rounds, and not before."""


def model_of(size: int = SIZE, omega: int = OMEGA) -> SharedModel:
    arrays = [ArraySpec("w", 0, (), True)]
    return SharedModel(arrays, {"w": np.arange(size, dtype=np.float32)}, omega=omega)


def upload(model: SharedModel, number: int, size: int = SIZE) -> list[bytes]:
    """The records of a round in which about two thirds of the weights were shared."""
    rng = np.random.default_rng(number)
    indices = np.flatnonzero(rng.random(size) < 0.67).astype(np.uint32)
    update = Update(0, number, indices, rng.standard_normal(len(indices)).astype(np.float32))
    for part in chunks(update, CHUNK_WEIGHTS):
        model.merge(0, Merge(0, number, number, ((0, size),), encode_update(part)))
    records = model.close(0, number, (number, 0))
    return records + model.entering(records)


def share(folder: RunFolder, model: SharedModel, number: int, size: int = SIZE) -> None:
    records = upload(model, number, size)
    folder.save({0: {"rounds": number}}, records=records)
    for record in records:
        model.take_in(record)
    folder.compact(model)


@pytest.fixture
def short_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is taken together after every other round or so."""
    monkeypatch.setattr(journal, "LEAST_LOG", 500)
    monkeypatch.setattr(journal, "OF_WINDOW", 0)


def test_the_log_of_a_long_window_is_taken_together_less_often(tmp_path: Path) -> None:
    """Where groups share a part of the weights, all pages of the window change until then."""
    with RunFolder(tmp_path / "run", create=True) as folder:
        model = model_of(300_000, 40)
        folder.open_shared(model)
        kept = folder._journal
        kept.mark = journal.Mark(0, 38 << 20)  # half of 46 MiB, and LEAST_LOG, are 38.9
        assert not kept.is_long(model.window, 0)
        kept.mark = journal.Mark(0, 39 << 20)
        assert kept.is_long(model.window, 0)
        kept.mark = journal.Mark()


def in_memory(rounds: int) -> SharedModel:
    model = model_of()
    for number in range(rounds):
        for record in upload(model, number):
            model.take_in(record)
    return model


def reopened(path: Path) -> tuple[SharedModel, int]:
    with RunFolder(path, create=False) as folder:
        model = model_of()
        folder.open_shared(model)
        state = folder.load_group(0)
        return model, -1 if state is None else state["rounds"]


def test_a_window_on_disk_is_that_in_memory_whenever_it_is_opened(tmp_path: Path, short_logs: None) -> None:
    for number in range(12):
        with RunFolder(tmp_path / "run", create=number == 0) as folder:
            model = model_of()
            folder.open_shared(model)
            share(folder, model, number)
        np.testing.assert_array_equal(model.model()["w"], in_memory(number + 1).model()["w"])
    assert len(list((tmp_path / "run" / "shared").glob("rounds-*.log"))) == 1


def test_weights_that_are_drawn_once_a_run_has_begun_are_the_windows_whenever_it_is_opened(
    tmp_path: Path, short_logs: None
) -> None:
    """A host that was killed began again with the weights of before, which devices refused."""
    drawn = {"w": np.linspace(-1, 1, SIZE, dtype=np.float32)}
    with RunFolder(tmp_path / "run", create=True) as folder:
        model = model_of()
        folder.open_shared(model)
        folder.save({0: {"rounds": -1}})
        folder.begin_shared(model, drawn)
        np.testing.assert_array_equal(model.model()["w"], drawn["w"])
    model, _ = reopened(tmp_path / "run")
    np.testing.assert_array_equal(model.model()["w"], drawn["w"])
    expected = SharedModel([ArraySpec("w", 0, (), True)], drawn, omega=OMEGA)
    for number in range(12):
        for record in upload(expected, number):
            expected.take_in(record)
    with RunFolder(tmp_path / "run", create=False) as folder:
        folder.open_shared(model)
        folder.begin_shared(model, drawn)
        for number in range(12):  # also through logs that are taken together
            share(folder, model, number)
    model, _ = reopened(tmp_path / "run")
    np.testing.assert_array_equal(model.model()["w"], expected.model()["w"])


class Died(Exception):
    """The host dies here."""


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts down what is put on disk; at 0 the host dies."""
    left = [1 << 30]

    def dying(module: object, name: str) -> None:
        real = getattr(module, name)

        def call(*args: object, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Died
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    dying(os, "fdatasync")
    dying(os, "replace")
    dying(Path, "touch")
    dying(Path, "unlink")
    dying(RunFolder, "_mark")
    dying(SharedModel, "take_in")
    return left


def test_a_crash_at_any_write_loses_nothing_that_counts_and_counts_nothing_twice(
    tmp_path: Path, short_logs: None, writes: list[int]
) -> None:
    rounds, ends = 9, 0
    for lives in range(200):
        path = tmp_path / f"run-{lives}"
        writes[0] = 1 << 30
        folder, model = RunFolder(path, create=True), model_of()
        folder.open_shared(model)
        writes[0] = lives
        try:
            for number in range(rounds):
                share(folder, model, number)
            ends += 1
        except Died:
            pass
        writes[0] = 1 << 30
        folder.close()
        model, reached = reopened(path)
        np.testing.assert_array_equal(model.model()["w"], in_memory(reached + 1).model()["w"])
        with RunFolder(path, create=False) as folder:
            folder.open_shared(model)
            for number in range(reached + 1, rounds):
                share(folder, model, number)
        np.testing.assert_array_equal(model.model()["w"], in_memory(rounds).model()["w"])
        shutil.rmtree(path)
        if ends:
            return
    raise AssertionError("the run never came to its end")


def test_a_round_writes_what_was_uploaded_and_no_window(tmp_path: Path) -> None:
    size, omega = 300_000, 40
    with RunFolder(tmp_path / "run", create=True) as folder:
        model = model_of(size, omega)
        folder.open_shared(model)
        written = []
        for number in range(3):
            before = (tmp_path / "run" / "shared" / "rounds-0.log").stat().st_size
            share(folder, model, number, size)
            written.append((tmp_path / "run" / "shared" / "rounds-0.log").stat().st_size - before)
        (held,) = folder._db.execute("select length(state) from groups").fetchone()
    uploaded = 0.67 * size * 4
    assert max(written) < 1.2 * uploaded
    assert held < 100
    assert (tmp_path / "run" / "run.db").stat().st_size < 100_000


@pytest.mark.parametrize("name", ["initial.npy", "uploads.f32", "rounds-0.log"])
@pytest.mark.parametrize("how", ["missing", "short", "altered"])
def test_a_damaged_window_is_told_with_what_to_do(tmp_path: Path, name: str, how: str) -> None:
    with RunFolder(tmp_path / "run", create=True) as folder:
        model = model_of()
        folder.open_shared(model)
        share(folder, model, 0)
    path = tmp_path / "run" / "shared" / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "short":
        path.write_bytes(content[:-7])
    elif name == "rounds-0.log":
        path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    else:
        return  # what an upload was, none can tell
    with pytest.raises(RunError, match="start a new run"):
        reopened(tmp_path / "run")


def test_another_model_s_window_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", create=True) as folder:
        folder.open_shared(model_of())
        share(folder, model_of(), 0)
    with RunFolder(tmp_path / "run", create=False) as folder, pytest.raises(RunError, match="another model"):
        folder.open_shared(model_of(SIZE + 1))


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", create=True).close()
    db = sqlite3.connect(tmp_path / "run" / "run.db")
    db.execute("pragma user_version = 1")
    db.close()
    with pytest.raises(RunError, match="another version"):
        RunFolder(tmp_path / "run", create=False)
