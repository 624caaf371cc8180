"""Patterns of file names in the phone's shell: `*`, `?` and `[...]`."""

import fnmatch

from crowdlearn_host.emulator.hardware.filesystem import Filesystem


def globbed(files: Filesystem, cwd: str, text: str, pattern: str) -> list[str]:
    """Return the paths that fit the pattern, or the text where none do, as POSIX has it."""
    if not any(char in pattern.replace("[[]", "").replace("[*]", "").replace("[?]", "") for char in "*?["):
        return [text]
    found = [""]
    for index, part in enumerate(pattern.split("/")):
        found = [
            path + ("/" if index else "") + name
            for path in found
            for name in _matches(files, cwd, path, part, index)
        ]
    return found or [text]


def _matches(files: Filesystem, cwd: str, path: str, part: str, index: int) -> list[str]:
    folder = (path or "/") if index else "."
    plain = part.replace("[[]", "[").replace("[*]", "*").replace("[?]", "?")
    if not part or not any(char in part for char in "*?["):
        return [plain]
    try:
        names = files.names(folder, cwd)
    except OSError:
        return []
    return [n for n in names if fnmatch.fnmatchcase(n, part) and n.startswith(".") == part.startswith(".")]


def escaped(text: str) -> str:
    """Return a pattern that fits this text only."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)
