"""python -m benchmarks.update_codec: bits per shared weight beside the entropy, and speed on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from crowdlearn_device.sharing.selection import select_top
from crowdlearn_device.sharing.update import Limits, Update, decode_update, encode_update
from crowdlearn_device.sharing.update_indices import index_entropy
from crowdlearn_device.sharing.update_values import ValueType
from rich.console import Console
from rich.table import Table

from benchmarks.report import machine, write_rows

THETAS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def main(
    weights: Annotated[int, typer.Option(min=1000, help="Weights of the model.")] = 4_000_000,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    quick: Annotated[bool, typer.Option(help="A smaller model and fewer rounds.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all rows there.")] = None,
) -> None:
    """Random weights and magnitudes: the worst case for the index set, whose entropy is then the bound."""
    if quick:
        weights, rounds = 1_000_000, 3
    rng = np.random.default_rng(0)
    values = (0.05 * rng.standard_normal(weights)).astype(np.float32)
    magnitudes = rng.random(weights, np.float32)
    rows = [
        _measured(values, magnitudes, theta, value_type, rounds)
        for value_type in ValueType
        for theta in THETAS
    ]
    table = Table(title=f"{weights} weights, one core; {machine()}")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=120).print(table)
    write_rows(json_file, rows)


def _measured(
    values: np.ndarray, magnitudes: np.ndarray, theta: float, value_type: ValueType, rounds: int
) -> dict[str, Any]:
    size = len(values)
    dense_megabytes = values.nbytes / 1e6
    chosen = select_top(magnitudes, theta).astype(np.uint32)
    update = Update(0, 0, chosen, values[chosen])
    data = encode_update(update, value_type)
    limits = Limits(size, size)
    bits = 8 * len(data) / len(chosen)
    bound = index_entropy(size, len(chosen)) / len(chosen) + value_type.bits
    return {
        "values": value_type.name.lower(),
        "theta": theta,
        "bits/weight": round(bits, 2),
        "entropy + value bits": round(bound, 2),
        "ratio": round(bits / bound, 3),
        "select MB/s": _speed(lambda: select_top(magnitudes, theta), dense_megabytes, rounds),
        "encode MB/s": _speed(lambda: encode_update(update, value_type), dense_megabytes, rounds),
        "decode MB/s": _speed(lambda: decode_update(data, limits), dense_megabytes, rounds),
    }


def _speed(work: Callable[[], object], megabytes: float, rounds: int) -> int:
    """Megabytes of dense float32 model per second of CPU time, which other work disturbs least."""
    seconds = []
    for _ in range(rounds):
        began = time.thread_time()
        work()
        seconds.append(time.thread_time() - began)
    return round(megabytes / median(seconds))


if __name__ == "__main__":
    typer.run(main)
