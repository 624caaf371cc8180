"""The group's model that a device keeps after training, in a folder that needs nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np

from crowdlearn_device.data.dataset import in_shape
from crowdlearn_device.data.unit import Unit, load_unit
from crowdlearn_device.errors import ProgramError, StateError
from crowdlearn_device.program.executor import Executor, Load, Programs, ProgramStore, load_program
from crowdlearn_device.program.manifest import PREDICT, Manifest
from crowdlearn_device.program.ports import predict_method
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.protocol.targets import TargetSpec
from crowdlearn_device.state.piece_state import MAX_HEADER, PieceState

WEIGHTS, RUN, UNIT = "weights.state", "run.id", "samples.unit"
MAX_KEPT = 8
"""Models of one name."""


def keep_model(
    folder: Path,
    programs: Mapping[str, bytes],
    weights: PieceState,
    run: str = "",
    unit: Unit | None = None,
) -> None:
    """Write the model, in place of an older one: the program's files by name, all weights, and the `unit` of
    the samples that this device trained it on, if it has some.

    A model of another `run` (its id) of this name, perhaps another host's, is not lost: its name gets that id
    at its end. The newest MAX_KEPT of a name stay. Raises StateError if the folder of models is a link.
    """
    if folder.parent.is_symlink():
        raise StateError(f"{folder.parent} is a link; remove it on the device, or give another home")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    blocks: dict[str, Iterable[bytes | memoryview]] = {
        **{name: (content,) for name, content in programs.items()},
        WEIGHTS: weights.blocks(),
    }
    if unit is not None:
        blocks[UNIT] = (unit.to_json().encode(),)
    for name, content in {**blocks, RUN: (run.encode(),)}.items():
        with (partial / name).open("wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
    other = _run_of(folder)
    if other and other != run:
        older = folder.with_name(f"{folder.name}-{other[:8]}")
        shutil.rmtree(older, ignore_errors=True)
        os.replace(folder, older)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    others = [path for path in folder.parent.iterdir() if path.name == f"{folder.name}-{_run_of(path)[:8]}"]
    for old in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[MAX_KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)


def _run_of(folder: Path) -> str:
    """Return the id of the run that a kept model is of; "" if it is not known."""
    try:
        found = (folder / RUN).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return found if found.isalnum() and len(found) <= 64 else ""


class KeptModel:
    """A whole network in evaluation mode."""

    def __init__(
        self, manifest: Manifest, executor: Executor, weights: PieceState, unit: Unit | None = None
    ) -> None:
        """Take a program, its weights, and the `unit` of the samples that were trained on.

        Raise ProgramError or StateError if program and weights are not of one whole network.
        """
        self._manifest, self._executor, self.unit = manifest, executor, unit
        method = manifest.method(PREDICT)
        if method != predict_method(manifest):
            raise ProgramError(f"program {manifest.program[:12]} does not predict; take the model anew")
        if list(weights.neurons) != [(0, layer.neurons) for layer in manifest.layers]:
            raise StateError("the weights are not those of the whole network; take the model anew")
        self._arrays = []
        for port in method.inputs[1:]:
            array = weights.layers.get(port.layer, {}).get(f"value/{port.name}")
            if array is None or array.shape != port.shape:
                found = "missing" if array is None else f"of shape {array.shape}"
                raise StateError(f"{port.name} is {found}, {port.shape} was due; take the model anew")
            if not np.isfinite(array).all():
                raise StateError(f"{port.name} holds values that are not finite; take the model anew")
            self._arrays.append(own := executor.zeros(array.shape))
            own[...] = array
        executor.hold(self._arrays)
        self._sample = tuple(int(dim) for dim in method.inputs[0].shape[1:])

    @classmethod
    def load(cls, folder: Path, load_with: Load = load_program) -> KeptModel:
        """Return the model in `folder`. Raises ProgramError or StateError if it is not whole and
        undamaged.
        """
        manifests = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if len(manifests) != 1:
            raise ProgramError(f"{folder} holds no model; name a folder below HOME/models")
        store: Programs = ProgramStore(folder, load_with)
        manifest = store.manifest(manifests[0].stem)
        floats = sum(manifest.layers[a.layer].neurons * prod(a.shape) for a in manifest.arrays)
        try:
            if (folder / WEIGHTS).stat().st_size > 4 * floats + 2 * MAX_HEADER:
                raise StateError(
                    f"{folder / WEIGHTS} is larger than the model's weights; take the model anew"
                )
            weights = PieceState.from_bytes((folder / WEIGHTS).read_bytes())
        except OSError as error:
            raise StateError(
                f"{folder / WEIGHTS} cannot be read ({error.strerror}); take the model anew"
            ) from error
        return cls(manifest, store.executor(manifest), weights, load_unit(folder / UNIT))

    @property
    def classes(self) -> int:
        """Return the number of classes that the model distinguishes."""
        last = self._manifest.layers[-1]
        return last.sum_shape[-1] if last.sum_shape else last.neurons

    @property
    def targets(self) -> TargetSpec:
        """Return the targets that the model's scores were trained on."""
        return self._manifest.targets

    def probabilities(self, inputs: Floats) -> Floats:
        """Return the probability of each class, float32 [N, classes], or [N, positions, classes], for samples
        float32 [N, ...].

        Raises DataError if their shape is not the model's.
        """
        logits = self.scores(inputs)
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
        return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)

    def numbers(self, inputs: Floats) -> Floats:
        """Return the model's number for each output, float32 [N, outputs]: shares of yes if its targets go
        from 0 to 1, else its scores. Raises DataError as `probabilities` does.
        """
        scores = self.scores(inputs)
        if self.targets.most != 1:
            return scores
        with np.errstate(over="ignore"):
            return (1 / (1 + np.exp(-scores, dtype=np.float64))).astype(np.float32)

    def scores(self, inputs: Floats) -> Floats:
        """Return the scores float32 [N, outputs] for samples float32 [N, ...]. Raises DataError if their
        shape is not the model's.
        """
        samples = np.ascontiguousarray(in_shape(inputs, self._sample), self._manifest.layers[0].dtype)
        found = []
        for start in range(0, len(samples), self._manifest.max_batch):
            part = samples[start : start + self._manifest.max_batch]
            (logits,) = self._executor.run(PREDICT, [part, *self._arrays])
            found.append(np.array(logits))
        return np.concatenate(found)
