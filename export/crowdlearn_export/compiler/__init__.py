"""From tensor functions to one ExecuTorch program."""

import crowdlearn_export.executorch_quietly  # noqa: F401
