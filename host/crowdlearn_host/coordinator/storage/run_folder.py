"""A run's folder: everything a stranger needs to understand a run, and a restarted server to go on with it.

config.toml, plan.json, environment.json    what was asked, planned, and on what it ran
inputs.json                                 where data, model and plan lay, and what they were
metrics.jsonl, events.jsonl                 a line per mini-batch and per event
run.db                                      the groups' durable state and the traffic (SQLite)
shared/                                     the window of shared weights, and the rounds that entered it
first_weights.json                          the seed of first weights that devices drew, and distributions
sum.u32                                     the masked total of the last secure sum, uint32 [weights]
snapshots/                                  sealed pieces; the server cannot read them
checkpoints/epoch-NNN.safetensors           the global model after the last epochs, and after the best
model.safetensors                           the newest of them
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.privacy.aggregation.fixed_point import Words
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.security.known_peers import RUN_ID_BYTES

from crowdlearn_host.common.files import appending, locked
from crowdlearn_host.common.home import make_private
from crowdlearn_host.errors import DiskError, RunError
from crowdlearn_host.methods.slicenet.journal import Journal, Mark

from .shared_model import SharedModel
from .snapshots import Snapshots

if TYPE_CHECKING:
    import torch

SCHEMA = """
create table if not exists groups (number integer primary key, state text not null);
create table if not exists run (number integer primary key check (number = 0), id blob not null);
create table if not exists journal (number integer primary key check (number = 0), log integer not null,
         length integer not null);
create table if not exists traffic (
         device text, direction text, purpose text, bytes integer, messages integer, primary key (device,
         direction, purpose) );
"""


FORMAT = 3
"""The format of run.db and of what stands beside it."""
SUMS = -1
"""The number among groups at which run.db keeps the state of secure sums."""


class RunFolder:
    """An open run folder; one process at a time."""

    def __init__(self, path: Path, *, create: bool) -> None:
        """Open the folder; a new run takes the place of one that never began. Raises RunError if the folder
        is not there, is not a run's, or is open elsewhere.
        """
        if not create and not (path / "run.db").exists():
            raise RunError(f"{path} holds no run; look at the folder's name")
        make_private(path)
        (path / "checkpoints").mkdir(exist_ok=True)
        self.path = path
        self._turn = RLock()
        with ExitStack() as opened:
            self._lock = opened.enter_context(locked(path))
            with self._on_disk("run.db"):
                self._db = opened.enter_context(
                    closing(sqlite3.connect(path / "run.db", check_same_thread=False))
                )
                self._db.execute("pragma journal_mode=wal")
                self._db.execute("pragma synchronous=full")
                self._check_format()
                self._db.executescript(SCHEMA)
                if create:
                    self._clear()
                with self._db:
                    self._db.execute("insert or ignore into run values (0, ?)", (os.urandom(RUN_ID_BYTES),))
                self._snapshots = Snapshots(path / "snapshots")
                self._journal = Journal(path / "shared")
            with self._on_disk("metrics.jsonl"):
                self._metrics = opened.enter_context(appending(path / "metrics.jsonl"))
            with self._on_disk("events.jsonl"):
                self._events = opened.enter_context(appending(path / "events.jsonl"))
            opened.pop_all()  # it is open until `close`

    def _check_format(self) -> None:
        """Raise RunError if another version of this program wrote the database."""
        (found,) = self._db.execute("pragma user_version").fetchone()
        (tables,) = self._db.execute("select count(*) from sqlite_master").fetchone()
        if tables and found != FORMAT:
            raise RunError(
                f"{self.path} is of another version of crowdlearn (format {found}, not {FORMAT}); "
                "go on with that version, or start a new run in another folder"
            )
        self._db.execute(f"pragma user_version = {FORMAT}")

    def _clear(self) -> None:
        if self.begun:
            raise RunError(
                f"{self.path} holds a run already; "
                f"resume it with --resume {self.path}, or name another folder"
            )
        with self._db:
            for table in ("run", "groups", "journal", "traffic"):
                self._db.execute(f"delete from {table}")

    @property
    def id(self) -> bytes:
        """Tell the run from others of its name, and stays the same when it is resumed."""
        with self._reading():
            return bytes(self._db.execute("select id from run").fetchone()[0])

    @property
    def begun(self) -> bool:
        """Return True if a group once had all of its pieces on devices; before that nothing is trained."""
        with self._reading():
            # Damaged, it may be no text.
            rows = self._db.execute("select cast(state as blob) from groups where number >= 0")
            saved = [json.loads(state) for (state,) in rows]
            return any(state["points"] or state["done"] for state in saved)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._turn:  # a thread that is just writing would write to what is gone
            self._db.close()
            self._metrics.close()
            self._events.close()
            self._lock.close()

    @contextmanager
    def _on_disk(self, name: str) -> Iterator[None]:
        """Yield one thread's turn. Raises DiskError, with what to do, if the disk does not do what it is
        asked.
        """
        try:
            with self._turn:
                yield
        except (OSError, sqlite3.OperationalError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or error
            raise DiskError(
                f"{self.path / name} cannot be used: {why}; see that its disk has room and can be written, "
                f"then go on with: crowdlearn train --resume {self.path}"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(name, error) from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise RunError, with what to do, where the database does not tell what was written to it."""
        try:
            with self._on_disk("run.db"):
                yield
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged("run.db", error) from error

    def _damaged(self, name: str, error: Exception) -> RunError:
        return RunError(f"{self.path / name} is damaged ({error}); start a new run in another folder")

    def write(self, name: str, content: str) -> None:
        with self._on_disk(name):
            write_atomically(self.path / name, content.encode())

    def open_shared(self, shared: SharedModel) -> None:
        """Have the shared model's window lie in this folder, as it was kept where the run goes on. Raises
        RunError if it is damaged or another model's.
        """
        with self._reading():
            row = self._db.execute("select log, length from journal").fetchone()
        with self._on_disk("shared"):
            if row is None:
                shared.resume(self._journal.create(shared.initial, shared.omega), iter(()))
                return
            window = self._journal.open(Mark(*row), shared.initial, shared.omega)
            shared.resume(window, self._journal.records())

    def begin_shared(self, shared: SharedModel, arrays: Mapping[str, Floats]) -> None:
        """Have the shared model begin with other weights, before anything was shared; on disk when this
        returns. They are float32 [neurons, ...] by array.
        """
        shared.begin_with(arrays)
        with self._on_disk("shared"):
            shared.resume(self._journal.begin_with(shared.initial, shared.omega), iter(()))

    def save(
        self,
        groups: Mapping[int, Mapping[str, Any]],
        traffic: Iterable[Mapping[str, str | int]] = (),
        records: Sequence[bytes] = (),
    ) -> None:
        """Write to disk, all of it or nothing, before this returns: groups by their number, what they shared,
        and the rows of the traffic that have changed.
        """
        mark = self._journal.mark
        if records:
            with self._on_disk("shared"):
                mark = self._journal.append(records)
        with self._on_disk("run.db"), self._db:
            self._mark(mark)
            states = [(number, json.dumps(state)) for number, state in groups.items()]
            self._db.executemany("replace into groups values (?, ?)", states)
            self._keep_traffic(traffic)
        self._journal.keep(mark)

    def _mark(self, mark: Mark) -> None:
        self._db.execute("replace into journal values (0, ?, ?)", (mark.number, mark.length))

    def compact(self, shared: SharedModel) -> None:
        """Take together what groups have shared, where it has grown long."""
        waiting = shared.waiting
        if not self._journal.is_long(shared.window, sum(map(len, waiting))):
            return
        with self._on_disk("shared"):
            mark = self._journal.compact(shared.window, waiting)
        with self._on_disk("run.db"), self._db:
            self._mark(mark)
        with self._on_disk("shared"):
            self._journal.keep(mark)

    def save_traffic(self, traffic: Iterable[Mapping[str, str | int]]) -> None:
        """Replace the ledger of bytes; on disk when this returns."""
        with self._on_disk("run.db"), self._db:
            self._keep_traffic(traffic)

    def _keep_traffic(self, traffic: Iterable[Mapping[str, str | int]]) -> None:
        self._db.executemany(
            "replace into traffic values (:device, :direction, :purpose, :bytes, :messages)", traffic
        )

    def load_group(self, number: int) -> dict[str, Any] | None:
        with self._reading():
            query = "select cast(state as blob) from groups where number = ?"
            row = self._db.execute(query, (number,)).fetchone()
            return None if row is None else dict(json.loads(row[0]))

    def save_sum(self, state: Mapping[str, Any], total: Words | None) -> None:
        """Save the state of secure sums; on disk when this returns. `total` is that of the attempt under way,
        uint32 [n], and None leaves the one that is here.
        """
        if total is not None:
            with self._on_disk("sum.u32"):
                write_atomically(self.path / "sum.u32", total.astype("<u4").tobytes())
        self.save({SUMS: state})

    def load_sum(self) -> tuple[dict[str, Any], Words] | None:
        """Return the state of secure sums and the total of the attempt under way, uint32 [n]; None if nothing
        was summed yet.
        """
        if (state := self.load_group(SUMS)) is None:
            return None
        with self._on_disk("sum.u32"):
            path = self.path / "sum.u32"
            return state, np.fromfile(path, "<u4").astype(np.uint32) if path.exists() else np.zeros(
                0, np.uint32
            )

    def load_traffic(self) -> list[dict[str, str | int]]:
        with self._reading():
            cursor = self._db.execute("select device, direction, purpose, bytes, messages from traffic")
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def metric(self, **fields: Any) -> None:
        self._append(self._metrics, "metrics.jsonl", line(fields))

    def event(self, event: str, **fields: Any) -> None:
        self._append(self._events, "events.jsonl", line({"event": event, **fields}))

    def log(self, metrics: bytes, events: bytes) -> None:
        """Add lines to metrics.jsonl and to events.jsonl."""
        self._append(self._metrics, "metrics.jsonl", metrics)
        self._append(self._events, "events.jsonl", events)

    def _append(self, file: BinaryIO, name: str, lines: bytes) -> None:
        with self._on_disk(name):
            while lines:
                lines = lines[file.write(lines) :]

    def save_snapshot(self, group: int, part: pb.Snapshot, limit: int) -> frozenset[int] | None:
        """Save a part as Snapshots.save does."""
        with self._on_disk("snapshots"):
            return self._snapshots.save(group, part, limit)

    def load_snapshot(self, group: int, generation: int, boundary: int, piece: int) -> Iterator[pb.Snapshot]:
        """Yield its parts, in order. Raises RunError if it is not here or damaged."""
        try:
            yield from self._snapshots.load(group, generation, boundary, piece)
        except RunError as error:
            raise RunError(
                f"{error}; bring back the device that held this piece, "
                f"then go on with: crowdlearn train --resume {self.path}"
            ) from error

    def forget_snapshots(self, group: int, generation: int, boundary: int) -> None:
        with self._on_disk("snapshots"):
            self._snapshots.forget_before(group, generation, boundary)

    def save_checkpoint(self, epoch: int, state: Mapping[str, torch.Tensor]) -> Path:
        """Return the global model after an epoch, as safetensors."""
        from safetensors.torch import save  # imports torch, which a folder need not wait for

        content = save({name: tensor.contiguous() for name, tensor in state.items()}, {"epoch": str(epoch)})
        path = self.path / "checkpoints" / f"epoch-{epoch + 1:03d}.safetensors"
        with self._on_disk("checkpoints"):
            write_atomically(path, content)
            write_atomically(self.path / "model.safetensors", content)
        return path

    def choose_checkpoint(self, epoch: int) -> None:
        """Make the global model after an epoch, counted from 0, the run's model. Raises RunError if its
        checkpoint is gone.
        """
        path = self.checkpoint(epoch)
        with self._on_disk("checkpoints"):
            write_atomically(self.path / "model.safetensors", path.read_bytes())

    def checkpoint(self, epoch: int) -> Path:
        """Return the checkpoint after an epoch, counted from 0, that validation chose. Raises RunError if it
        is gone.
        """
        path = self.checkpoints().get(epoch)
        if path is None:
            raise RunError(
                f"{self.path} has no checkpoint of epoch {epoch + 1}, which validation chose; the newest "
                "model is in model.safetensors"
            )
        return path

    def checkpoints(self) -> dict[int, Path]:
        """Return the checkpoints that are kept, by their epoch, which count from 0."""
        found = (self.path / "checkpoints").glob("epoch-*.safetensors")
        return {int(path.stem.removeprefix("epoch-")) - 1: path for path in sorted(found)}

    def forget_checkpoints(self, epochs: Iterable[int]) -> None:
        kept = self.checkpoints()
        with self._on_disk("checkpoints"):
            for epoch in set(epochs) & set(kept):
                kept[epoch].unlink(missing_ok=True)


def line(fields: Mapping[str, Any], at: float | None = None) -> bytes:
    """Return a line of a log, with its time in seconds since 1970: `at`, or now."""
    return json.dumps({"time": round(time.time() if at is None else at, 3), **fields}).encode() + b"\n"


def check_has_model(path: Path) -> None:
    """Raise RunError if there is no run in this folder, or it has no model yet."""
    if not (path / "config.toml").exists():
        raise RunError(f"{path} holds no run; look at the folder's name")
    if (path / "run.db").exists() and not (path / "model.safetensors").exists():
        raise RunError(f"{path} has no model yet; a run writes it after its first epoch")


def load_model_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the newest global model of a run. Raises RunError if there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = path / "model.safetensors"
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read ({error}); a run writes it after its first epoch") from error


def environment() -> dict[str, str | int]:
    """Return what a figure of this run depends on."""
    packages = {
        name: version(name) for name in ("torch", "executorch", "numpy", "websockets", "cryptography")
    }
    return {
        "crowdlearn": version("crowdlearn"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 0,
        **packages,
    }
