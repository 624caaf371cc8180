"""Reading a device's own training data from a folder into numpy: IDX (MNIST), CIFAR-10 binary, or npz."""

from __future__ import annotations

import gzip
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, permutations
from math import prod
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.errors import DataError
from crowdlearn_device.platform.files import not_to_read
from crowdlearn_device.protocol.targets import IGNORED, TargetSpec

T = TypeVar("T")
Split = Literal["train", "test"]
MAX_BYTES = 2 << 30
"""Bytes of one array once unpacked; a compressed file cannot make the reader take more."""

MAX_FILE = 3 * MAX_BYTES
"""Bytes of a file of inputs, labels and what else lies beside them."""
MAX_HEADER = 64 << 10
_NPY_HEAD = 12
"""Bytes that tell how long the header of an .npy is."""
ONE_AT_A_TIME = threading.Lock()
"""Held while numpy reads headers as Python literals: several devices may be threads of one process, and
CPython 3.11 counts how deep its parser is for all of them together.
"""

IDX_PREFIX = {"train": "train", "test": "t10k"}
IDX_UBYTE = 0x08
CIFAR_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
CIFAR_SHAPE = (3, 32, 32)
CIFAR_CLASSES = 10


@dataclass(frozen=True)
class Dataset:
    """Samples and what is to be learned of them: `inputs` float32 [N, ...], finite; `labels` classes, int64
    [N], not negative, or numbers, float32 [N] or [N, outputs], finite. Inputs that were bytes are `scaled` to
    [0, 1].
    """

    inputs: NDArray[np.float32]
    labels: NDArray[Any]
    scaled: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: NDArray[np.int64]) -> Dataset:
        """Return the samples at `indices`, in that order. `indices` are int64 [n]."""
        return Dataset(self.inputs[indices], self.labels[indices], self.scaled)

    def shaped(self, sample_shape: Sequence[int], source: str = "") -> Dataset:
        """Return the same samples, each as an array of `sample_shape`. Raises DataError as in_shape does."""
        return Dataset(in_shape(self.inputs, sample_shape, source), self.labels, self.scaled)


def in_shape(
    inputs: NDArray[np.float32], sample_shape: Sequence[int], source: str = ""
) -> NDArray[np.float32]:
    """Return the samples float32 [N, ...] as [N, *sample_shape], in the order of their values.

    A reshape is only right if one of both shapes has a single axis, or if they differ by axes of size 1.
    Raises DataError, naming `source`, otherwise: height, width and channels are never read as one another.
    """
    have, want = tuple(inputs.shape[1:]), tuple(int(size) for size in sample_shape)
    if have == want:
        return inputs
    text = f"a sample has shape {have} ({prod(have)} values) but the model takes {want} ({prod(want)} values)"
    text = f"{source}: {text}" if source else text
    if prod(have) != prod(want):
        raise DataError(f"{text}; give data that fits, or another model")
    long_have, long_want = long_axes(have), long_axes(want)
    if long_have != long_want and min(len(long_have), len(long_want)) > 1:
        raise DataError(f"{text}: the axes differ; {_remedy(have, want)}")
    return inputs.reshape(len(inputs), *want)


def check_labels(labels: NDArray[Any], classes: int, source: str = "the data") -> None:
    """Raise DataError, naming `source`, if a label is none of the model's classes 0 to classes - 1.

    `labels` are int64 [N, ...].
    """
    if labels.dtype.kind != "i":
        whole = labels.ndim == 1 and bool((labels == np.rint(labels)).all())
        how = "save labels.astype(int)" if whole else 'give integers, or train on numbers with loss = "mse"'
        raise DataError(f"{source} has numbers {list(labels.shape)}, and classes are needed; {how}")
    if labels.max() >= classes:
        raise DataError(
            f"{source} has a label {labels.max()}, but the model distinguishes classes 0 to {classes - 1}; "
            "give labels of its classes, or a model with more outputs"
        )


def as_targets(
    labels: NDArray[Any], spec: TargetSpec, outputs: int, source: str = "the data"
) -> NDArray[Any]:
    """Return a data set's labels as a loss takes them: int64 [N], or float32 [N, *spec.shape].

    Raises DataError, naming `source`, if they do not fit a model of so many outputs.
    """
    if spec.are_classes:
        if labels.dtype.kind == "i" and labels.shape[1:] != spec.shape:
            raise DataError(
                f"{source} has classes of shape {labels.shape[1:]} for a sample, and the loss takes "
                + (
                    "one class; save labels of shape [N]"
                    if not spec.shape
                    else f"{spec.shape}; give one for each position of the model's scores"
                )
            )
        check_labels(labels, outputs, source)
        if spec.are_sequences and not (labels != IGNORED).any():
            raise DataError(f"{source} has no class that counts, all are {IGNORED}; give some")
        return labels
    have = labels.shape[1:] or (1,)
    if have != spec.shape:
        raise DataError(
            f"{source} has targets of shape {have}, and the loss compares {spec.shape} with the model's "
            "outputs; give one number for each output, or another model"
        )
    least, most = labels.min(), labels.max()
    if (spec.least is not None and least < spec.least) or (spec.most is not None and most > spec.most):
        raise DataError(
            f"{source} has targets from {least:g} to {most:g}, and the loss takes {spec.least:g} to "
            f"{spec.most:g}; scale them, or choose another loss"
        )
    return np.ascontiguousarray(labels.reshape(len(labels), *spec.shape), np.float32)


def long_axes(shape: Sequence[int]) -> list[int]:
    """Return the sizes in `shape` that are not 1: samples of at most one such axis have no layout."""
    return [size for size in shape if size != 1]


def _remedy(have: tuple[int, ...], want: tuple[int, ...]) -> str:
    """Return what to do about samples of shape `have` for a model that takes `want`."""
    if sorted(long_axes(have)) != sorted(long_axes(want)):
        return "give the data in the model's shape"
    if sorted(have) != sorted(want):
        return f"transpose each sample's axes to the order of {want} before saving it"
    order = next(order for order in orders(len(have)) if tuple(have[axis] for axis in order) == want)
    axes = ", ".join(map(str, (0, *(axis + 1 for axis in order))))
    return f"save it transposed: inputs.transpose({axes})"


def orders(axes: int) -> Iterator[tuple[int, ...]]:
    """Return every order of so many axes, the likeliest mistakes first: channels last, channels first."""
    channels = [(2, 0, 1), (1, 2, 0)] if axes == 3 else []
    return chain(channels, (order for order in permutations(range(axes)) if order not in channels))


NO_DATA = Dataset(np.zeros((0, 1), np.float32), np.zeros(0, np.int64))
"""The data of a device without samples."""


def load_dataset(folder: str | Path, split: Split = "train", *, may_be_empty: bool = False) -> Dataset:
    """Return the `split` of the data set in `folder`; pixel bytes become floats in [0, 1].

    Knows `train.npz`/`test.npz` with arrays `inputs` and `labels`, the IDX files of the MNIST distribution
    (gzip or not, inputs [N, 28, 28]); and the binary version of CIFAR-10 (inputs [N, 3, 32, 32]). An .npz
    file `may_be_empty`: the host sends one to a device that is to hold no samples. Raises DataError if
    nothing of the kind is there, or it is damaged or larger than MAX_BYTES.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name the folder that holds the data set")
    if (folder / f"{split}.npz").is_file():
        return load_npz(folder / f"{split}.npz", may_be_empty=may_be_empty)
    images = _first_file(folder, f"{IDX_PREFIX[split]}-images", "idx3-ubyte")
    if images is not None:
        labels = _first_file(folder, f"{IDX_PREFIX[split]}-labels", "idx1-ubyte")
        if labels is None:
            raise DataError(f"{images} has no {IDX_PREFIX[split]}-labels-idx1-ubyte beside it; add it")
        return checked(_read_idx(images), _read_idx(labels), images)
    for place in (folder, folder / "cifar-10-batches-bin"):
        if (place / CIFAR_FILES[split][0]).is_file():
            return _read_cifar([place / name for name in CIFAR_FILES[split]])
    raise DataError(
        f"{folder} holds no {split} data: expected {split}.npz, {IDX_PREFIX[split]}-images-idx3-ubyte[.gz] "
        f"or {CIFAR_FILES[split][0]}"
    )


def load_npz(path: str | Path, *, may_be_empty: bool = False) -> Dataset:
    """Return the data set in one .npz file with arrays `inputs` (uint8 is scaled to [0, 1]) and integer
    `labels`.

    Raises DataError if an array is missing, of the wrong kind, not finite, or larger than MAX_BYTES.
    """
    inputs, labels = _read_npz(Path(path))
    if labels is None:
        raise DataError(f"{path} has no array labels; save it with both")
    if may_be_empty and len(inputs) == len(labels) == 0:
        return NO_DATA
    return checked(inputs, labels, Path(path))


def load_samples(path: str | Path) -> tuple[Dataset, NDArray[Any] | None]:
    """Return the samples of one file, and their labels where there are some: an .npz with `inputs` and
    perhaps `labels`, or an IDX file of images (gzip or not) with perhaps its labels' file beside it.

    Raises DataError if the file is missing, damaged, or larger than MAX_BYTES. Without labels, those of the
    data set are int64 [N], all 0.
    """
    path = Path(path)
    labels: NDArray[Any] | None
    if path.suffix == ".npz":
        inputs, labels = _read_npz(path)
    else:
        beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        inputs = _read_idx(path)
        labels = _read_idx(beside) if beside != path and beside.is_file() else None
    data = checked(inputs, np.zeros(len(inputs), np.int64) if labels is None else labels, path)
    return data, None if labels is None else data.labels


def _read_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return its arrays `inputs`, and `labels`, if it has them."""

    def read() -> tuple[Any, Any]:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size > MAX_BYTES:
                    raise DataError(
                        f"{path}: {member.filename} has {member.file_size} bytes; the limit is {MAX_BYTES}"
                    )
                if member.filename in ("inputs.npy", "labels.npy"):
                    with archive.open(member) as file:
                        _check_header(file.read(_NPY_HEAD), path)
        with ONE_AT_A_TIME, np.load(path, allow_pickle=False) as arrays:
            if "inputs" not in arrays.files:
                raise DataError(f"{path} has no array inputs; save it with one")
            return arrays["inputs"], arrays["labels"] if "labels" in arrays.files else None

    return _guarded(path, read)


def _check_header(head: bytes, path: Path) -> None:
    """Raise DataError if an array's header is longer than any that numpy writes, which it reads whole."""
    size = int.from_bytes(head[8:10] if head[6:7] == b"\1" else head[8:12], "little")
    if size > MAX_HEADER:
        raise DataError(f"{path} has a header of {size} bytes; save it again with numpy")


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Return an IDX file of unsigned bytes (magic, dimensions big-endian, then the data)."""

    def read() -> NDArray[np.uint8]:
        with cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            if zeros != 0 or kind != IDX_UBYTE or not 1 <= dimensions <= 4:
                raise DataError(f"{path} is no IDX file of unsigned bytes; replace it")
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            size = prod(shape)
            if size > MAX_BYTES:
                raise DataError(f"{path} claims {size} bytes of data; at most {MAX_BYTES} are read")
            data = file.read(size + 1)
        if len(data) != size:
            raise DataError(f"{path} does not hold the {size} bytes that its header claims; fetch it again")
        return np.frombuffer(data, np.uint8).reshape(shape)

    return _guarded(path, read)


def _read_cifar(paths: Sequence[Path]) -> Dataset:
    """Return records of one label byte and 3072 pixel bytes, in planes red, green, blue."""
    record = 1 + prod(CIFAR_SHAPE)
    rows = []
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing; the binary version of CIFAR-10 has {len(paths)} such files")
        size = path.stat().st_size
        if size == 0 or size % record or size > MAX_BYTES // len(paths):
            raise DataError(
                f"{path} has {size} bytes; expected records of {record} and at most {MAX_BYTES // len(paths)}"
            )
        rows.append(np.fromfile(path, np.uint8).reshape(-1, record))
    data = np.concatenate(rows)
    if data[:, 0].max() >= CIFAR_CLASSES:
        raise DataError(f"{paths[0].parent}: a label is {data[:, 0].max()}; CIFAR-10 has classes 0 to 9")
    return checked(data[:, 1:].reshape(-1, *CIFAR_SHAPE), data[:, 0], paths[0])


def _first_file(folder: Path, stem: str, kind: str) -> Path | None:
    names = [f"{stem}{separator}{kind}{suffix}" for separator in "-." for suffix in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _unit(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(255)


def checked(inputs: NDArray[Any], labels: NDArray[Any], source: object) -> Dataset:
    """Return inputs [N, ...], where uint8 is scaled to [0, 1], and labels [N, ...] as samples. Raises
    DataError, naming `source`, if they are none.
    """
    if inputs.ndim < 2 or inputs.dtype.kind not in "fiu":
        raise DataError(f"{source}: inputs are {inputs.dtype} {inputs.shape}; expected numbers [N, ...]")
    numbers = labels.dtype.kind == "f" and labels.ndim > 0
    if not numbers and (labels.ndim == 0 or labels.dtype.kind not in "iu"):
        raise DataError(
            f"{source}: labels are {labels.dtype} {labels.shape}; expected integers [N] or [N, positions], "
            "or numbers [N] or [N, outputs]"
        )
    if len(inputs) != len(labels) or len(labels) == 0:
        raise DataError(
            f"{source}: {len(inputs)} inputs and {len(labels)} labels; expected as many of each, and some"
        )
    if numbers:
        with np.errstate(over="ignore"):
            labels = labels.astype(np.float32)
        if not labels.size or not np.isfinite(labels).all():
            raise DataError(f"{source}: labels are empty, or not finite in float32; clean the data")
    elif labels.max() > np.iinfo(np.int64).max or _least(labels) < 0:
        also = f", or {IGNORED} for a position that does not count" if labels.ndim > 1 else ""
        raise DataError(
            f"{source}: labels from {labels.min()} to {labels.max()}; expected classes from 0{also}"
        )
    scaled = inputs.dtype == np.uint8
    with np.errstate(over="ignore"):
        values = _unit(inputs) if scaled else np.ascontiguousarray(inputs, np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{source}: inputs hold values that are not finite in float32; clean the data")
    return Dataset(values, labels if numbers else labels.astype(np.int64), scaled)


def _least(labels: NDArray[Any]) -> int:
    """Return the lowest class that counts of int [N], or [N, positions]."""
    counted = labels[labels != IGNORED] if labels.ndim > 1 else labels
    return int(counted.min()) if counted.size else 0


def _guarded(path: Path, read: Callable[[], T]) -> T:
    """Call `read()`, and raise what a damaged or unreadable file can raise as DataError."""
    try:
        if why := not_to_read(path, MAX_FILE):
            raise DataError(f"{path} {why}")
        return read()
    except DataError:
        raise
    except Exception as error:  # gzip, zipfile, numpy and Python's tokenizer each raise what they like
        raise DataError(f"{path} cannot be read ({error}); fetch or save it again") from error
