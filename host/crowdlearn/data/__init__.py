"""Samples: loaders that make a data folder of files as people have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazily

if TYPE_CHECKING:
    from crowdlearn_host.loaders.base import Arrays, Encode, Items, Loader, Notes
    from crowdlearn_host.loaders.conversion import Conversion, convert
    from crowdlearn_host.loaders.hugging_face import HuggingFaceLoader
    from crowdlearn_host.loaders.images import ImageLoader
    from crowdlearn_host.loaders.table import CsvLoader
    from crowdlearn_host.loaders.tensors import TensorLoader
    from crowdlearn_host.loaders.text import TextLoader

__all__ = [
    "Arrays",
    "Conversion",
    "CsvLoader",
    "Encode",
    "HuggingFaceLoader",
    "ImageLoader",
    "Items",
    "Loader",
    "Notes",
    "TensorLoader",
    "TextLoader",
    "convert",
]

__getattr__, __dir__ = lazily(__name__, __file__)
