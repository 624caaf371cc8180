"""The number of fields in a message, counted before protobuf makes an object of each.

A field of two bytes may become an object of thirty, so a message of 64 MiB could take 1 GB.
"""

from __future__ import annotations

from functools import cache
from typing import Any

FEW_BYTES = 1 << 20
"""A message of so many bytes is small whatever it holds: its fields are not counted."""
MOST_FIELDS = 1 << 20
"""Fields of a larger one, numbers of lists included: what is large is large by its bytes."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GROUPS = (3, 4)
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


def too_many(descriptor: Any, data: bytes) -> bool:
    """Return whether a message of this kind has more than MOST_FIELDS fields. Of bytes that are no message
    protobuf finds out by itself.
    """
    if len(data) <= FEW_BYTES:
        return False
    return counted(descriptor, data) > MOST_FIELDS


def counted(descriptor: Any, data: bytes) -> int:
    """Return the number of fields, or a little more than MOST_FIELDS; 0 of what ends within one."""
    try:
        return _counted(descriptor, data, 0, len(data), 0)
    except IndexError:
        return 0


@cache
def _kinds(descriptor: Any) -> dict[int, Any]:
    """Return by number the fields that hold fields: a message's descriptor, or None for a list of numbers."""
    found = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            found[field.number] = field.message_type
        elif field.type not in (field.TYPE_BYTES, field.TYPE_STRING):
            found[field.number] = None
    return found


def _counted(descriptor: Any, data: bytes, at: int, stop: int, count: int) -> int:
    """Return `count` and the fields from `at` to `stop`; one more than is allowed ends the count."""
    kinds = _kinds(descriptor)
    while at < stop and count <= MOST_FIELDS:
        count += 1
        tag, at = _varint(data, at)
        way = tag & 7
        if way == _VARINT:
            _, at = _varint(data, at)
        elif way == _BYTES:
            size, at = _varint(data, at)
            if (number := tag >> 3) in kinds:
                if (inner := kinds[number]) is None:
                    count += size  # a number takes a byte at least
                else:
                    count = _counted(inner, data, at, min(at + size, stop), count)
            at += size
        elif way not in _GROUPS:  # what is in a group is counted as if it were beside it
            at += _WIDTHS.get(way, stop)
    return count


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128 or shift > 63:
            return value, at
        shift += 7
