"""Fuzz one target in this process: `python -m benchmarks.fuzz.worker TARGET CORPUS SECONDS`."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

MAX_MEGABYTES = 2048

with atheris.instrument_imports(include=["crowdlearn_device", "crowdlearn_host"]):
    from benchmarks.fuzz.targets import TARGETS, seeds_of


def main(name: str, corpus: Path, seconds: int) -> None:
    """Run until the time is over, a crash, a hang, or more than two gigabytes of memory."""
    corpus.mkdir(parents=True, exist_ok=True)
    target = TARGETS[name]
    for number, seed in enumerate(seeds_of(target, corpus.parent)):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={target.max_bytes}",
        f"-rss_limit_mb={MAX_MEGABYTES}",
        f"-timeout={target.hang_seconds}",
        f"-artifact_prefix={corpus.parent}/finding-{name}-",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup([name, *flags], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
