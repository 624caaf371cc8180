"""Data sets as Hugging Face's datasets saves them on disk: Arrow files beside their description."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from crowdlearn_device.platform.files import not_to_read
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError

from .base import Arrays, Encode, Loader, Notes, check_size, class_numbers, extra, listed, whole_order
from .images import Picture, decoder, size_of
from .table import names_in
from .tokens import Long, Tokens, fitting, next_tokens

MAX_JSON = 64 << 20
SPLITS = ("train", "validation", "test")
OUTER, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"


@dataclass(frozen=True)
class Columns:
    """Columns of a data set as Python has them, the description of each, and where it lay."""

    place: Path
    values: dict[str, list[Any]]
    features: dict[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def subset(self, indices: NDArray[np.int64]) -> Columns:
        """Return the rows at `indices` int64 [n], in that order."""
        kept = {name: [column[index] for index in indices] for name, column in self.values.items()}
        return Columns(self.place, kept, self.features)


@dataclass(frozen=True)
class HuggingFaceLoader(Loader[Columns]):
    """A folder that `save_to_disk` wrote, of one data set or of several splits."""

    kind: ClassVar[str] = "hugging-face"
    about: ClassVar[str] = "A folder that datasets' save_to_disk wrote; needs the extra hugging-face."

    inputs: Annotated[
        str, "The column of images, texts or lists of numbers, or columns of numbers by commas."
    ]
    target: Annotated[str, "The column to learn; without one, the next token of a text."] = ""
    task: Annotated[
        Literal["auto", "classes", "numbers"], "Whether whole numbers without names are classes or numbers."
    ] = "auto"
    tokenizer: Annotated[Path | None, "The tokenizer's file, for texts."] = None
    length: Annotated[int, "Tokens of a sample, for texts."] = 64
    long: Annotated[Long, "Texts with more tokens: refuse them, cut them, or drop them."] = "refuse"
    size: Annotated[str, "Resize every image to HEIGHTxWIDTH; without it all must have one size."] = ""
    channels: Annotated[int, "1 for grey, 3 for colours; 0: as the training images are."] = 0

    def places(self, source: Path) -> dict[str, Path]:
        """Return where each split lies; a data set without splits is one place."""
        if (source / STATE).is_file():
            return {"all": source}
        if not (source / OUTER).is_file():
            raise ConfigError(f"{source} has no {OUTER} or {STATE}; name a folder that save_to_disk wrote")
        found = {split: source / split for split in SPLITS if (source / split / STATE).is_file()}
        if "train" not in found:
            names = _json(source / OUTER).get("splits", [])
            raise ConfigError(f"{source} has no split train, it has {listed(names)}; name one's folder")
        return found

    def read(self, place: Path, notes: Notes) -> Columns:
        """Return the columns that count. Raises ConfigError if one is missing or holds nothing somewhere."""
        arrow: Any = extra("pyarrow", "pyarrow", "hugging-face")
        features: dict[str, Any] = _json(place / INFO).get("features") or {}
        wanted = list(dict.fromkeys([*names_in(self.inputs), *names_in(self.target)]))
        for name in wanted:
            if name not in features:
                raise ConfigError(f"{place} has no column {name!r}; it has {', '.join(features)}")
        parts: list[Any] = []
        for name in [str(each.get("filename", "")) for each in _json(place / STATE).get("_data_files", [])]:
            path = place / name
            if path.parent != place:
                raise ConfigError(f"{place / STATE} names a file elsewhere ({name}); save the data set again")
            try:
                with arrow.memory_map(str(path)) as file, arrow.ipc.open_stream(file) as stream:
                    parts += [stream.read_all().select(wanted)]
            except (OSError, KeyError, arrow.ArrowException) as error:
                raise ConfigError(f"{path} cannot be read ({error}); save the data set again") from error
        if not sum(part.num_rows for part in parts):
            raise ConfigError(f"{place} has no rows; give some")
        values = {name: [each for part in parts for each in part[name].to_pylist()] for name in wanted}
        for name, column in values.items():
            if holes := sum(value is None for value in column):
                raise ConfigError(
                    f"{place}: column {name} has no value in {holes} of {len(column)} rows; filter them out"
                )
        if others := [name for name in features if name not in wanted]:
            notes.say(f"columns that are left out: {listed(others)}")
        return Columns(place, values, {name: features[name] for name in wanted})

    def encoder(self, train: Columns, notes: Notes) -> Encode[Columns]:
        """Return what makes arrays of columns, by what kind they are."""
        names = names_in(self.inputs)
        if not names or self.target in names:
            raise ConfigError("--inputs must name columns, and the target is none of them")
        first = train.features[names[0]]
        text = len(names) == 1 and first.get("_type") == "Value" and "string" in str(first.get("dtype"))
        if text:
            return self._texts(train, names[0], notes)
        if not self.target:
            raise ConfigError("--target must name the column to learn, unless the input is a text")
        label = self._labels(train, notes)
        inputs: Callable[[Columns], NDArray[Any]]
        if len(names) == 1 and first.get("_type") == "Image":
            decode = decoder(_pictures(train, names[0]), size_of(self.size), self.channels, notes)

            def inputs(columns: Columns) -> NDArray[Any]:
                return decode(_pictures(columns, names[0]))

        else:
            shape = _numbers(train, names, None).shape[1:]

            def inputs(columns: Columns) -> NDArray[Any]:
                return _numbers(columns, names, shape)

        def encode(columns: Columns, split: str) -> Arrays:
            return Arrays(inputs(columns), label(columns, split))

        return encode

    def _texts(self, train: Columns, name: str, notes: Notes) -> Encode[Columns]:
        """Return what makes tokens of a column of texts, and labels of the target or the next tokens."""
        if self.tokenizer is None:
            raise ConfigError(f"column {name} holds texts: give --tokenizer FILE")
        if self.length < 2:
            raise ConfigError(f"--length {self.length} must be 2 or more")
        tokens = Tokens(self.tokenizer, notes)
        label = self._labels(train, notes) if self.target else None

        def encode(columns: Columns, split: str) -> Arrays:
            rows = tokens(columns.values[name])
            most = self.length + (label is None)
            kept = fitting(rows, most, self.long, lambda at: f"{split} data, row {at}", notes)
            kept = [(at, row) for at, row in kept if len(row) >= (1 if label else 2)]
            if not kept:
                raise ConfigError(f"the {split} data has no text of 2 tokens or more; give more")
            found = [row for _, row in kept]
            check_size(len(found), self.length, 4, f"the {split} data")
            if label is None:
                seen = tokens.filled([row[:-1] for row in found], self.length)
                return Arrays(seen, next_tokens(found, self.length + 1)[:, :-1])
            labels = label(columns.subset(np.array([at for at, _ in kept], np.int64)), split)
            return Arrays(tokens.filled(found, self.length), labels)

        return encode

    def _labels(self, train: Columns, notes: Notes) -> Callable[[Columns, str], NDArray[Any]]:
        """Return what makes labels of the target's column."""
        name, feature, values = self.target, train.features[self.target], train.values[self.target]
        if feature.get("_type") == "ClassLabel":
            notes.classes = tuple(map(str, feature.get("names") or ()))
            return lambda columns, split: _classes(columns, name, split)
        if isinstance(values[0], str):
            notes.classes = tuple(whole_order(sorted({*values})))
            if len(notes.classes) < 2:
                raise ConfigError(f"column {name} holds one class, {values[0]!r}; nothing to learn")
            return lambda columns, split: class_numbers(
                columns.values[name], notes.classes, lambda at: f"{split} data, row {at}"
            )
        array = _array(values, name, train.place)
        if array.dtype.kind in "iu" and array.ndim == 1 and self.task == "auto":
            raise ConfigError(f"column {name} holds whole numbers: give --task classes or --task numbers")
        if self.task == "classes" or (self.task == "auto" and array.dtype.kind in "iub"):
            return lambda columns, split: _classes(columns, name, split)
        if np.ptp(array.astype(np.float64)) == 0:
            raise ConfigError(f"column {name} holds one number only; nothing to learn")
        return lambda columns, split: _array(columns.values[name], name, columns.place).astype(np.float32)


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises ConfigError if there is none."""
    try:
        if why := not_to_read(path, MAX_JSON):
            raise ConfigError(f"{path} {why}; save the data set again")
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); save the data set again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no object; save the data set again")
    return found


def _classes(columns: Columns, name: str, split: str) -> NDArray[np.int64]:
    """Return a column of whole numbers as int64 [N] or [N, positions]."""
    array = _array(columns.values[name], name, columns.place)
    if array.dtype.kind not in "iub":
        raise ConfigError(
            f"the {split} data: column {name} holds {array.dtype}, and classes are whole numbers"
        )
    if array.ndim == 1 and array.min() < 0:
        raise ConfigError(f"the {split} data: column {name} holds {array.min()}, a class that is not known")
    return array.astype(np.int64)


def _array(values: Sequence[Any], name: str, place: Path) -> NDArray[Any]:
    """Return a column as an array of numbers. Raises ConfigError if rows differ in shape or are no
    numbers.
    """
    try:
        array = np.array(values)
    except ValueError as error:
        raise ConfigError(f"{place}: rows of column {name} differ in shape; give all one shape") from error
    if array.dtype.kind not in "iufb":
        raise ConfigError(
            f"{place}: column {name} holds {type(values[0]).__name__}, no numbers; name another"
        )
    return array


def _numbers(columns: Columns, names: Sequence[str], shape: tuple[int, ...] | None) -> NDArray[np.float32]:
    """Return columns as float32 [N, ...]: one as it is, several side by side."""
    arrays = [_array(columns.values[name], name, columns.place) for name in names]
    if len(arrays) == 1 and arrays[0].ndim > 1:
        found = arrays[0].astype(np.float32)
    elif any(array.ndim > 1 for array in arrays):
        raise ConfigError(
            f"{columns.place}: several columns must each hold one number a row; name one column"
        )
    else:
        found = np.stack(arrays, 1).astype(np.float32)
    if shape is not None and found.shape[1:] != shape:
        raise ConfigError(f"{columns.place}: samples {found.shape[1:]}, and the training data has {shape}")
    check_size(len(found), found[0].size, 4, columns.place)
    return found


def _pictures(columns: Columns, name: str) -> list[Picture]:
    """Return a column of images."""
    found = []
    for at, value in enumerate(columns.values[name]):
        content = value.get("bytes") or Path(str(value.get("path")))
        if isinstance(content, Path) and not content.is_file():
            raise ConfigError(
                f"{columns.place}, row {at}: no image, and no file {content}; save it with images"
            )
        found.append(Picture(f"{columns.place}, row {at}", content, ""))
    return found
