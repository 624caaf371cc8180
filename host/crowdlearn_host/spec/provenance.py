"""The inputs of a run from outside its folder: where they lay, and what they were; so the run goes on from
anywhere, and with nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.data.unit import Unit
from numpy.typing import NDArray
from pydantic import ValidationError

from crowdlearn_host.common.toml_files import Model, Section, load_toml
from crowdlearn_host.errors import RunError
from crowdlearn_host.models.names import model_file

NAME = "inputs.json"
TRAINING_DATA, TEST_DATA, VALIDATION_DATA = "training data", "test data", "validation data"


class RunInput(Section):
    """An input of a run. `place` is an absolute path, or the name of what is built in; `sha256` is of what
    was read there; `sample_shape` is that of one sample there, and `unit` that of its numbers, unless older
    versions wrote it.
    """

    place: str
    sha256: str
    sample_shape: tuple[int, ...] | None = None
    unit: Unit | None = None

    @classmethod
    def file(cls, path: Path) -> Self:
        """Return a file, byte by byte."""
        return cls(place=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    @classmethod
    def samples(cls, place: str, data: Dataset, devices: Sequence[NDArray[np.int64]] = ()) -> Self:
        """Return samples, and which of them each device has; however a sample is shaped, it is the same.

        `devices` are int64 [n] each.
        """
        digest = hashlib.sha256()
        arrays: list[NDArray[Any]] = [data.inputs, data.labels, *devices]
        for array in arrays:
            digest.update(f"{array.dtype} {len(array)} {array.size} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        shape = data.inputs.shape[1:]
        return cls(place=place, sha256=digest.hexdigest(), sample_shape=shape, unit=Unit.of(data))


class RunInputs(Section):
    """The inputs of a run. `config_folder` is where the run's config.toml lay, where its paths are from;
    `given` is by name.
    """

    config_folder: Path
    given: dict[str, RunInput]

    def to_json(self) -> str:
        return self.model_dump_json(indent=1)


def run_inputs(
    model: str,
    plan: Path | None,
    data: str | None,
    train: Dataset | None,
    test: Dataset | None,
    devices: Sequence[NDArray[np.int64]] = (),
    validation: Dataset | None = None,
) -> dict[str, RunInput]:
    """Return what a run is given, by name. `devices` has each one's part of `train`, where that is known by
    now. Each part is int64 [n].
    """
    found = {}
    if train is not None:
        found[TRAINING_DATA] = RunInput.samples(str(data), train, devices)
    if test is not None:
        found[TEST_DATA] = RunInput.samples(str(data), test)
    if validation is not None:
        found[VALIDATION_DATA] = RunInput.samples(str(data), validation)
    for what, path in (("model", model_file(model)), ("plan", plan)):
        if path is not None:
            found[what] = RunInput.file(path)
    return found


def load_inputs(run: Path) -> RunInputs:
    """Return what the run in this folder was given. Raises RunError if the folder has no record."""
    path = run / NAME
    try:
        return RunInputs.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise RunError(
            f"{path} cannot be read ({why}): the run is damaged or of another version; start a new run in "
            "another folder"
        ) from error


def check_inputs(run: Path, now: dict[str, RunInput]) -> None:
    """Raise RunError if the run in this folder began with other contents, wherever they lie."""
    began = load_inputs(run).given
    others = [
        f"other {what}: {then.place} ({then.sha256[:8]}), not {given.place} ({given.sha256[:8]})"
        for what, given in now.items()
        if (then := began.get(what, given)).sha256 != given.sha256
    ]
    if others:
        raise RunError(
            f"{run} began with {'; '.join(others)}; give what it began with, or start a new run in another "
            "folder"
        )


def load_kept(run: Path, kind: type[Model]) -> Model:
    """Return the configuration of the run in this folder, its paths from where it lay when the run began.

    Raises ConfigError or RunError if that cannot be told.
    """
    return load_toml(run / "config.toml", kind, load_inputs(run).config_folder)
