"""Modules compiled before they are on a phone: there a first start would take most of a minute for it."""

import platform
import subprocess
import tempfile
from pathlib import Path

from crowdlearn_host.bundle.tree import LOADER, Files
from crowdlearn_host.errors import FleetError

HERE = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}.get(platform.machine(), "")
"""The ABI whose programs this computer runs itself, "" where there is none."""


def write_tree(files: Files, folder: Path) -> None:
    """Write files below a folder; all of them may be executed."""
    for inner, content in files.items():
        path = folder / inner
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)


def compiled(files: Files, interpreter: Files, python: str) -> Files:
    """Return the files, with byte code in place of every module, as `interpreter` compiles it: a Python of
    that version that this computer can run. Byte code is the same on all processors, and half as large.

    Modules that it cannot compile are left as they are. Raises FleetError if it does not run.
    """
    with tempfile.TemporaryDirectory(prefix="crowdlearn-") as name:
        own, tree = Path(name, "python"), Path(name, "tree")
        write_tree(interpreter, own)
        write_tree({path: content for path, content in files.items() if path.endswith(".py")}, tree)
        program = [
            str(own / LOADER),
            "--library-path",
            str(own / "lib"),
            str(own / "bin" / f"python{python}"),
        ]
        # Unchecked: on a phone nobody edits them, and looking at every source takes a start its time.
        options = ["-q", "-q", "-b", "--invalidation-mode", "unchecked-hash", "-s", str(tree)]
        # The exit code is that of the worst module: what could not be compiled is simply not there.
        done = subprocess.run(
            [*program, "-I", "-m", "compileall", *options, str(tree)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        made = {path.relative_to(tree).as_posix(): path.read_bytes() for path in sorted(tree.rglob("*.pyc"))}
    if not made:
        raise FleetError(f"the bundle's own Python does not run here: {done.stderr.strip()[-300:]}")
    return {path: content for path, content in files.items() if f"{path}c" not in made} | made
