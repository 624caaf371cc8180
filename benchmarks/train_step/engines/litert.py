"""LiteRT (TensorFlow Lite) as its training guide has it: a `train` signature with Flex operators."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.train_step.engine import Array, Given, Layer, every


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


def _forward(layers: Sequence[Layer], parameters: dict[str, Any], x: Any) -> Any:
    for layer in layers:
        match layer["kind"]:
            case "convolution":
                x = _convolved(layer, parameters[layer["weight"]], x)
                if "bias" in layer:
                    x = tf.nn.bias_add(x, parameters[layer["bias"]])
            case "dense":
                x = tf.matmul(x, parameters[layer["weight"]]) + parameters[layer["bias"]]
            case "batch_norm":
                x = _normalised(layer, parameters[layer["weight"]], parameters[layer["bias"]], x)
            case "relu":
                x = tf.nn.relu(x)
            case "relu6":
                x = tf.nn.relu6(x)
            case "max_pool":
                x = tf.nn.max_pool2d(x, layer["kernel"], layer["kernel"], "VALID")
            case "mean":
                x = tf.reduce_mean(x, [1, 2])
            case "sum":
                first, second = (_forward(path, parameters, x) for path in layer["paths"])
                x = first + second
            case "flatten":
                x = tf.reshape(x, [x.shape[0], -1])
            case kind:
                raise NotImplementedError(f"{kind} in LiteRT")
    return x


def _convolved(layer: Layer, weight: Any, x: Any) -> Any:
    padding, stride = layer["padding"], layer["stride"]
    same = stride == 1 and padding == layer["kernel"] // 2
    if padding and not same:  # with a stride, SAME pads less on the left than PyTorch
        x = tf.pad(x, [[0, 0], [padding] * 2, [padding] * 2, [0, 0]])
    how = "SAME" if same else "VALID"
    if layer["depthwise"]:
        return tf.nn.depthwise_conv2d(x, weight, [1, stride, stride, 1], how)
    return tf.nn.conv2d(x, weight, stride, how)


def _normalised(layer: Layer, gain: Any, shift: Any, x: Any) -> Any:
    """By the statistics of the batch; running ones, which the step does not need, are not kept."""
    if len(x.shape) == 4:
        return tf.compat.v1.nn.fused_batch_norm(x, gain, shift, epsilon=layer["eps"], is_training=True)[0]
    mean, variance = tf.nn.moments(x, [0])
    return tf.nn.batch_normalization(x, mean, variance, shift, gain, layer["eps"])


def _to_tensorflow(given: Given) -> dict[str, Array]:
    """PyTorch's parameters as TensorFlow has them: [H, W, in, out], depthwise [H, W, in, 1], dense [in, out].

    Channels that were flattened come last.
    """
    found = given.weights()
    for layer in every(given.layers):
        if layer["kind"] == "convolution":
            weight = found[layer["weight"]].transpose(2, 3, *((0, 1) if layer["depthwise"] else (1, 0)))
        elif layer["kind"] == "dense":
            weight = found[layer["weight"]]
            weight = weight.reshape(len(weight), layer["channels"], -1).transpose(2, 1, 0)
            weight = weight.reshape(-1, weight.shape[-1])
        else:
            continue
        found[layer["weight"]] = np.ascontiguousarray(weight)
    return found


def _to_pytorch(given: Given, values: dict[str, Array]) -> dict[str, Array]:
    found = dict(values)
    for layer in every(given.layers):
        if layer["kind"] == "convolution":
            order = (2, 3, 0, 1) if layer["depthwise"] else (3, 2, 0, 1)
            found[layer["weight"]] = values[layer["weight"]].transpose(order)
        elif layer["kind"] == "dense":
            value = (
                values[layer["weight"]].reshape(-1, layer["channels"], layer["outputs"]).transpose(2, 1, 0)
            )
            found[layer["weight"]] = value.reshape(layer["outputs"], -1)
    return found


load = LiteRT
