"""onnxruntime-training 1.19: the training API of Microsoft's on-device trainer, through its C binding."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.train_step.engine import Array, Given

if "serve" in sys.argv:
    # The wheel imports torch where it is installed; only the making of artifacts needs it.
    sys.modules["torch"] = None  # type: ignore[assignment]

from onnxruntime.capi import _pybind_state as C

FILES = ("training_model.onnx", "optimizer_model.onnx", "checkpoint")


def prepare(given: Given) -> list[Path]:
    """The artifacts of the model that the comparing process has exported as model.onnx."""
    import onnx
    from onnxruntime.training import artifacts

    model = onnx.load(str(given.folder / "model.onnx"))
    model.ir_version = min(model.ir_version, 9)
    artifacts.generate_artifacts(
        model,
        requires_grad=list(given.weights()),
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.SGD,
        artifact_directory=str(given.folder),
    )
    return [given.folder / name for name in FILES]


class OnnxRuntime:
    def __init__(self, given: Given) -> None:
        options = C.SessionOptions()
        options.intra_op_num_threads = given.threads
        device = C.OrtDevice(C.OrtDevice.cpu(), C.OrtDevice.default_memory(), 0)
        training, optimizer, checkpoint = (str(given.folder / name) for name in FILES)
        self._start = given.weights()
        self._state = C.load_checkpoint(checkpoint)
        self._module = C.Module(training, self._state, None, device, options)
        self._optimizer = C.Optimizer(optimizer, self._state, device, options)
        self._rate = given.rate
        self._optimizer.set_learning_rate(given.rate)
        self._batch = list(given.data())

    def step(self) -> float:
        fetched = C.OrtValueVector()
        self._module.train_step(self._batch, fetched)
        self._optimizer.optimizer_step()
        self._module.lazy_reset_grad()
        return float(fetched[0].numpy())

    def gradients(self) -> dict[str, Array]:
        for name, value in self._start.items():
            self._state.copy_parameter_from(name, C.OrtValue.ortvalue_from_numpy(value, C.OrtDevice(0, 0, 0)))
        self._optimizer.set_learning_rate(1.0)
        self.step()
        self._optimizer.set_learning_rate(self._rate)
        return {
            name: value.astype(np.float64) - self._state.get_parameter(name).data.numpy()
            for name, value in self._start.items()
        }


load = OnnxRuntime
