"""A user's own model, loaded from a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.named import build_model

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
