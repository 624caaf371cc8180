"""The queue of a service: its runs in a database of its folder, which outlives any process."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from crowdlearn_host.errors import RunError

State = Literal["waiting", "running", "done", "failed", "cancelled"]
FILE = "service.db"
VERSION = 2
BUSY_SECONDS = 30.0
TABLES = """
create table if not exists jobs (
    id integer primary key, name text not null, priority integer not null, state text not null,
    description text not null, submitted real not null, began real, ended real,
    groups integer not null default 0, seats integer not null default 0, tries integer not null default 0,
    outcome text not null default ''
);
create table if not exists members (
    job integer not null, device text not null, let_go integer not null default 0,
    primary key (job, device)
);
create index if not exists members_by_device on members (device);
create table if not exists devices (name text primary key, chosen real not null, runs integer not null);
"""


@dataclass(frozen=True)
class Job:
    """A run of the queue. `description` is its TOML; `outcome` is its result, or why it failed; times are
    seconds since 1970. `tries` counts the times that its process ended without a reason.
    """

    id: int
    name: str
    priority: int
    state: State
    description: str
    submitted: float
    began: float | None
    ended: float | None
    groups: int
    seats: int
    tries: int
    outcome: str

    @property
    def label(self) -> str:
        """Return the name of its run: no two runs of a service have the same."""
        return f"{self.name}-{self.id}"

    def to_json(self) -> dict[str, Any]:
        """Return everything but the description."""
        return {name: value for name, value in asdict(self).items() if name not in ("description", "tries")}


class Jobs:
    """The queue in `folder`, which is made if it is missing. Raises RunError if it is damaged, or of another
    version.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise RunError(f"{folder} is not a folder; name the folder of a service") from error
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {error.strerror}; name another folder") from error
        self.path = folder / FILE
        with self._open() as db:
            (version,) = db.execute("pragma user_version").fetchone()
            if version not in (0, VERSION):
                raise RunError(
                    f"{self.path} is of version {version}, this program reads {VERSION}; update it"
                )
            db.execute("pragma journal_mode = wal")
            db.executescript(TABLES)
            db.execute(f"pragma user_version = {VERSION}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the database open while the context lasts, so that it can be read also if its disk is full.
        Raises RunError if it cannot be read now.
        """
        with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as db:
            try:
                db.execute("select count(*) from jobs").fetchone()
            except sqlite3.Error as error:
                raise RunError(f"{self.path} cannot be used: {error}") from error
            yield

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Give the database for one transaction."""
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as db, db:
                db.row_factory = sqlite3.Row
                yield db
        except sqlite3.Error as error:
            raise RunError(f"{self.path} cannot be used: {error}") from error

    def submit(self, name: str, description: str, priority: int = 0) -> Job:
        """Add a run to the queue, and return it."""
        with self._open() as db:
            values = (name, priority, "waiting", description, time.time())
            row = db.execute(
                "insert into jobs (name, priority, state, description, submitted) values (?, ?, ?, ?, ?)",
                values,
            )
            return self._job(db, row.lastrowid or 0)

    def job(self, number: int) -> Job:
        """Return a run. Raises RunError if there is none of this number."""
        with self._open() as db:
            return self._job(db, number)

    def _job(self, db: sqlite3.Connection, number: int) -> Job:
        row = db.execute("select * from jobs where id = ?", (number,)).fetchone()
        if row is None:
            raise RunError(f"there is no run {number}; 'crowdlearn submit --to FOLDER --list' lists them")
        return Job(**dict(row))

    def all(self, *states: State) -> list[Job]:
        """Return runs in these states (none: in any): those of high priority first, and then the older."""
        wanted = f"where state in ({', '.join('?' * len(states))})" if states else ""
        query = f"select * from jobs {wanted} order by priority desc, id"
        with self._open() as db:
            return [Job(**dict(row)) for row in db.execute(query, states)]

    def ended(self, most: int) -> list[Job]:
        """Return so many runs that ended, the last first."""
        query = "select * from jobs where ended is not null order by ended desc, id desc limit ?"
        with self._open() as db:
            return [Job(**dict(row)) for row in db.execute(query, (most,))]

    def counts(self) -> dict[str, int]:
        """Return how many runs there are in each state."""
        with self._open() as db:
            return {row[0]: row[1] for row in db.execute("select state, count(*) from jobs group by state")}

    def begin(self, job: Job, groups: int, devices: Sequence[str], seats: int, description: str) -> None:
        """Have a run begin with these devices, as `description` says now."""
        now = time.time()
        with self._open() as db:
            db.execute(
                "update jobs set state = 'running', began = ?, groups = ?, seats = ?, description = ? "
                "where id = ? and state = 'waiting'",
                (now, groups, seats, description, job.id),
            )
            self._choose(db, job.id, devices, now)

    def choose(self, job: int, devices: Sequence[str]) -> None:
        """Give more devices to a run that is under way."""
        with self._open() as db:
            self._choose(db, job, devices, time.time())

    def _choose(self, db: sqlite3.Connection, job: int, devices: Sequence[str], now: float) -> None:
        db.executemany(
            "insert or ignore into members (job, device) values (?, ?)", [(job, d) for d in devices]
        )
        db.executemany(
            "insert into devices values (?, ?, 1) "
            "on conflict (name) do update set chosen = excluded.chosen, runs = runs + 1",
            [(device, now) for device in devices],
        )

    def members(self, job: int) -> dict[str, bool]:
        """Return the devices of a run, and whether it still needs each."""
        with self._open() as db:
            rows = db.execute("select device, let_go from members where job = ?", (job,))
            return {row["device"]: not row["let_go"] for row in rows}

    def needs(self, jobs: Iterable[int], device: str) -> bool:
        """Return whether one of these runs still needs a device."""
        with self._open() as db:
            of = db.execute("select job from members where device = ? and not let_go", (device,))
            return not {row["job"] for row in of}.isdisjoint(jobs)

    def let_go(self, job: int, device: str) -> None:
        """Note that a run needs a device no more."""
        with self._open() as db:
            db.execute("update members set let_go = 1 where job = ? and device = ?", (job, device))

    def chosen(self) -> dict[str, tuple[float, int]]:
        """Return by device when it was last given to a run, and how often it was."""
        with self._open() as db:
            return {row["name"]: (row["chosen"], row["runs"]) for row in db.execute("select * from devices")}

    def tried(self, job: int) -> int:
        """Count that the process of a run ended without a reason; how often it did."""
        with self._open() as db:
            db.execute("update jobs set tries = tries + 1 where id = ?", (job,))
            return self._job(db, job).tries

    def end(self, job: int, state: State, text: str) -> None:
        """Note how a run ended. One that has ended stays as it is."""
        with self._open() as db:
            db.execute(
                "update jobs set state = ?, ended = ?, outcome = ? "
                "where id = ? and state in ('waiting', 'running')",
                (state, time.time(), text, job),
            )

    def cancel(self, job: int) -> Job:
        """Have a run end, or never begin. Raises RunError if it has ended, or there is none."""
        found = self.job(job)
        if found.state not in ("waiting", "running"):
            raise RunError(f"run {job} ({found.name}) is {found.state} already")
        self.end(job, "cancelled", "cancelled by its user")
        return self.job(job)
