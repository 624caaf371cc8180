"""Names of models, as configurations and commands give them: what they tell before a model is built."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from crowdlearn_host.common.toml_files import located
from crowdlearn_host.errors import ConfigError

PAPER = ("paper-mlp", "paper-cnn")
FORMS = (
    "paper-mlp, paper-cnn, mlp:WIDTH-WIDTH-..., nor a package.module:function or file.py:function "
    "that can be imported"
)
REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""A function in a package."""
MLP = re.compile(r"mlp:([1-9][0-9]{0,5}(?:-[1-9][0-9]{0,5}){1,20})")


def model_file(name: str) -> Path | None:
    """Return the file of a model that is called `file.py:function`; None for any other."""
    module = name.rpartition(":")[0]
    return Path(module) if module.endswith(".py") else None


def _located(name: str, info: ValidationInfo) -> str:
    return str(located(Path(name), info)) if model_file(name) else name


ModelName = Annotated[str, AfterValidator(_located)]
"""A model in a configuration: what `build_model` takes."""


def check_name(name: str) -> None:
    """Raise ConfigError if there can be no model of this name, as far as that shows without importing it."""
    file = model_file(name)
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"model {name!r}: {file} is not there; name a file.py:function that is")
    elif name not in PAPER and not MLP.fullmatch(name) and not REFERENCE.fullmatch(name):
        raise ConfigError(f"model {name!r} is neither {FORMS}")


def input_shape(name: str, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of one sample as the model takes it; a user's own model takes samples as they are."""
    if name == "paper-cnn":
        return (3, 32, 32)
    if name == "paper-mlp" or MLP.fullmatch(name):
        return (prod(sample_shape),)
    return sample_shape


def stated_shape(name: str, shape: str) -> tuple[int, ...]:
    """Return the shape of one sample: as written in `shape` (784, or 3x32x32), else as the model's name
    tells.

    Raises ConfigError if neither does.
    """
    if shape:
        try:
            sizes = tuple(int(size) for size in shape.split("x"))
        except ValueError:
            sizes = ()
        if not 1 <= len(sizes) <= 4 or min(sizes) < 1:
            raise ConfigError(f"--shape {shape!r}: give the shape of one sample, as in 784 or 3x32x32")
        return sizes
    if widths := MLP.fullmatch(name):
        return (int(widths[1].split("-")[0]),)
    if name in PAPER:
        return input_shape(name, (784,))
    raise ConfigError(f"--shape is missing: {name} does not fix the shape of a sample; try --shape 3x32x32")
