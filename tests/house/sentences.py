"""Rules for sentences, wherever they stand: their length, and things that act as persons."""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_WORDS = 25
"""Words of a sentence; code between backquotes is one word."""

THINGS = (
    "adb|Android|battery|daemon|device|dominator|file|fleet|follower|group|heir|helper|holder|host|hub|ledger|"
    "manifest|member|message|page|peer|phone|piece|plan|planner|process|program|provider|receiver|relay|run|"
    "seat|sender|server|spare|table"
)
DOINGS = (
    "asks?|asked|believes?|gives?|gave|knocks?|knows?|knew|promises?|promised|says?|said|speaks?|tells?|told|"
    "thinks?|thought|wants?|wanted"
)
"""What persons do. Things send, receive, hold, store, need, refuse, fail and report."""
BETWEEN = "that|which|itself|never|already|now|only|also"
AS_PERSONS = re.compile(
    rf"\b(?:{THINGS})s? (?:(?:{BETWEEN}) )?(?:{DOINGS})\b|\b(?:{THINGS})s?,? whom?\b", re.IGNORECASE
)
IN_WORDS_OF_ITS_TRADE = re.compile(r"\w+ speaks? (?:\w+ ){0,4}protocol", re.IGNORECASE)
SOMEBODY = re.compile(
    r"\b(?:nobody|somebody|everybody|anybody|whoever|everyone|someone|anyone|no one)\b", re.IGNORECASE
)
CODE = re.compile(r"``?[^`]+``?")
PEOPLE = re.compile(r"nobody(?: else)? has (?:run|read|built|tried|measured|reviewed)\b", re.IGNORECASE)
"""What people have not done yet. Other pronouns of this kind stand for devices, or can be left out."""


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text: parts of paragraphs and lists, up to a stop, a colon or a semicolon.

    Lines with columns, as in a table of files, are left out.
    """
    for paragraph in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) ", text):
        prose = " ".join(line for line in paragraph.split("\n") if not re.search(r"\S {3,}\S", line))
        joined = CODE.sub("code", " ".join(prose.split()))
        yield from re.split(r"(?<=[.;:!?])[)\"'*_]*\s+", joined)


def words(sentence: str) -> int:
    """Count the words of a sentence."""
    return sum(1 for word in sentence.split() if re.search(r"\w", word))


def too_long(text: str) -> Iterator[str]:
    """Yield every sentence of more than MOST_WORDS words, with their number."""
    for sentence in sentences(text):
        if words(sentence) > MOST_WORDS:
            yield f"{words(sentence)} words: {sentence}"


def persons(text: str) -> Iterator[str]:
    """Yield every place where a thing acts as a person, or a pronoun for persons stands for things."""
    text = CODE.sub("code", " ".join(text.split()))
    for found in AS_PERSONS.finditer(text):
        if not IN_WORDS_OF_ITS_TRADE.match(text, found.start()):
            yield found.group()
    for found in SOMEBODY.finditer(text):
        if not PEOPLE.match(text, found.start()):
            yield text[found.start() :][:40]
