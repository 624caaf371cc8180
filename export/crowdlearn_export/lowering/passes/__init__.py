"""Passes over the whole traced graph."""

import crowdlearn_export.executorch_quietly  # noqa: F401
