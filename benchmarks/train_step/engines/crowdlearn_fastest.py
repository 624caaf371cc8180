"""Ours, in a program of `memory = "fastest"`."""

from __future__ import annotations

from functools import partial

from .crowdlearn import Compiled

load = partial(Compiled, program="fastest")
