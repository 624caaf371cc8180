"""Networks of a few hundred weights for 8 x 8 images: what else a slice may hold beside dense layers."""

from __future__ import annotations

from crowdlearn_host.models.named import mlp
from torch import Tensor, nn


def transferred() -> nn.Module:
    """Dense layers for transfer learning: the first rests with its batch norm, the second learns all but its
    weights.
    """
    model = mlp((64, 16, 8, 10))
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight"):
        model.get_parameter(name).requires_grad_(False)
    norm = model.get_submodule("1").eval()
    nn.init.uniform_(norm.get_buffer("running_mean"), -0.5, 0.5)
    nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 2.0)
    return model


def convolutional() -> nn.Module:
    """Two convolutions with batch norm and pooling; the maps' pixels enter a dense layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten()),
        nn.Linear(32, 10),
    )


def pretrained() -> nn.Module:
    """The same, its first convolution frozen and the batch norm behind it in evaluation mode."""
    model = convolutional()
    model.get_submodule("0").requires_grad_(False)
    norm = model.get_submodule("1").requires_grad_(False).eval()
    nn.init.uniform_(norm.get_buffer("running_var"), 0.05, 0.2)
    return model


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU6())
        self.mix = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = nn.functional.relu(x + self.mix(self.depthwise(x)))
        return self.head(x.mean((2, 3)))


def residual() -> nn.Module:
    """A stem, then a depthwise and a 1 x 1 convolution whose result is added to what they began with."""
    return _Residual()
