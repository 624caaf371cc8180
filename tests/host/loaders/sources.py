"""Sources of samples, one for each loader, as people have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_host.loaders.base import Loader
from crowdlearn_host.loaders.hugging_face import HuggingFaceLoader
from crowdlearn_host.loaders.images import ImageLoader
from crowdlearn_host.loaders.table import CsvLoader
from crowdlearn_host.loaders.tensors import TensorLoader
from crowdlearn_host.loaders.text import TextLoader

ROWS = 20


@dataclass(frozen=True)
class Source:
    """A source of ROWS samples, its loader, and its damaged twin with a word of the refusal."""

    loader: Loader[Any]
    path: Path
    damaged: Path
    refusal: str


def table(folder: Path) -> Source:
    lines = [f"{i % 7},{'red' if i % 2 else 'blue'},{'yes' if i % 3 else 'no'}" for i in range(ROWS)]
    (folder / "t.csv").write_text("\n".join(["size,colour,bought", *lines]))
    (folder / "bad.csv").write_text("\n".join(["size,colour,bought", *lines, "1,red"]))
    return Source(CsvLoader(target="bought"), folder / "t.csv", folder / "bad.csv", "line 22: 2 cells")


def images(folder: Path) -> Source:
    image = pytest.importorskip("PIL.Image")
    for i in range(ROWS):
        for root in ("good", "bad"):
            path = folder / root / ("cat" if i % 2 else "dog") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.new("L", (5, 4), i).save(path)
    (folder / "bad/cat/x.png").write_bytes(path.read_bytes()[:-30])
    return Source(ImageLoader(), folder / "good", folder / "bad", "x.png")


def text(folder: Path) -> Source:
    lines = [f"the cat {'sat' if i % 2 else 'ran'} on mat {i % 5}" for i in range(ROWS)]
    (folder / "t.txt").write_text("\n".join(lines))
    (folder / "bad.txt").write_text("\n".join([*lines, "the cat " * 9]))
    loader = TextLoader(tokenizer=tokenizer(folder), length=8)
    return Source(loader, folder / "t.txt", folder / "bad.txt", "line 21 has 18 tokens")


def tokenizer(folder: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "the", "cat", "sat", "ran", "on", "mat", *"01234"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def tensors(folder: Path) -> Source:
    import torch

    x, y = torch.randn(ROWS, 3, 2), torch.arange(ROWS) % 4
    torch.save({"inputs": x, "labels": y}, folder / "t.pt")
    torch.save({"inputs": x, "labels": y[:-1]}, folder / "bad.pt")
    return Source(TensorLoader(), folder / "t.pt", folder / "bad.pt", "as many of each")


def hugging_face(folder: Path) -> Source:
    arrow = pytest.importorskip("pyarrow")
    features = {
        "v": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"},
        "label": {"names": ["no", "yes"], "_type": "ClassLabel"},
        "text": {"dtype": "string", "_type": "Value"},
        "picture": {"_type": "Image"},
    }
    values = [[float(i), 1.0] for i in range(ROWS)]
    labels = [i % 2 for i in range(ROWS)]
    texts = ["the cat sat"] * ROWS
    pictures = [{"bytes": _png(i), "path": None} for i in range(ROWS)]
    for name, v in (("good", values), ("bad", [*values[:-1], None])):
        columns = {"v": v, "label": labels, "text": texts, "picture": pictures}
        saved(folder / name, arrow.table(columns), features)
    return Source(HuggingFaceLoader("v", "label"), folder / "good", folder / "bad", "no value in 1 of")


def saved(folder: Path, table: Any, features: dict[str, Any]) -> None:
    """Write a table as `save_to_disk` of datasets 5 does."""
    import pyarrow as arrow

    folder.mkdir(parents=True)
    name = "data-00000-of-00001.arrow"
    with arrow.OSFile(str(folder / name), "wb") as sink, arrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}], "_split": None}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def _png(shade: int) -> bytes:
    image = pytest.importorskip("PIL.Image")
    buffer = BytesIO()
    image.new("RGB", (3, 2), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


SOURCES: dict[str, Callable[[Path], Source]] = {
    "csv": table,
    "images": images,
    "text": text,
    "tensors": tensors,
    "hugging-face": hugging_face,
}


def arrays(folder: Path, split: str) -> tuple[Any, Any]:
    """Return inputs and labels of a split that was written."""
    with np.load(folder / f"{split}.npz") as held:
        return held["inputs"], held["labels"]
