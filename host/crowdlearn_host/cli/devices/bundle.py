"""`crowdlearn bundle`: make the device runtime for phones without the app, before a run needs it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from crowdlearn_host.bundle import ABIS, make_bundle
from crowdlearn_host.bundle.packages import repin
from crowdlearn_host.bundle.pinned_packages import DEFAULT, PinnedPackages
from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import size, terminal
from crowdlearn_host.common.home import cache_home


def bundle(
    abi: Annotated[
        str, typer.Option(help=f"Processor architecture of the phones: {', '.join(ABIS)}.")
    ] = "arm64-v8a",
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for bundles and packages [default: bundles in the cache folder]."),
    ] = None,
    pinned: Annotated[
        Path | None, typer.Option(help="Use the package versions and hashes in this file.")
    ] = None,
    repinned: Annotated[
        Path | None,
        typer.Option(
            "--repin", help="Write the current package versions and hashes to this file, and use them."
        ),
    ] = None,
    mirror: Annotated[str | None, typer.Option(help="Debian mirror [default: this computer's].")] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder with a root file system for the ABI, with Python, in place of Debian's packages."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the bundle that `crowdlearn train` copies to phones without the app: Python with libraries."""
    folder = cache or cache_home() / "bundles"
    chosen = PinnedPackages.load(pinned or DEFAULT)
    started = time.monotonic()
    with document(as_json) as tell:
        with Working(terminal(stderr=True), f"making the bundle for {abi}") as working:
            if repinned is not None:
                working.step("looking for today's packages")
                chosen = repin(chosen, list(ABIS), folder, mirror)
                repinned.write_text(chosen.to_json())
            made = make_bundle(abi, folder, pinned=chosen, mirror=mirror, root=root, tell=working.step)
        seconds = time.monotonic() - started
        tell(
            {
                "abi": abi,
                "bytes": made.size,
                "bytes_sent": made.python.packed + made.device.packed,
                "files": made.python.files + made.device.files,
                "page_size": made.python.page_size,
                "python": made.python_version,
                "archives": [str(made.python.path), str(made.device.path)],
                "sha256": [made.python.digest, made.device.digest],
                "seconds": seconds,
            }
        )
    if not as_json:
        typer.echo(
            f"bundle for {abi}: Python {made.python_version}, {size(made.size)} on the phone, "
            f"{size(made.python.packed + made.device.packed)} to send once; "
            f"pages up to {made.python.page_size // 1024} KiB; {seconds:.1f} s"
        )
        typer.echo(f"{made.python.path}\n{made.device.path}")
