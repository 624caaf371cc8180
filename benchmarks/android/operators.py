"""Read the operators of Android's ExecuTorch library from the library itself.

    python -m benchmarks.android.operators [--write]

Compares its list with `crowdlearn_device/program/android_operators.py`, which the allow list of programs is
made of; `--write` writes that file anew. Ends with exit code 1 if they differ, or the libraries of x86-64 and
ARM do.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from crowdlearn_device.program import android_operators

from .library import LIBRARIES, PACKAGE, VERSION, Missing, android_library

TEXT = '''"""The operators of Android's ExecuTorch library, as it lists them itself. This file is written by
`python -m benchmarks.android.operators --write`.
"""

ON_ANDROID = frozenset({{
{names}
}})  # fmt: skip
"""Names with overloads, of {package} {version}."""
'''


def written(names: frozenset[str]) -> str:
    """Return the text of the module that holds these names."""
    listed = " ".join(f'"{name}",' for name in sorted(names))
    filled = textwrap.fill(listed, 106, break_long_words=False, break_on_hyphens=False)
    lines = textwrap.indent(filled, "    ")
    return TEXT.format(names=lines, package=PACKAGE, version=VERSION)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.android.operators")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found: dict[str, frozenset[str]] = {}
    for name in LIBRARIES:
        try:
            found[name] = android_library(name).operators()
        except Missing as reason:
            print(f"not read: {name}: {reason}")
    if not found:
        return 1
    if len(set(found.values())) > 1:
        print("the libraries differ from each other: each has another list")
        return 1
    (names,) = set(found.values())
    if options.write:
        Path(android_operators.__file__).write_text(written(names))
        return 0
    for mark, some in (
        ("-", android_operators.ON_ANDROID - names),
        ("+", names - android_operators.ON_ANDROID),
    ):
        for name in sorted(some):
            print(mark, name)
    print(f"{len(names)} operators in {', '.join(found)}")
    return 0 if names == android_operators.ON_ANDROID else 1


if __name__ == "__main__":
    sys.exit(main())
