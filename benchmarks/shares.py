"""Slices on shares: how exact, how many bytes and products, how fast, and how well they train.

    python -m benchmarks.shares [--quick] [--data FOLDER] [--phones SAMPLES] [--json FILE]

Error is that of the paper's MLP on MNIST, simulated with the arithmetic of shares to the bit, beside float32.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from crowdlearn import RunSpec
from crowdlearn import phones as emulator
from crowdlearn.hosting import new_run, prepare, run, train
from crowdlearn.models import build_model
from crowdlearn.planning import Fleet, PlanRequest, plan_network, shares_cost
from crowdlearn.simulation import SimulationConfig
from crowdlearn_device.privacy.shares.linear_map import linear_map
from crowdlearn_device.privacy.shares.replicated import KEY_BYTES, own_keys
from crowdlearn_device.privacy.shares.ring import RingProducts
from crowdlearn_device.privacy.shares.triple import Helper, Received, Sharer, joined
from crowdlearn_export.tracing.trace import neuron_graph
from rich.console import Console
from rich.table import Table

from .paper.runs import Finished, Job, run_all
from .report import importable_elsewhere, machine, write_rows
from .wire_dtype import part_of

BATCH, DEVICES = 512, 5
WAYS = ("float32", "shares", "shares, first layer shared")
TRAINING = {"batch": BATCH, "learning_rate": 0.1, "momentum": 0.9, "schedule": "cosine"}
EPOCHS, SEEDS = 15, 3
LAYERS = ((784, 400), (400, 200), (200, 100))
TRIPLES, ROOM, FED = (1, 2, 3), 1.02, 10 * BATCH
"""Triples whose helpers are compared, a helper's cap over its even part, and samples of a pass."""
ROUNDS = 7
PHONES: dict[str, dict[str, str]] = {
    "plain": {"sums": "plain"},
    "masked": {"sums": "masked"},
    "shares": {"sums": "shares"},
    "shares, first layer shared": {"sums": "shares", "first_layer": "shared"},
}
PHONE_EPOCHS = 2


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shares", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no training")
    parser.add_argument(
        "--data", type=Path, help="folder with MNIST's four files; without, nothing is trained"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--phones", type=int, default=0, help="also train so many samples on virtual phones")
    parser.add_argument("--runs", type=Path, default=Path("runs/shares"), help="keeps finished runs")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args(argv)
    console = Console(width=140)
    rows = [*costs(), *by_triples(), *(layer(*shape) for shape in LAYERS)]
    if options.data is not None and not options.quick:
        importable_elsewhere()
        rows += trained(options.data, options.seeds, options.epochs, options.runs, options.cores, console)
    if options.data is not None and options.phones:
        importable_elsewhere()
        rows += on_phones(options.data, options.phones, console)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        table = Table(*(name for name in own[0] if name != "kind"), title=kind)
        for row in own:
            table.add_row(*(_told(value) for name, value in row.items() if name != "kind"))
        console.print(table)
    console.print(machine())
    write_rows(options.json, rows)


def costs() -> list[dict[str, Any]]:
    """Return bytes and products of the paper's MLP, by formula."""
    graph = neuron_graph(build_model("paper-mlp", 0), torch.zeros(2, 784))
    rows = []
    for first_layer, private in product((False, True), repeat=2):
        cost = shares_cost(graph, first_layer=first_layer, private=private)
        rows.append(
            {
                "kind": "cost of the paper's MLP, modelled",
                "first_layer": "shared" if first_layer else "kept",
                "noise": private,
                "batch": BATCH,
                "bytes_per_sample": cost.bytes_per_sample(BATCH),
                "of_it_gradients": cost.gradient / BATCH,
                "of_it_checks": cost.checks / BATCH,
                "dominator_macs_share": cost.dominator_macs / cost.model_macs,
                "helper_over_follower_macs": cost.helper_macs_per_sample(BATCH) / cost.follower_macs,
            }
        )
    return rows


def by_triples() -> list[dict[str, Any]]:
    """Return what a helper needs where the plan's caps ask for one triple, two or three, modelled."""
    rows, alone = list[dict[str, Any]](), 0.0
    layers: tuple[Literal["kept", "shared"], ...] = ("kept", "shared")
    for first_layer, triples in product(layers, TRIPLES):
        request = PlanRequest("paper-mlp", (784,), batch=BATCH, sums="shares", first_layer=first_layer)
        helper: dict[str, Any] = {"name": "helper", "count": 3 * triples, "macs_per_second": 1e9}
        if triples > 1:
            helper["max_macs"] = round(ROOM * alone / triples)
        feeding = {"name": "dominator", "count": 1, "samples": FED, "macs_per_second": 1e9}
        plan = plan_network(request, Fleet.model_validate({"class": [feeding, helper]})).plan
        assert plan.traffic is not None
        assert plan.certificate is not None
        most = max(plan.pieces[1:], key=lambda piece: piece.macs)
        alone = most.macs if triples == 1 else alone
        rows.append(
            {
                "kind": "helpers of the paper's MLP by plan, modelled",
                "first_layer": first_layer,
                "triples": len(plan.pieces) // 3,
                "helper_macs": most.macs,
                "over_one_triple": most.macs / alone,
                "helper_memory_mb": max(piece.memory_bytes for piece in plan.pieces[1:]) / 1e6,
                "sent_bytes_per_sample": (plan.traffic.forward + plan.traffic.backward) / FED,
                "gap": plan.certificate.gap,
            }
        )
    return rows


def layer(sources: int, targets: int) -> dict[str, Any]:
    """Measure the exactness and the time of one dense layer on shares, beside float32 and float64."""
    rng = np.random.default_rng(0)
    a = np.maximum(rng.standard_normal((BATCH, sources)), 0).astype(np.float32)
    w = (rng.uniform(-1, 1, (sources, targets)) / sources**0.5).astype(np.float32)
    d = (rng.standard_normal((BATCH, targets)) / BATCH).astype(np.float32)
    keys = (b"a" * KEY_BYTES, b"b" * KEY_BYTES, b"c" * KEY_BYTES)
    linear, products = linear_map("dense", {}, ()), RingProducts()
    sharer = Sharer(0, linear, keys, "the layer")
    helpers = [Helper(0, linear, p, own_keys(keys, p), products) for p in range(3)]

    def on_shares() -> tuple[Any, ...]:
        for helper in helpers:
            helper.take_weights(w)
        first = sharer.activations(0, a, helpers[0].facts)
        answers = [h.forward(Received.at(p, first)) for p, h in enumerate(helpers)]
        sums = joined((answers[0], answers[1]), first)  # type: ignore[arg-type]
        second = sharer.errors(0, d, helpers[0].facts)
        answers = [h.backward(Received.at(p, second)) for p, h in enumerate(helpers)]
        back = joined((answers[0], answers[1]), second)  # type: ignore[arg-type]
        parts = tuple(helper.gradient(0) for helper in helpers)
        return sums, back, helpers[0].opened(parts)

    def plain() -> tuple[Any, ...]:
        return a @ w, d @ w.T, a.T @ d

    x, y, z = (v.astype(np.float64) for v in (a, w, d))
    exact = (x @ y, z @ y.T, x.T @ z)
    errors = [np.abs(f - e).max() / np.abs(e).max() for f, e in zip(on_shares(), exact, strict=True)]
    shares_s, plain_s = _interleaved(on_shares, plain)
    names = ("sums", "errors", "gradient")
    return {
        "kind": "one layer of three helpers together, measured",
        "layer": f"{sources}-{targets}",
        "batch": BATCH,
        **{f"{name}_off": float(error) for name, error in zip(names, errors, strict=True)},
        "shares_ms": 1e3 * shares_s,
        "float32_ms": 1e3 * plain_s,
        "ratio": shares_s / plain_s,
    }


def _interleaved(*ways: Callable[[], object]) -> list[float]:
    """Return the median processor seconds of each way, over rounds in turn."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, own in zip(ways, seconds, strict=True):
            began = time.process_time()
            way()
            own.append(time.process_time() - began)
    return [statistics.median(own) for own in seconds]


def on_phones(data: Path, samples: int, console: Console) -> list[dict[str, Any]]:
    """Train on four virtual phones in every way, and return samples a second and bytes."""
    rows: list[dict[str, Any]] = []
    for way, privacy in PHONES.items():
        values = {
            "data": str(data),
            "model": "paper-mlp",
            "group": {"pieces": 4},
            "training": {"batch": BATCH, "epochs": PHONE_EPOCHS, "learning_rate": 0.1, "kernels": "by_size"},
            "privacy": privacy,
        }
        console.print(f"four virtual phones: {way}")
        rows.append(
            {"kind": "four virtual phones on one machine, measured", "way": way, **_run(values, samples)}
        )
    for row in rows:
        row["over_plain"] = row["samples_per_s"] / rows[0]["samples_per_s"]
        row["bytes_over_plain"] = row["bytes_per_sample"] / rows[0]["bytes_per_sample"]
    return rows


def _run(values: dict[str, Any], samples: int) -> dict[str, float]:
    """Train once; seconds count from the first progress of the first pass to the last one's."""
    times: list[tuple[float, int]] = []
    sent: list[dict[str, int]] = []

    def on_event(event: str, fields: dict[str, Any]) -> None:
        if event == "progress":
            times.append((time.monotonic(), int(fields["rows"])))
        elif event == "evaluated":
            sent.append(fields["bytes"])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values["data"] = str(part_of(Path(values["data"]), folder / "data", samples))
        prepared = prepare(RunSpec.parse(values, "the benchmark"), on_event)
        with (
            emulator.running(4, folder / "home") as started,
            new_run(folder / "run", "", prepared, folder) as opened,
        ):
            run(train(prepared, [phone.serial for phone in started], opened, on_event))
    seconds = times[-1][0] - times[0][0]
    total = sum(rows for _, rows in times[1:])
    moved = sent[-1]["activation"] + sent[-1]["error"]
    return {"samples_per_s": total / seconds, "bytes_per_sample": moved / (samples * PHONE_EPOCHS)}


def trained(
    data: Path, seeds: int, epochs: int, runs: Path, cores: int, console: Console
) -> list[dict[str, Any]]:
    """Train by each way and seed, and return test errors in per cent."""
    jobs = {
        (way, seed): Job(_config(way, seed, epochs), str(data), 0) for way in WAYS for seed in range(seeds)
    }

    def tell(finished: Finished) -> None:
        console.print(f"one of {len(jobs)} runs: {_error(finished):.2f} %")

    done = run_all(jobs.values(), runs, cores, tell)
    rows = []
    for way in WAYS:
        found = [_error(done[jobs[way, seed].key()]) for seed in range(seeds)]
        plain = [_error(done[jobs[WAYS[0], seed].key()]) for seed in range(seeds)]
        rows.append(
            {
                "kind": "test error on MNIST in per cent, simulated",
                "way": way,
                "seeds": seeds,
                "epochs": epochs,
                "error": statistics.mean(found),
                "over_float32": statistics.mean(found) - statistics.mean(plain),
                "errors": found,
            }
        )
    return rows


def _config(way: str, seed: int, epochs: int) -> SimulationConfig:
    values = {
        "seed": seed,
        "model": "paper-mlp",
        "devices": DEVICES,
        "group": DEVICES,
        "sharing": {"enabled": False},
        "training": {**TRAINING, "epochs": epochs},
        "privacy": {
            "sums": "plain" if way == WAYS[0] else "shares",
            "first_layer": "shared" if way == WAYS[2] else "kept",
        },
    }
    return SimulationConfig.parse(values, "the benchmark")


def _error(finished: Finished) -> float:
    return 100 - 100 * float(finished.records[-1].accuracy or 0)


def _told(value: object) -> str:
    if isinstance(value, list):
        return " ".join(f"{each:.2f}" for each in value)
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


if __name__ == "__main__":
    main()
