"""Reading of a flatbuffer whose every offset is looked at before it is followed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from crowdlearn_device.errors import ProgramError

_U16, _U32, _I32 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<i")
SCALARS = {
    "bool": "B", "u8": "B", "i8": "b", "i32": "i", "u32": "I", "i64": "q", "u64": "Q", "f64": "d",
}  # fmt: skip

Kind = str | tuple[str, ...]
"""A field: one of SCALARS, "string", the name of a table, ("vector", kind), or ("union", name, ...) of
tables, which takes two places.
"""
Schema = Mapping[str, Sequence[tuple[str, Kind]]]
Table = dict[str, Any]


class Union(NamedTuple):
    """A table, and which of a union's it is: `kind` is its name."""

    kind: str
    table: Table


class Flatbuffer:
    """The tables of `schema` in `data`. Every method raises ProgramError if something lies outside of it."""

    def __init__(self, data: memoryview, schema: Schema) -> None:
        self._data, self._schema = data, schema
        self._left = len(data) // 4 + 1
        """Tables that there is room for: if there are more, one is in several places."""

    def root(self, name: str) -> Table:
        """Return the root as a dictionary of its fields; those that are absent are None, 0 or empty."""
        return self._table(name, self._follow(0))

    def _read(self, form: struct.Struct, at: int) -> int:
        if not 0 <= at <= len(self._data) - form.size:
            raise ProgramError(f"the program points to byte {at} of {len(self._data)}")
        value: int = form.unpack_from(self._data, at)[0]
        return value

    def _follow(self, at: int) -> int:
        return at + self._read(_U32, at)

    def _table(self, name: str, at: int) -> Table:
        self._left -= 1
        if self._left < 0:
            raise ProgramError("the program's tables contain each other")
        places = at - self._read(_I32, at)
        size, room = self._read(_U16, places), self._read(_U16, places + 2)
        if size < 4 or size % 2 or room < 4 or at + room > len(self._data) or places + size > len(self._data):
            raise ProgramError(f"the program's table {name} at {at} does not fit into it")
        fields: Table = {}
        slot = 4
        for field, kind in self._schema[name]:
            union = isinstance(kind, tuple) and kind[0] == "union"
            offset = self._read(_U16, places + slot) if slot + 2 <= size else 0
            if union:
                value = self._read(_U16, places + slot + 2) if slot + 4 <= size else 0
                fields[field] = self._union(kind, at, offset, value, room)
            else:
                fields[field] = self._field(kind, at + offset, room - offset) if offset else _absent(kind)
            slot += 4 if union else 2
        return fields

    def _union(self, kind: Kind, at: int, type_at: int, value_at: int, room: int) -> Union | None:
        number = self._data[at + type_at] if 0 < type_at < room else 0
        if not number:
            return None
        if number >= len(kind) or not 4 <= value_at <= room - 4:
            raise ProgramError(f"the program's value of kind {number} at {at} is none that there is")
        return Union(kind[number], self._table(kind[number], self._follow(at + value_at)))

    def _field(self, kind: Kind, at: int, room: int) -> Any:
        if isinstance(kind, tuple):
            return self._vector(kind[1], self._follow(at))
        if letter := SCALARS.get(kind):
            form = struct.Struct(f"<{letter}")
            if form.size > room:
                raise ProgramError(f"a field of the program at {at} is outside of its table")
            return self._read(form, at)
        if kind == "string":
            return self._string(self._follow(at))
        return self._table(kind, self._follow(at))

    def _string(self, at: int) -> str:
        size = self._read(_U32, at)
        end = at + 4 + size
        if end >= len(self._data) or self._data[end]:
            raise ProgramError(f"a text of the program at {at} has no end")
        try:
            return str(self._data[at + 4 : end], "utf-8")
        except UnicodeDecodeError as error:
            raise ProgramError(f"a text of the program at {at} is none") from error

    def _vector(self, kind: str, at: int) -> Any:
        count = self._read(_U32, at)
        letter = SCALARS.get(kind)
        each = struct.calcsize(letter) if letter else 4
        if at + 4 + count * each > len(self._data):
            raise ProgramError(f"a list of the program at {at} has {count} members, and no room for them")
        if letter == "B":
            return self._data[at + 4 : at + 4 + count]
        if letter:
            return struct.unpack_from(f"<{count}{letter}", self._data, at + 4)
        places = [self._follow(at + 4 + 4 * number) for number in range(count)]
        if kind == "string":
            return [self._string(place) for place in places]
        return [self._table(kind, place) for place in places]


def _absent(kind: Kind) -> Any:
    if isinstance(kind, tuple):
        return ()
    return 0 if kind in SCALARS else "" if kind == "string" else None
