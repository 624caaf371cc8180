"""Silence of libraries below the exporter. The caller's warning filters, log levels and environment stay."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

SKIPS_KERNELS = "TORCHAO_FORCE_SKIP_LOADING_SO_FILES"
LOGGERS = ("torchao", "torch.utils._pytree", "torch.onnx._internal.exporter._registration")


@contextmanager
def quietly() -> Iterator[None]:
    """Hide what no user of ours could act on: kernels of torchao for other machines that fail to load, and
    parts of torch that announce their end, or miss torchvision. So is the slowness of vmap hidden.
    """
    loggers = [(logger, logger.level) for logger in map(logging.getLogger, LOGGERS)]
    environment = dict(os.environ)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"copyreg|torch\.")
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        os.environ.setdefault(SKIPS_KERNELS, "1")
        for logger, _ in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in loggers:
                logger.setLevel(level)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
