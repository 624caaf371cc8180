"""MNN 3.6: Alibaba's on-device trainer. The network is built from MNN's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import MNN.expr as F
import MNN.nn as nn
import MNN.optim as optim
import numpy as np

from benchmarks.train_step.engine import Array, Given, Layer, every

RUNNING = 0.9
"""The share of a running statistic that a step keeps."""


class _Network(nn.Module):  # type: ignore[misc]
    def __init__(self, layers: tuple[Layer, ...]) -> None:
        super().__init__()
        self._layers = layers
        self.named: dict[str, Any] = {}
        for layer in every(layers):
            if layer["kind"] not in ("convolution", "dense", "batch_norm"):
                continue
            made = _made(layer)
            setattr(self, _attribute(layer), made)
            # MNN lists a bias before its weight, and a gain before its shift and the running statistics.
            kinds = ("weight", "bias") if layer["kind"] == "batch_norm" else ("bias", "weight")
            parameters = dict(zip(kinds, made.parameters, strict=False))
            self.named |= {layer[kind]: parameters[kind] for kind in kinds if kind in layer}

    def forward(self, x: Any) -> Any:
        return F.softmax(self._through(self._layers, x), 1)

    def _through(self, layers: Sequence[Layer], x: Any) -> Any:
        for layer in layers:
            match layer["kind"]:
                case "relu":
                    x = F.relu(x)
                case "relu6":
                    x = F.relu6(x)
                case "max_pool":
                    x = F.max_pool(x, [layer["kernel"]] * 2, [layer["kernel"]] * 2)
                case "mean":
                    # Its reduce_mean passes no gradient on.
                    x = F.avg_pool(x, x.shape[2:], x.shape[2:])
                case "sum":
                    first, second = (self._through(path, x) for path in layer["paths"])
                    x = first + second
                case "flatten":
                    x = F.reshape(F.convert(x, F.NCHW), [0, -1])
                case _:
                    x = getattr(self, _attribute(layer)).forward(x)
        return x


def _made(layer: Layer) -> Any:
    """Convolutions have biases here, whether or not the network's have."""
    if layer["kind"] == "dense":
        return nn.linear(layer["inputs"], layer["outputs"])
    if layer["kind"] == "batch_norm":
        return nn.batch_norm(layer["channels"], layer["dimensions"], RUNNING, layer["eps"])
    return nn.conv(
        layer["inputs"],
        layer["outputs"],
        [layer["kernel"]] * 2,
        stride=[layer["stride"]] * 2,
        padding=[layer["padding"]] * 2,
        padding_mode=F.Padding_Mode.CAFFE,
        depthwise=layer["depthwise"],
    )


def _attribute(layer: Layer) -> str:
    return layer["weight"].replace(".", "_")


class Mnn:
    def __init__(self, given: Given) -> None:
        F.set_thread_number(given.threads)
        F.lazy_eval(True)  # otherwise parameters never change
        self._start = given.weights()
        self._net = _Network(given.layers)
        self._net.train(True)
        self._classes = given.layers[-1]["outputs"]
        x, y = given.data()
        self._x, self._y = x, y.astype(np.int32)
        self._set(self._start)
        self._sgd = optim.SGD(self._net, given.rate, 0.0, 0.0)

    def _set(self, weights: dict[str, Array]) -> None:
        # Written in place: parameters that are replaced would no longer be trained.
        for name, parameter in self._net.named.items():
            parameter.write(np.ascontiguousarray(weights[name]).reshape(parameter.shape))

    def step(self) -> float:
        x = F.const(self._x, list(self._x.shape), F.NCHW)
        y = F.const(self._y, list(self._y.shape), F.NCHW, F.int)
        target = F.one_hot(y, self._classes, 1.0, 0.0)
        loss = nn.loss.cross_entropy(self._net.forward(x), target)
        value = float(loss.read())  # read later it would be computed again, at the new weights
        self._sgd.step(loss)
        return value

    def gradients(self) -> dict[str, Array]:
        self._set(self._start)
        self._sgd.learning_rate, rate = 1.0, self._sgd.learning_rate
        self.step()
        self._sgd.learning_rate = rate
        return {
            name: start.astype(np.float64) - self._net.named[name].read().reshape(start.shape)
            for name, start in self._start.items()
        }


load = Mnn
