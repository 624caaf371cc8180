"""Lines of text: the next token of each position is learned, or the class of each line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from crowdlearn_device.platform.files import not_to_read

from crowdlearn_host.errors import ConfigError

from .base import Arrays, Encode, Items, Loader, Notes, check_size, class_numbers, whole_order
from .tokens import Long, Tokens, fitting, next_tokens

MAX_BYTES = 256 << 20
"""Bytes of a file of text."""


@dataclass(frozen=True)
class Text:
    """The tokens of a line or of a piece of the text, where they are from, and their class, if any."""

    place: str
    tokens: tuple[int, ...]
    label: str = ""


@dataclass(frozen=True)
class TextLoader(Loader[Items[Text]]):
    """A text in UTF-8, whose lines become rows of tokens."""

    kind: ClassVar[str] = "text"
    about: ClassVar[str] = "Lines of text, by a tokenizer.json; needs the extra text."
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)

    tokenizer: Annotated[Path, "The tokenizer's file, as Hugging Face's tokenizers writes it."]
    length: Annotated[int, "Tokens of a sample."] = 64
    layout: Annotated[
        Literal["lines", "stream", "classes"],
        "A sample is a line, or so many tokens of the whole text; or lines are CLASS, tab, text.",
    ] = "lines"
    long: Annotated[Long, "Lines with more tokens: refuse them, cut them, or drop them."] = "refuse"

    def read(self, place: Path, notes: Notes) -> Items[Text]:
        """Return the rows of tokens in a file. Raises ConfigError that names the line of a mistake."""
        if self.length < 2:
            raise ConfigError(f"--length {self.length} must be 2 or more")
        if why := not_to_read(place, MAX_BYTES):
            raise ConfigError(f"{place} {why}; convert a text, or a part of it")
        try:
            lines = place.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{place} is no text in UTF-8 ({error}); save it in UTF-8") from error
        tokens = Tokens(self.tokenizer, notes)
        found = self._stream(lines, place, tokens) if self.layout == "stream" else None
        found = self._lines(lines, place, tokens, notes) if found is None else found
        if not found:
            raise ConfigError(f"{place} holds no sample of 2 tokens or more; give more text")
        return Items(tuple(found))

    def encoder(self, train: Items[Text], notes: Notes) -> Encode[Items[Text]]:
        """Return what makes inputs int32 [N, length], and labels [N] or [N, length] of rows of tokens."""
        tokens = Tokens(self.tokenizer, notes)
        if self.layout == "classes":
            notes.classes = tuple(whole_order(sorted({text.label for text in train.items})))
            if len(notes.classes) < 2:
                raise ConfigError(f"all lines are of class {notes.classes[0]!r}; give two classes or more")

        def encode(texts: Items[Text], split: str) -> Arrays:
            items = texts.items
            check_size(len(items), self.length, 4, "the text")
            rows = [text.tokens for text in items]
            if self.layout == "classes":
                labels = [text.label for text in items]
                numbers = class_numbers(labels, notes.classes, lambda at: f"{split} data, {items[at].place}")
                return Arrays(tokens.filled(rows, self.length), numbers)
            # a row has one token more than it has positions: the last is only told
            seen = [row[:-1] for row in rows]
            return Arrays(tokens.filled(seen, self.length), next_tokens(rows, self.length + 1)[:, :-1])

        return encode

    def _stream(self, lines: list[str], place: Path, tokens: Tokens) -> list[Text]:
        """Return the whole text in rows of length + 1 tokens, each beginning with the last one's last."""
        row = [token for each in tokens([f"{line}\n" for line in lines]) for token in each]
        ends = range(self.length, len(row), self.length)
        return [
            Text(f"{place.name}, token {end - self.length}", tuple(row[end - self.length : end + 1]))
            for end in ends
        ]

    def _lines(self, lines: list[str], place: Path, tokens: Tokens, notes: Notes) -> list[Text]:
        """Return a row for every line that is not empty."""
        classes = self.layout == "classes"
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if empty := len(lines) - len(numbered):
            notes.say(f"{place.name}: {empty} empty lines are left out")
        labels, texts = [], []
        for number, line in numbered:
            label, tab, text = line.partition("\t")
            if classes and not (tab and label.strip() and text.strip()):
                raise ConfigError(f"{place}, line {number}: expected CLASS, tab, text; correct it")
            labels.append(label.strip() if classes else "")
            texts.append(text if classes else line)
        where = [f"{place}, line {number}" for number, _ in numbered]
        kept = fitting(tokens(texts), self.length + (not classes), self.long, lambda at: where[at], notes)
        least = 1 if classes else 2
        if short := sum(len(row) < least for _, row in kept):
            notes.say(f"{place.name}: {short} lines have fewer than {least} tokens and are left out")
        return [Text(where[at], tuple(row), labels[at]) for at, row in kept if len(row) >= least]
