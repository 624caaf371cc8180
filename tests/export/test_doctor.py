"""The doctor tells what a model can do before it is exported."""

import torch
from crowdlearn_export.doctor import diagnose
from torch import nn


def test_a_sliceable_network_is_found_healthy():
    report = diagnose(
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
        torch.randn(4, 6),
        torch.arange(4) % 3,
    )
    assert not report.slices
    assert all(module.trains for module in report.modules)
    assert report.gradient_error is not None
    assert report.gradient_error <= 1e-5
    assert report.arena_bytes > 0


def test_the_module_that_cannot_be_trained_is_named():
    model = nn.Sequential(nn.ConvTranspose2d(1, 1, 2), nn.Flatten(), nn.Linear(25, 3))
    report = diagnose(model, torch.randn(4, 1, 4, 4), torch.arange(4) % 3)
    assert [m.name for m in report.modules if not m.trains] == ["0"]
    assert "upsampling" in report.compiles
    assert report.slices
