"""Text as tokens, by a tokenizer's file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from crowdlearn_device.protocol.targets import IGNORED
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError

from .base import Notes, extra

MOST_TOKENS = 1 << 24
"""A device holds samples in float32, which tells whole numbers apart up to there."""
PADS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>")

Long = Literal["refuse", "cut", "drop"]


class Tokens:
    """Texts as rows of tokens, by the file of a tokenizer (Hugging Face's tokenizer.json).

    Raises ConfigError if the file cannot be read.
    """

    def __init__(self, path: Path, notes: Notes) -> None:
        tokenizer: Any = extra("tokenizers", "tokenizers", "text").Tokenizer
        if not path.is_file():
            raise ConfigError(f"--tokenizer {path} is no file; name a tokenizer.json")
        try:
            self._tokenizer = tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises Exception itself
            raise ConfigError(
                f"--tokenizer {path} cannot be read ({error}); name a tokenizer.json"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.size: int = self._tokenizer.get_vocab_size()
        if self.size > MOST_TOKENS:
            raise ConfigError(f"{path} has {self.size} tokens; at most {MOST_TOKENS} are distinguished")
        found = (self._tokenizer.token_to_id(name) for name in PADS)
        self.pad: int = next((token for token in found if token is not None), 0)
        notes.say(f"{path.name}: {self.size} tokens, rows are filled up with token {self.pad}")

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def filled(self, rows: Sequence[Sequence[int]], length: int) -> NDArray[np.int32]:
        """Return rows of tokens as int32 [N, length], filled up behind."""
        found = np.full((len(rows), length), self.pad, np.int32)
        for at, row in enumerate(rows):
            found[at, : len(row)] = row
        return found


def next_tokens(rows: Sequence[Sequence[int]], length: int) -> NDArray[np.int64]:
    """Return int64 [N, length], at each position the token after it; IGNORED behind the last."""
    found = np.full((len(rows), length), IGNORED, np.int64)
    for at, row in enumerate(rows):
        found[at, : len(row) - 1] = row[1:]
    return found


def fitting(
    rows: Sequence[list[int]], most: int, long: Long, where: Callable[[int], str], notes: Notes
) -> list[tuple[int, list[int]]]:
    """Return rows of at most so many tokens, each with its place; `long` says what happens to longer ones.

    Raises ConfigError with `where` of the first, counted from 0.
    """
    too_long = [at for at, row in enumerate(rows) if len(row) > most]
    if too_long and long == "refuse":
        at = too_long[0]
        raise ConfigError(
            f"{where(at)} has {len(rows[at])} tokens, at most {most} fit, and {len(too_long) - 1} others are "
            "too long as well; give --length, --long cut, or --long drop"
        )
    if too_long:
        done = "cut" if long == "cut" else "left out"
        notes.say(f"{len(too_long)} of {len(rows)} texts have more than {most} tokens and are {done}")
    return [(at, row[:most]) for at, row in enumerate(rows) if len(row) <= most or long == "cut"]
