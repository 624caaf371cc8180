"""A tap: records, in a device's own process, the numbers that the device holds after it opened its messages.

The audit of privacy reads such records. Without a tap, which is the default, nothing is recorded.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from math import prod
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from crowdlearn_device.errors import StateError
from crowdlearn_device.protocol.frames import Array

Kind = Literal["sums", "masked", "errors", "fed", "weights", "shared", "metrics"]
KINDS: tuple[str, ...] = get_args(Kind)
MAX_HEADER = 1 << 16
"""Bytes of one record's description."""
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Record:
    """One array that a device holds, and its place in the run.

    `sums` and `errors` are opened messages: float32 [rows, neurons, ...] on `edge` from the piece `partner`.
    `masked` are sums under masks, uint32 of the same shape; their total is in the `sums` of the first sender.
    `fed` are the dominator's own samples: int64 [rows], positions in its data. It is what an attacker must
    guess, so only evaluations read it. `weights` is an array of the device's piece at a boundary.
    The host gets `shared`, uint32 "indices" and float32 "values" [weights], whose `boundary` is the round,
    and `metrics`, float64 [3]: samples, mean loss, hits.
    """

    kind: Kind
    values: Array = field(repr=False)
    generation: int
    epoch: int
    boundary: int
    micro: int = 0
    edge: int = -1
    partner: int = -1
    piece: int = -1
    name: str = ""


class Tap(Protocol):
    """A receiver of records."""

    def record(self, record: Record) -> None: ...


class MemoryTap:
    """A tap that keeps its records in memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record) -> None:
        self.records.append(record)


class FileTap:
    """A tap that appends its records to a file; `read_records` reads them."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def record(self, record: Record) -> None:
        values = np.ascontiguousarray(record.values)
        facts = {each.name: getattr(record, each.name) for each in fields(record) if each.name != "values"}
        head = json.dumps({**facts, "dtype": values.dtype.str, "shape": values.shape}).encode()
        with self._path.open("ab") as file:
            file.write(_LENGTH.pack(len(head)) + head + values.tobytes())


def read_records(path: Path) -> Iterator[Record]:
    """Read the records of a FileTap, in order. Raises StateError if the file is damaged."""
    with path.open("rb") as file:
        while prefix := file.read(_LENGTH.size):
            try:
                (length,) = _LENGTH.unpack(prefix)
                if length > MAX_HEADER:
                    raise ValueError("a header is too long")
                head = json.loads(file.read(length))
                dtype, shape = np.dtype(head.pop("dtype")), tuple(map(int, head.pop("shape")))
                if dtype.kind not in "fiu" or head["kind"] not in KINDS:
                    raise ValueError("a record is of no known kind")
                data = file.read(dtype.itemsize * prod(shape))
                yield Record(values=np.frombuffer(data, dtype).reshape(shape), **head)
            except (ValueError, TypeError, LookupError, struct.error) as error:
                raise StateError(f"{path} holds no whole records ({error}); record the run again") from error
