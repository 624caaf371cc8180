"""Slice programs: exported, compared with float64 autograd, cached."""

import crowdlearn_export.executorch_quietly  # noqa: F401
