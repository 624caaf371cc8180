"""Data for benchmarks that were given none: drawn at random, in the sizes of MNIST."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

CLASSES, PIXELS = 10, 784
SIZES = {"train": 60_000, "test": 10_000}
GREY, CONTRAST, NOISE = 128, 14, 120
"""The brightness of a pixel, of 255; the most by which a class differs there, and a sample of the class."""


@contextmanager
def data_of(given: Path | None) -> Iterator[tuple[Path, str]]:
    """Yield a data folder and its name in results: the given one, or one that is drawn for the context."""
    if given is not None:
        yield given, given.name
        return
    print("no --data: numbers are drawn at random in MNIST's sizes, and errors are not MNIST's", flush=True)
    with tempfile.TemporaryDirectory() as name:
        draw(Path(name))
        yield Path(name), "drawn"


def draw(folder: Path) -> None:
    """Write train.npz and test.npz: inputs uint8 [N, 784], labels int64 [N]."""
    rng = np.random.default_rng(0)
    pictures = GREY + rng.integers(-CONTRAST, CONTRAST + 1, (CLASSES, PIXELS), dtype=np.int16)
    for split, size in SIZES.items():
        labels = rng.integers(0, CLASSES, size)
        inputs = pictures[labels] + rng.integers(-NOISE, NOISE + 1, (size, PIXELS), dtype=np.int16)
        np.savez(folder / f"{split}.npz", inputs=inputs.clip(0, 255).astype(np.uint8), labels=labels)
