"""Options of the phone's commands."""

import getopt


class UsageError(OSError):
    """An error of wrong options or arguments; the shell prints it as an error of the command."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(22, text)
        self.exit_code = exit_code


def options(words: list[str], short: str, *, wrong: int = 1) -> tuple[set[str], list[str]]:
    """Return single-letter options without values, and the other words.

    Raises UsageError, whose exit code is `wrong`, for any other option.
    """
    found, rest = valued(words, short, wrong=wrong)
    return set(found), rest


def valued(words: list[str], short: str, *, wrong: int = 1) -> tuple[dict[str, str], list[str]]:
    """Return single-letter options with their values, "" for those that take none, and the other words."""
    try:
        found, rest = getopt.gnu_getopt(words[1:], short)
    except getopt.GetoptError as error:
        raise UsageError(str(error), wrong) from error
    return {name[1:]: value for name, value in found}, rest


def operands(words: list[str], least: int, most: int | None = None) -> list[str]:
    """Return the words after the command. Raises UsageError for options, and if they are too few or many."""
    _, rest = options(words, "")
    if len(rest) < least:
        raise UsageError("needs more arguments")
    if most is not None and len(rest) > most:
        raise UsageError(f"unexpected {rest[most]}")
    return rest
