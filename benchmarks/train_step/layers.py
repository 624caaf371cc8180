"""A network told layer by layer, for engines that are no readers of PyTorch or ONNX."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from benchmarks.models import Inverted, Residual

from .engine import Layer


class Untold(Exception):
    """A network has a layer for which there is no description."""


def described(model: nn.Module) -> list[Layer]:
    """The network's layers, in order; a layer of kind `sum` adds up the ends of its `paths`, lists of layers.

    Weights are named as in PyTorch. `channels` of a dense one is the number of those that were flattened,
    else 1. Raises Untold.
    """
    found = _Described()
    return list(found.of(model, ""))


class _Described:
    def __init__(self) -> None:
        self._channels = self._flattened = 1

    def of(self, module: nn.Module, name: str) -> Iterator[Layer]:
        inside = f"{name}." if name else ""
        names = {kind: inside + kind for kind, _ in module.named_parameters(recurse=False)}
        match module:
            case nn.Sequential():
                for child, layer in module.named_children():
                    yield from self.of(layer, inside + child)
            case Residual():
                paths = [list(self.of(getattr(module, n), inside + n)) for n in ("body", "shortcut")]
                yield from ({"kind": "sum", "paths": paths}, {"kind": "relu"})
            case Inverted():
                body = list(self.of(module.body, inside + "body"))
                yield from [{"kind": "sum", "paths": [body, []]}] if module.added else body
            case nn.Conv2d():
                self._channels = module.out_channels
                yield {
                    "kind": "convolution",
                    **names,
                    "inputs": module.in_channels,
                    "outputs": module.out_channels,
                    "kernel": module.kernel_size[0],
                    "stride": module.stride[0],
                    "padding": int(module.padding[0]),
                    "depthwise": module.groups > 1,
                }
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                dimensions = 4 if isinstance(module, nn.BatchNorm2d) else 2
                sizes = {"channels": module.num_features, "dimensions": dimensions}
                yield {"kind": "batch_norm", **names, **sizes, "eps": module.eps}
            case nn.Linear():
                sizes = {"inputs": module.in_features, "outputs": module.out_features}
                yield {"kind": "dense", **names, **sizes, "channels": self._flattened}
                self._flattened = 1
            case nn.MaxPool2d():
                yield {"kind": "max_pool", "kernel": module.kernel_size}
            case nn.AdaptiveAvgPool2d(output_size=1):
                yield {"kind": "mean"}
            case nn.Flatten():
                self._flattened = self._channels
                yield {"kind": "flatten"}
            case nn.ReLU() | nn.ReLU6():
                yield {"kind": type(module).__name__.lower()}
            case nn.Identity():
                pass
            case _:
                raise Untold(f"{name or 'it'} is a {type(module).__name__}")
