"""A user's own model, loaded from a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.models.trainable import trainable

MODEL = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn

@dataclass
class Widths:
    hidden: int = 5

def net():
    return nn.Linear(Widths().hidden, 2)
"""


def test_a_model_file_may_define_dataclasses(tmp_path: Path):
    (tmp_path / "net.py").write_text(MODEL)
    assert build_model(f"{tmp_path}/net.py:net", 0).in_features == 5


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def net(): raise SystemExit(7)", "net' failed: .* its code ends the program .SystemExit: 7"),
        ("import sys\nsys.exit()", "its code ends the program"),
        (
            "def net():\n    m = nn.Linear(2, 2)\n    m.bias.data[0] = float('inf')\n    return m",
            "bias is not",
        ),
    ],
)
def test_a_model_that_ends_the_program_or_begins_without_numbers_is_refused(
    tmp_path: Path, code: str, told: str
) -> None:
    (tmp_path / "net.py").write_text(f"from torch import nn\n{code}\n")
    with pytest.raises(ConfigError, match=told):
        build_model(f"{tmp_path}/net.py:net", 0)


def test_a_model_file_that_fails_leaves_no_module(tmp_path: Path):
    (tmp_path / "net.py").write_text(MODEL + "\n1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(ConfigError, match="division by zero"):
        build_model(f"{tmp_path}/net.py:net", 0)
    assert not [name for name in set(sys.modules) - before if "net.py" in name]


TASTE = """
import torch
from torch import nn

class Taste(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items, self.head = nn.Embedding(9, 4), nn.Embedding(9, 4), nn.Linear(8, 2)

    def forward(self, user, item):
        return self.head(torch.cat([self.users(user), self.items(item)], 1))
"""


def test_a_model_of_two_inputs_takes_them_as_rows_of_a_sample(tmp_path: Path) -> None:
    (tmp_path / "taste.py").write_text(TASTE)
    model = build_model(f"{tmp_path}/taste.py:Taste", 0)
    samples = torch.tensor([[1, 2], [3, 4], [0, 8]])
    joined = torch.cat([model.users(samples[:, 0]), model.items(samples[:, 1])], 1)
    assert torch.equal(model(samples), model.head(joined))
    assert trainable(model, make_loss("cross_entropy"), torch.zeros(2, 2), "taste", pieces=1).takes_codes
    with pytest.raises(ValueError, match=r"takes 2 inputs \(user, item\), samples have 3 rows"):
        model(torch.zeros(4, 3, dtype=torch.int64))
