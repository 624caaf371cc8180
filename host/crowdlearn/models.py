"""Models by name: `mlp:784-100-10`, the paper's, or `file.py:function`; and a training step of one,
`trial_of`, that a phone can be tried with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazily

if TYPE_CHECKING:
    from crowdlearn_host.models.named import build_model, paper_cnn, paper_mlp
    from crowdlearn_host.runs.networks import trial_of

__all__ = ["build_model", "paper_cnn", "paper_mlp", "trial_of"]

__getattr__, __dir__ = lazily(__name__, __file__)
