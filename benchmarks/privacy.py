"""Privacy, measured by attacks: what each role of a group learns of a dominator's samples.

    python -m benchmarks.privacy [--quick] [--data FOLDER] [--devices 5 10 20] [--roles host] [--json FILE]
                                 [--page FILE]

The group trains in this process with the devices' own code, programs and messages; every device is tapped.
The data are MNIST's four files in FOLDER, or scikit-learn's small digits if none is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from crowdlearn import RunSpec
from crowdlearn.hosting import prepare
from crowdlearn.models import build_model
from crowdlearn.privacy import Auditor, Case, Finding, Noise, findings_on_shares, host_rows, rehearsed_case
from crowdlearn.privacy import audit_page as page
from crowdlearn.simulation import load_split
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_host.cli.runs.privacy import print_findings, worst
from rich.console import Console
from torch import nn

from .report import machine, write_rows

FIGURES = ("psnr", "prior_psnr", "ssim", "prior_ssim", "reid", "label_accuracy", "auc")
ROLES = ("group", "host")
"""Views that are attacked: those of a group's devices, and the host's of shared weights."""
BATCH, RATE = 64, 0.05
SHARES_BATCH = 512
"""What shares are opened of is a mini-batch's gradient: the more samples, the less it tells of one."""
NOISE = Noise(clip=1.0, times=1.0)
GROUPS, SEEDS = (5, 10, 20), 3
OWN, OWN_QUICK, OWN_MASKED = 10_000, 6000, 3000
EPOCHS, EPOCHS_QUICK = 4, 2
GALLERY = 5200
"""Samples of all devices of a group: among so many a sample is re-identified."""


def case_of(n: int, seed: int, data: str, own: int, epochs: int, sums: str = "plain") -> Case:
    """Train a group of `n` devices, tapped; with MNIST it is the paper's MLP."""
    values = {
        "data": data,
        "model": "mlp:64-400-200-100-10" if data == "digits" else "paper-mlp",
        "group": {"pieces": n},
        "training": {
            "batch": BATCH,
            "micro_batch": BATCH,
            "learning_rate": RATE,
            "seed": seed,
            "kernels": "by_size",
        },
        "privacy": {"sums": sums},
    }
    config = RunSpec.parse(values, "the benchmark")
    prepared = prepare(config, lambda event, fields: None)
    return rehearsed_case(prepared, samples=GALLERY // n, own=own, epochs=epochs)


def findings_of(case: Case, masked: Callable[[], Case], *, quick: bool) -> Iterator[Finding]:
    """Attack every mode; helpers on shares see the samples of all devices.

    Masks protect sums of hidden layers alone: what else a follower sees is as in plain mode. Noise protects
    what helpers open, so only that is attacked once more.
    """
    yield from Auditor(case, quick=quick).findings()
    yield Auditor(masked(), "masked", quick=quick).of_hidden_layers()
    for first_layer in (False, True):
        model = build_model(case.model, 0)
        yield from findings_on_shares(case, model, batch=SHARES_BATCH, quick=quick, first_layer=first_layer)
        yield from findings_on_shares(
            case,
            without_batch_norm(case),
            batch=SHARES_BATCH,
            quick=quick,
            first_layer=first_layer,
            noise=NOISE,
            opened_alone=True,
        )


def without_batch_norm(case: Case) -> nn.Module:
    """Return a network like the paper's whose samples do not mix, as DP-SGD needs it."""
    torch.manual_seed(0)
    widths = (case.gallery.inputs[0].size, 400, 200, 100, case.recipe.graph.layers[-1].neurons)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def print_host_rows(data: str, *, quick: bool) -> list[dict[str, object]]:
    """Print what the host learns of shared weights, and return the rows."""
    rows = []
    print("mode              role  attack             samples  devices    auc  epsilon  at least  accuracy")
    for found in host_rows(load_split(data, "train"), quick=quick):
        rows.append(found.row())
        figures = (found.auc, found.epsilon, found.epsilon_bound, found.accuracy)
        print(
            f"{found.mode:17s} {found.role:5s} {found.attack:18s} {found.samples:7d} {found.devices:8d}"
            + "".join("        " if each is None else f"{each:8.3f}" for each in figures),
            flush=True,
        )
    return rows


def averaged(found: Sequence[Finding]) -> Iterator[Finding]:
    """Return the findings of several seeds as means of their figures; pictures are those of the first."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for each in found:
        groups.setdefault((each.n, each.mode, each.role, each.attack), []).append(each)
    for same in groups.values():
        figures: dict[str, Any] = {}
        for name in FIGURES:
            values = [value for each in same if (value := getattr(each, name)) is not None]
            figures[name] = fmean(values) if values else None
        yield replace(same[0], **figures)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.privacy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 devices, one seed, small decoders")
    parser.add_argument(
        "--data", default="digits", help="folder with MNIST's four files (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--page", type=Path, help="also write a page with pictures to this file")
    parser.add_argument(
        "--roles", nargs="+", choices=ROLES, default=ROLES[:1], help="whose view to attack (default: group)"
    )
    parser.add_argument("--devices", nargs="+", type=int, help="sizes of groups (default: 5 10 20; quick: 5)")
    parser.add_argument(
        "--seeds", type=int, help=f"runs of each, told as their mean (default: {SEEDS}; quick: 1)"
    )
    options = parser.parse_args(argv)
    if options.roles == ["host"]:
        write_rows(options.json, print_host_rows(options.data, quick=options.quick))
        return
    console = Console(width=200)
    found: list[tuple[int, Finding]] = []
    inputs: Floats | None = None
    for n in options.devices or (GROUPS[:1] if options.quick else GROUPS):
        for seed in range(options.seeds or (1 if options.quick else SEEDS)):
            console.print(f"{n} devices, seed {seed}")
            own, epochs = (OWN_QUICK, EPOCHS_QUICK) if options.quick else (OWN, EPOCHS)
            case = case_of(n, seed, options.data, own, epochs)
            inputs = case.victim.inputs[:12] if inputs is None else inputs
            fewer, passes = (OWN_MASKED, 1) if options.quick else (own, epochs)
            masked = partial(case_of, n, seed, options.data, fewer, passes, "masked")
            for finding in findings_of(case, masked, quick=options.quick):
                found.append((seed, finding))
                console.print(f"  {finding.mode}, {finding.role}: {finding.attack}")
            write_rows(options.json, [{**each.row(), "seed": of_seed} for of_seed, each in found])
    means = list(averaged([finding for _, finding in found]))
    for n in dict.fromkeys(finding.n for finding in means):
        console.print(f"groups of {n}, means of {options.seeds or (1 if options.quick else SEEDS)} seeds")
        print_findings(console, [finding for finding in means if finding.n == n])
    console.print(worst(means))
    console.print(machine())
    rows: list[dict[str, object]] = [{**finding.row(), "seed": seed} for seed, finding in found]
    if "host" in options.roles:
        rows += print_host_rows(options.data, quick=options.quick)
    write_rows(options.json, rows)
    if options.page is not None and inputs is not None:
        options.page.write_text(page("crowdlearn privacy audit", means, inputs))


if __name__ == "__main__":
    main()
