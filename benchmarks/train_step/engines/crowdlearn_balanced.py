"""Ours, in a program of `memory = "balanced"`."""

from __future__ import annotations

from functools import partial

from .crowdlearn import Compiled

load = partial(Compiled, program="balanced")
