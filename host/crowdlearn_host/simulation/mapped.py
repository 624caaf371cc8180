"""Objects in files, whose arrays are mapped when they are read: processes share one copy of them."""

from __future__ import annotations

import mmap
import pickle
from pathlib import Path
from typing import Any

import numpy as np

ALIGNED = 64
"""Arrays begin at a multiple of these bytes, a line of the processor's caches."""


class Packed:
    """An object that is ready to be written: its arrays lie where they did, `nbytes` in all. Those of the
    same memory are written once.
    """

    def __init__(self, value: object) -> None:
        buffers: list[pickle.PickleBuffer] = []
        rest = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        arrays = [np.asarray(each.raw()) for each in buffers]
        found = {(each.ctypes.data, each.nbytes): each for each in arrays}
        places = {which: place for place, which in enumerate(found)}
        self._arrays = list(found.values())
        sizes = [each.nbytes for each in self._arrays]
        self._head = pickle.dumps((sizes, [places[each.ctypes.data, each.nbytes] for each in arrays], rest))
        self.nbytes = sum(sizes)

    def write(self, path: Path) -> None:
        """Write the object to a file. Raises OSError if there is no room for it."""
        with path.open("wb") as file:
            file.write(len(self._head).to_bytes(8, "little"))
            file.write(self._head)
            for each in self._arrays:
                file.write(bytes(-file.tell() % ALIGNED))
                file.write(each.data)


def read(path: Path) -> Any:
    """Return the object of a file. What changes in its arrays is not written back, and the file may go."""
    with path.open("rb") as file:
        head = file.read(int.from_bytes(file.read(8), "little"))
        at = file.tell()
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    sizes, places, rest = pickle.loads(head)
    arrays = []
    for size in sizes:
        at += -at % ALIGNED
        arrays.append(content[at : at + size])
        at += size
    return pickle.loads(rest, buffers=[arrays[place] for place in places])
