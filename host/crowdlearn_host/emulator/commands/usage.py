"""Options of the phone's commands."""

import getopt


class UsageError(OSError):
    """Wrong options or arguments; the shell prints it as an error of the command."""

    def __init__(self, text: str) -> None:
        super().__init__(22, text)


def options(words: list[str], short: str) -> tuple[set[str], list[str]]:
    """Single-letter options without values, and the other words. Raises UsageError."""
    try:
        found, rest = getopt.gnu_getopt(words[1:], short)
    except getopt.GetoptError as error:
        raise UsageError(str(error)) from error
    return {name[1:] for name, _ in found}, rest
