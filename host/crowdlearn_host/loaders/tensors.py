"""Tensors that torch.save wrote."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from crowdlearn_device.platform.files import not_to_read
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError

from .base import Arrays, Encode, Loader, Notes, check_size, listed

if TYPE_CHECKING:
    from torch import Tensor


LARGEST_FILE = 16 << 30
"""Bytes of a file of tensors, of which what is read is measured by itself."""


@dataclass(frozen=True)
class TensorLoader(Loader[Arrays]):
    """A .pt file with two tensors: a dictionary, or a pair of inputs and labels. No code in it is run."""

    kind: ClassVar[str] = "tensors"
    about: ClassVar[str] = "A .pt file with tensors of inputs and labels; no code in it is run."
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".pth")

    inputs: Annotated[str, "The inputs' name, if the file holds a dictionary."] = "inputs"
    labels: Annotated[str, "The labels' name, if the file holds a dictionary."] = "labels"

    def read(self, place: Path, notes: Notes) -> Arrays:
        """Return the tensors of a file. Raises ConfigError if it holds others, or anything but tensors."""
        if why := not_to_read(place, LARGEST_FILE):
            raise ConfigError(f"{place} {why}; convert a part of it")
        content = _loaded(place)
        inputs, labels = self._pair(content, place)
        if inputs.ndim < 2 or labels.ndim < 1 or len(inputs) != len(labels) or not len(labels):
            raise ConfigError(
                f"{place}: inputs {list(inputs.shape)} and labels {list(labels.shape)}; expected "
                "[N, ...] and [N, ...], as many of each, and some"
            )
        check_size(len(inputs), inputs[0].numel(), 4, place)
        found = Arrays(_inputs(inputs, place, notes), _labels(labels, place, notes))
        _check_finite(found, place)
        return found

    def encoder(self, train: Arrays, notes: Notes) -> Encode[Arrays]:
        """Return what gives tensors as they are, if those of every split have one shape."""
        shapes = train.inputs.shape[1:], train.labels.shape[1:], train.labels.dtype
        if train.labels.dtype.kind == "i" and train.labels.ndim == 1:
            count = len(np.unique(train.labels))
            if count < 2:
                raise ConfigError(f"all labels are {train.labels[0]}; nothing to learn")
            notes.say(f"{count} classes, the largest is {train.labels.max()}")

        def encode(arrays: Arrays, split: str) -> Arrays:
            own = arrays.inputs.shape[1:], arrays.labels.shape[1:], arrays.labels.dtype
            if own != shapes:
                raise ConfigError(
                    f"the {split} data has samples {own[0]}, labels {own[2]} {own[1]}, and the training data "
                    f"{shapes[0]} and {shapes[2]} {shapes[1]}; give both alike"
                )
            return arrays

        return encode

    def _pair(self, content: object, place: Path) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of what a file holds."""
        from torch import Tensor

        if isinstance(content, Mapping):
            names = [str(name) for name in content]
            if missing := [name for name in (self.inputs, self.labels) if name not in content]:
                raise ConfigError(
                    f"{place} has no tensor {missing[0]!r}, it has {listed(names)}; name them in "
                    "--inputs and --labels"
                )
            content = content[self.inputs], content[self.labels]
        match content:
            case [Tensor() as inputs, Tensor() as labels]:
                if any(each.layout.__str__() != "torch.strided" or each.is_quantized for each in content):
                    raise ConfigError(f"{place} holds sparse or quantized tensors; save plain ones")
                return inputs, labels
        raise ConfigError(
            f"{place} holds {type(content).__name__}; expected a dictionary, or a pair, of two tensors: "
            "torch.save({'inputs': x, 'labels': y}, FILE)"
        )


def _loaded(place: Path) -> object:
    """Return what a file holds, without its pickle running anything. Raises ConfigError."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that are refused anyway
        try:
            # a view of the file: pages are read as they are used
            return torch.load(place, map_location="cpu", weights_only=True, mmap=True)
        except Exception:
            try:
                return torch.load(place, map_location="cpu", weights_only=True)
            except Exception as error:  # pickle, zipfile and torch each raise what they like
                raise ConfigError(
                    f"{place} holds no plain tensors ({_reason(error)}); save them with "
                    "torch.save({'inputs': x, 'labels': y}, FILE)"
                ) from error


def _inputs(tensor: Tensor, place: Path, notes: Notes) -> NDArray[Any]:
    """Return inputs as uint8 or float32 [N, ...]."""
    if tensor.is_complex():
        raise ConfigError(f"{place}: inputs are complex; give real and imaginary parts as channels")
    if str(tensor.dtype) == "torch.uint8":
        notes.say("inputs are bytes, and become numbers from 0 to 1")
        return tensor.numpy()
    if str(tensor.dtype) != "torch.float32":
        notes.say(f"inputs are {tensor.dtype}, and become float32")
    found: NDArray[np.float32] = tensor.float().numpy()
    whole = not tensor.is_floating_point() and str(tensor.dtype) != "torch.bool"
    if whole and (found.astype(np.float64) != tensor.double().numpy()).any():
        raise ConfigError(f"{place}: inputs hold whole numbers that float32 cannot; scale them")
    return found


def _labels(tensor: Tensor, place: Path, notes: Notes) -> NDArray[Any]:
    """Return labels as int64 or float32 [N, ...]."""
    if tensor.is_complex():
        raise ConfigError(f"{place}: labels are complex; give real numbers or classes")
    if not tensor.is_floating_point():
        return tensor.long().numpy()
    if str(tensor.dtype) != "torch.float32":
        notes.say(f"labels are {tensor.dtype}, and become float32")
    return tensor.float().numpy()


def _check_finite(arrays: Arrays, place: Path) -> None:
    """Raise ConfigError if a number is not finite."""
    for name, array in (("inputs", arrays.inputs), ("labels", arrays.labels)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ConfigError(f"{place}: {name} of sample {row} are not finite in float32; clean the data")


def _reason(error: Exception) -> str:
    """Return why torch refuses a file, without its advice on how to run what the file holds."""
    found = re.search(r"(?i)unsupported [^\n]{1,100}", str(error))
    return found.group() if found else (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
