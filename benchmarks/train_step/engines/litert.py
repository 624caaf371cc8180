"""LiteRT (TensorFlow Lite) as its training guide has it: a `train` signature with Flex operators."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from ..engine import Array, Given


def prepare(given: Given) -> list[Path]:
    x, y = given.data()
    layers, start = given.layers, _to_tensorflow(given)

    class Trainer(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.parameters = {n: tf.Variable(v) for n, v in start.items()}

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[
                tf.TensorSpec(_channels_last(x).shape, tf.float32),
                tf.TensorSpec(y.shape, tf.int64),
                tf.TensorSpec([], tf.float32),
            ]
        )
        def train(self, x: Any, y: Any, rate: Any) -> dict[str, Any]:
            with tf.GradientTape() as tape:
                scores = _forward(layers, self.parameters, x)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=scores)
                loss = tf.reduce_mean(losses)
            values = list(self.parameters.values())
            for value, gradient in zip(values, tape.gradient(loss, values), strict=True):
                value.assign_sub(rate * gradient)
            return {"loss": loss}

        @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
        def read(self) -> dict[str, Any]:
            return {_key(n): v.read_value() for n, v in self.parameters.items()}

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[tf.TensorSpec(v.shape, tf.float32, name=_key(n)) for n, v in start.items()]
        )
        def write(self, *values: Any) -> dict[str, Any]:
            for variable, value in zip(self.parameters.values(), values, strict=True):
                variable.assign(value)
            return {"done": tf.constant(1)}

    trainer = Trainer()
    saved = str(given.folder / "saved_model")
    tf.saved_model.save(
        trainer, saved, signatures={n: getattr(trainer, n) for n in ("train", "read", "write")}
    )
    converter = tf.lite.TFLiteConverter.from_saved_model(saved)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    converter.experimental_enable_resource_variables = True
    file = given.folder / "model.tflite"
    file.write_bytes(converter.convert())
    return [file]


class LiteRT:
    def __init__(self, given: Given) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(given.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self._given = given
        self._interpreter = tf.lite.Interpreter(str(given.folder / "model.tflite"), num_threads=given.threads)
        self._interpreter.allocate_tensors()
        self._train = self._interpreter.get_signature_runner("train")
        self._start = _to_tensorflow(given)
        x, y = given.data()
        self._batch = {"x": _channels_last(x), "y": y}
        self._rate = np.float32(given.rate)
        self._write()

    def _write(self) -> None:
        write = self._interpreter.get_signature_runner("write")
        write(**{_key(n): v for n, v in self._start.items()})

    def step(self) -> float:
        return float(self._train(**self._batch, rate=self._rate)["loss"])

    def gradients(self) -> dict[str, Array]:
        self._write()
        self._train(**self._batch, rate=np.float32(1))
        new = self._interpreter.get_signature_runner("read")()
        return _to_pytorch(
            self._given, {n: v.astype(np.float64) - new[_key(n)] for n, v in self._start.items()}
        )


def _key(name: str) -> str:
    return "p_" + name.replace(".", "_")


def _channels_last(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def _forward(layers: tuple[dict[str, Any], ...], parameters: dict[str, Any], x: Any) -> Any:
    for layer in layers:
        kind = layer["kind"]
        if kind in ("convolution", "dense"):
            weight, bias = parameters[layer["weight"]], parameters[layer["bias"]]
            if kind == "dense":
                x = tf.matmul(x, weight) + bias
            else:
                # PyTorch pads by half of an odd kernel, which is SAME at stride 1.
                assert layer["padding"] == layer["kernel"] // 2
                x = tf.nn.bias_add(tf.nn.conv2d(x, weight, 1, "SAME"), bias)
        elif kind == "relu":
            x = tf.nn.relu(x)
        elif kind == "max_pool":
            x = tf.nn.max_pool2d(x, layer["kernel"], layer["kernel"], "VALID")
        else:
            x = tf.reshape(x, [x.shape[0], -1])
    return x


def _to_tensorflow(given: Given) -> dict[str, Array]:
    """PyTorch's weights as TensorFlow has them: [H, W, in, out] and [in, out], flattened channels last."""
    weights, found = given.weights(), {}
    for layer in given.layers:
        if "weight" not in layer:
            continue
        weight = weights[layer["weight"]]
        if layer["kind"] == "convolution":
            weight = weight.transpose(2, 3, 1, 0)
        else:
            weight = weight.reshape(len(weight), layer["channels"], -1).transpose(2, 1, 0)
            weight = weight.reshape(-1, weight.shape[-1])
        found[layer["weight"]] = np.ascontiguousarray(weight)
        found[layer["bias"]] = weights[layer["bias"]]
    return found


def _to_pytorch(given: Given, values: dict[str, Array]) -> dict[str, Array]:
    found = dict(values)
    for layer in given.layers:
        if "weight" not in layer:
            continue
        value = values[layer["weight"]]
        if layer["kind"] == "convolution":
            found[layer["weight"]] = value.transpose(3, 2, 0, 1)
        else:
            value = value.reshape(-1, layer["channels"], layer["outputs"]).transpose(2, 1, 0)
            found[layer["weight"]] = value.reshape(layer["outputs"], -1)
    return found


load = LiteRT
