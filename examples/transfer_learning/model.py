"""A pre-trained, frozen feature extractor, and a head that learns."""

import os
from pathlib import Path

import torch
from torch import nn

FEATURES = 96


def features() -> nn.Module:
    """Return the feature extractor: inputs float32 [N, 1, 8, 8], features float32 [N, 96]."""
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 24, 3, stride=2), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten()),
    )


def build() -> nn.Module:
    """Return the network to train: features as they were learned before, and a new head of five classes."""
    extractor = features()
    extractor.load_state_dict(torch.load(Path(os.environ["FEATURES"]), weights_only=True))
    extractor.requires_grad_(False).eval()  # frozen as in PyTorch: parameters, and batch norm's statistics
    return nn.Sequential(extractor, nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 5))
