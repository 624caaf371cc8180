"""MNN 3.6: Alibaba's on-device trainer. The network is built from MNN's own layers."""

from __future__ import annotations

from typing import Any

import MNN.expr as F
import MNN.nn as nn
import MNN.optim as optim
import numpy as np

from ..engine import Array, Given


class _Chain(nn.Module):  # type: ignore[misc]
    def __init__(self, layers: tuple[dict[str, Any], ...]) -> None:
        super().__init__()
        self._layers = layers
        for i, layer in enumerate(layers):
            if layer["kind"] == "convolution":
                padding = [layer["padding"]] * 2
                size = [layer["kernel"]] * 2
                made = nn.conv(
                    layer["inputs"],
                    layer["outputs"],
                    size,
                    padding=padding,
                    padding_mode=F.Padding_Mode.CAFFE,
                )
            elif layer["kind"] == "dense":
                made = nn.linear(layer["inputs"], layer["outputs"])
            else:
                continue
            setattr(self, f"layer{i}", made)

    def forward(self, x: Any) -> Any:
        for i, layer in enumerate(self._layers):
            if layer["kind"] == "relu":
                x = F.relu(x)
            elif layer["kind"] == "max_pool":
                x = F.max_pool(x, [layer["kernel"]] * 2, [layer["kernel"]] * 2)
            elif layer["kind"] == "flatten":
                x = F.reshape(F.convert(x, F.NCHW), [0, -1])
            else:
                x = getattr(self, f"layer{i}").forward(x)
        return F.softmax(x, 1)


class Mnn:
    def __init__(self, given: Given) -> None:
        F.set_thread_number(given.threads)
        F.lazy_eval(True)  # otherwise parameters never change
        self._start = given.weights()
        # MNN lists parameters from the last layer to the first, each bias before its weight.
        self._names = list(reversed(self._start))
        self._net = _Chain(given.layers)
        self._net.train(True)
        self._classes = given.layers[-1]["outputs"]
        x, y = given.data()
        self._x, self._y = x, y.astype(np.int32)
        self._set(self._start)
        self._sgd = optim.SGD(self._net, given.rate, 0.0, 0.0)

    def _set(self, weights: dict[str, Array]) -> None:
        # Written in place: parameters that are replaced would no longer be trained.
        for name, parameter in zip(self._names, self._net.parameters, strict=True):
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
        found = [p.read() for p in self._net.parameters]
        return {
            name: self._start[name].astype(np.float64) - new.reshape(self._start[name].shape)
            for name, new in zip(self._names, found, strict=True)
        }


load = Mnn
