"""The loaders, by name."""

from __future__ import annotations

from typing import Any

from .base import Loader
from .hugging_face import HuggingFaceLoader
from .images import ImageLoader
from .table import CsvLoader
from .tensors import TensorLoader
from .text import TextLoader

LOADERS: dict[str, type[Loader[Any]]] = {
    loader.kind: loader for loader in (CsvLoader, ImageLoader, TextLoader, TensorLoader, HuggingFaceLoader)
}
"""All loaders, in the order of the help."""
