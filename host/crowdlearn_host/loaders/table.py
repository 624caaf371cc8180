"""Tables: a CSV file whose first line names the columns."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from crowdlearn_device.platform.files import not_to_read
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError

from .base import Arrays, Encode, Loader, Notes, class_numbers, is_whole, listed, whole_order
from .columns import Categories, Numbers, column, is_missing, number

MAX_BYTES = 256 << 20
"""Bytes of a CSV file, of which each takes many in memory."""


@dataclass(frozen=True)
class Table:
    """Rows of cells by column, and the line of each row in its file, from 1."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: NDArray[np.int64]) -> Table:
        """Return the rows at `indices` int64 [n], in that order."""
        rows = tuple(self.rows[index] for index in indices)
        return Table(self.names, rows, tuple(self.lines[index] for index in indices))

    def cells(self, name: str) -> list[str]:
        """Return a column."""
        place = self.names.index(name)
        return [row[place] for row in self.rows]


@dataclass(frozen=True)
class CsvLoader(Loader[Table]):
    """A CSV file: columns by name, of numbers or categories, and one or several to learn."""

    kind: ClassVar[str] = "csv"
    about: ClassVar[str] = "A table whose first line names its columns."
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    target: Annotated[str, "The column to learn, or several columns of numbers, by commas."]
    task: Annotated[
        Literal["auto", "classes", "numbers"],
        "Whether the target holds classes or numbers; auto asks only if it holds whole numbers.",
    ] = "auto"
    columns: Annotated[str, "The columns that the model sees, by commas; without it all others."] = ""
    without: Annotated[str, "Columns that it does not see, by commas."] = ""
    categories: Annotated[str, "Columns whose numbers are names of categories, by commas."] = ""
    missing: Annotated[
        Literal["refuse", "drop", "fill"],
        "Lines with missing values: refuse them, drop them, or fill in the mean or the usual category.",
    ] = "refuse"
    standardise: Annotated[bool, "Numbers less their mean, over their deviation, of the training data."] = (
        True
    )
    scale_target: Annotated[bool, "Scale targets that are numbers, too."] = False
    delimiter: Annotated[str, "The character between cells; a tab for .tsv."] = ","

    def read(self, place: Path, notes: Notes) -> Table:
        """Return the rows of a file, without those that are dropped. Raises ConfigError that names the line
        of a mistake.
        """
        table = _rows(place, "\t" if place.suffix == ".tsv" else self.delimiter)
        for option in ("target", "columns", "without", "categories"):
            for name in names_in(getattr(self, option)):
                if name not in table.names:
                    raise ConfigError(
                        f"{place} has no column {name!r} (--{option}); it has {', '.join(table.names)}"
                    )
        return self._without_missing(table, place, notes)

    def encoder(self, train: Table, notes: Notes) -> Encode[Table]:
        """Return what makes inputs float32 [N, inputs] of columns, and labels of the target."""
        seen, targets = self._seen(train.names), names_in(self.target)
        asked = names_in(self.categories)
        found = [
            column(
                name,
                train.cells(name),
                train.lines,
                categories=name in asked,
                standardise=self.standardise,
            )
            for name in seen
        ]
        notes.inputs = tuple(name for each in found for name in each.inputs)
        for each in found:
            if isinstance(each, Categories):
                notes.say(f"column {each.name}: {len(each.words)} categories, one input each")
        numbers = [each.name for each in found if isinstance(each, Numbers)]
        if numbers and self.standardise:
            notes.say(f"{len(numbers)} columns of numbers are standardised by the training data")
        label = self._labels(train, targets, notes)

        def encode(table: Table, split: str) -> Arrays:
            if gone := [name for name in (*seen, *targets) if name not in table.names]:
                raise ConfigError(
                    f"the {split} data has no column {listed(gone)}, which the training data has; add it, or "
                    "leave it out with --without"
                )
            inputs = [each.encode(table.cells(each.name), table.lines, split) for each in found]
            return Arrays(np.concatenate(inputs, 1), label(table, split))

        return encode

    def _seen(self, names: Sequence[str]) -> list[str]:
        """Return the columns that are inputs."""
        targets, left_out = names_in(self.target), names_in(self.without)
        wanted = names_in(self.columns) or [name for name in names if name not in targets]
        if both := [name for name in wanted if name in targets]:
            raise ConfigError(f"column {both[0]} is the target and cannot be seen; name others in --columns")
        seen = [name for name in wanted if name not in left_out]
        if not seen:
            raise ConfigError("no column is left for the model to see; name some in --columns")
        return seen

    def _without_missing(self, table: Table, place: Path, notes: Notes) -> Table:
        """Return the rows that count, and tell what is missing."""
        seen, targets = self._seen(table.names), names_in(self.target)
        holes = {
            name: [at for at, cell in enumerate(table.cells(name)) if is_missing(cell)]
            for name in (*seen, *targets)
        }
        holes = {name: rows for name, rows in holes.items() if rows}
        if not holes:
            return table
        places = listed([f"{len(rows)} in {name}" for name, rows in holes.items()])
        first = min(table.lines[rows[0]] for rows in holes.values())
        if self.missing == "refuse":
            raise ConfigError(
                f"{place} misses values, the first in line {first}: {places}, of {len(table)} lines; give "
                "--missing drop, --missing fill, or leave columns out with --without"
            )
        without_target = {at for name in targets for at in holes.get(name, ())}
        gone = without_target if self.missing == "fill" else {at for rows in holes.values() for at in rows}
        kept = np.array([at for at in range(len(table)) if at not in gone], np.int64)
        if gone:
            notes.say(f"{place.name}: {len(gone)} of {len(table)} lines are dropped, missing: {places}")
        if self.missing == "fill":
            notes.say(f"{place.name}: missing values are the mean or the usual category: {places}")
        if not len(kept):
            raise ConfigError(f"{place}: every line misses a value; give --missing fill")
        return table.subset(kept)

    def _labels(self, train: Table, targets: Sequence[str], notes: Notes) -> _Labels:
        """Return what makes labels of the target's cells, by the training data."""
        cells = [[cell.strip() for cell in train.cells(name)] for name in targets]
        words = [cell for each in cells for cell in each if number(cell) is None]
        whole = all(is_whole(cell) for each in cells for cell in each)
        task = self.task
        if task == "auto":
            if whole and len(targets) == 1:
                raise ConfigError(
                    f"column {targets[0]} holds whole numbers: give --task classes or --task numbers"
                )
            task = "classes" if words and len(targets) == 1 else "numbers"
        if task == "classes":
            if len(targets) > 1:
                raise ConfigError("several targets cannot be classes; name one in --target")
            notes.classes = tuple(whole_order(sorted({*cells[0]})))
            if len(notes.classes) < 2:
                raise ConfigError(f"column {targets[0]} holds one class, {cells[0][0]!r}; nothing to learn")
            return _Classes(targets[0], notes.classes)
        if words:
            raise ConfigError(f"column {targets[0]} holds {words[0]!r}, which is no number; correct it")
        values = np.array([[float(cell) for cell in each] for each in cells]).T
        if constant := [name for name, of in zip(targets, values.T, strict=True) if np.ptp(of) == 0]:
            raise ConfigError(f"column {constant[0]} holds one number only; nothing to learn")
        mean, spread = values.mean(0), values.std(0)
        if not self.scale_target:
            mean, spread = np.zeros_like(mean), np.ones_like(spread)
        else:
            pairs = zip(targets, mean, spread, strict=True)
            for name, middle, width in pairs:
                notes.say(f"target {name} is ({name} - {middle:.6g}) / {width:.6g}")
        return _Targets(tuple(targets), mean, spread)


@dataclass(frozen=True)
class _Classes:
    name: str
    classes: tuple[str, ...]

    def __call__(self, table: Table, split: str) -> NDArray[np.int64]:
        cells = [cell.strip() for cell in table.cells(self.name)]
        return class_numbers(cells, self.classes, lambda at: f"line {table.lines[at]} of the {split} data")


@dataclass(frozen=True)
class _Targets:
    names: tuple[str, ...]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    def __call__(self, table: Table, split: str) -> NDArray[np.float32]:
        """Return float32 [N], or [N, targets] of several."""
        values = np.empty((len(table), len(self.names)))
        for place, name in enumerate(self.names):
            for at, cell in enumerate(table.cells(name)):
                value = number(cell)
                if value is None:
                    raise ConfigError(
                        f"line {table.lines[at]} of the {split} data: column {name} holds {cell!r}, which is "
                        "no number; correct it"
                    )
                values[at, place] = value
        scaled = ((values - self.mean) / self.spread).astype(np.float32)
        return scaled[:, 0] if len(self.names) == 1 else scaled


_Labels = _Classes | _Targets


def names_in(option: str) -> list[str]:
    """Return the names in an option, which are separated by commas."""
    return [name.strip() for name in option.split(",") if name.strip()]


def _rows(place: Path, delimiter: str) -> Table:
    """Return the table in a file. Raises ConfigError if it is none."""
    if why := not_to_read(place, MAX_BYTES):
        raise ConfigError(f"{place} {why}; convert a table, or a part of it")
    if len(delimiter) != 1:
        raise ConfigError(f"--delimiter {delimiter!r} must be one character")
    try:
        with place.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = tuple(name.strip() for name in next(reader, []))
            rows, lines = [], []
            for row in reader:
                if not row:
                    continue  # an empty line
                if len(row) != len(names):
                    raise ConfigError(
                        f"{place}, line {reader.line_num}: {len(row)} cells, and the first line names "
                        f"{len(names)} columns; correct it, or give --delimiter"
                    )
                rows.append(tuple(row))
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{place} is no table in UTF-8 ({error}); save it as CSV in UTF-8") from error
    if double := [name for name in names if names.count(name) > 1 or not name]:
        raise ConfigError(
            f"{place}: its first line must name each column once, and has {double[0]!r} "
            f"{names.count(double[0])} times; add a line of names"
        )
    if not names or not rows:
        raise ConfigError(f"{place} has no line below the names of its columns; give some")
    return Table(names, tuple(rows), tuple(lines))
