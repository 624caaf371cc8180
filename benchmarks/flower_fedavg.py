"""Federated averaging in Flower's simulation, for benchmarks.simulation; runs in an environment with flwr.

Only numpy, torch and flwr are there. The workload is a folder that benchmarks.simulation wrote. There are two
clients: one with a new model and a DataLoader, as in Flower's tutorial, and one to Flower's favour, whose
worker keeps its model, and which gathers mini-batches as our engine does. Both have the data in memory.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

client_app = ClientApp()


@lru_cache(maxsize=1)
def workload(folder: str) -> dict[str, Any]:
    """The folder's settings, arrays and model, once a process."""
    torch.set_num_threads(1)
    path = Path(folder)
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in path.glob("*.npy")}
    settings = json.loads((path / "settings.json").read_text())
    return {**arrays, **settings, "model": network(settings)}


def network(settings: dict[str, Any]) -> nn.Module:
    """The workload's model."""
    widths = settings["widths"]
    layers: list[nn.Module] = []
    for sources, targets in itertools.pairwise(widths[:-1]):
        norm = [nn.BatchNorm1d(targets)] if settings["normalised"] else []
        layers += [nn.Linear(sources, targets), *norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def loaded(work: dict[str, Any], own: np.ndarray, number: int, client: int) -> Iterator[list[torch.Tensor]]:
    """Mini-batches as PyTorch's users load them."""
    samples = (torch.from_numpy(work[kind][own]) for kind in ("inputs", "labels"))
    draws = torch.Generator().manual_seed(number * len(work["devices"]) + client)
    yield from DataLoader(TensorDataset(*samples), work["batch"], shuffle=True, generator=draws)


def gathered(work: dict[str, Any], own: np.ndarray, number: int, client: int) -> Iterator[list[torch.Tensor]]:
    """Mini-batches by one index each."""
    order = own[np.random.default_rng((number, client)).permutation(len(own))]
    for start in range(0, len(order), work["batch"]):
        at = order[start : start + work["batch"]]
        yield [torch.from_numpy(work[kind][at]) for kind in ("inputs", "labels")]


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One client's epoch of plain SGD from the global weights."""
    config = message.content["config"]
    work = workload(config["folder"])
    client, number = int(context.node_config["partition-id"]), int(config["server-round"])
    fresh = config["client"] == "DataLoader"
    model = network(work) if fresh else work["model"]
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    model.train()
    sgd = torch.optim.SGD(model.parameters(), lr=work["rate"])
    own = work["devices"][client]
    for inputs, labels in (loaded if fresh else gathered)(work, own, number, client):
        sgd.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        sgd.step()
    metrics = MetricRecord({"num-examples": len(own)})
    reply = RecordDict({"arrays": ArrayRecord(torch_state_dict=model.state_dict()), "metrics": metrics})
    return Message(content=reply, reply_to=message)


def main() -> None:
    """Arguments: folder, rounds, cores, client. Writes flower.json there: time and accuracy of each round."""
    folder, rounds, cores, client = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    work = workload(folder)
    test_inputs = torch.from_numpy(np.array(work["test_inputs"]))
    measured: list[dict[str, float]] = []

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        model = work["model"]
        model.load_state_dict(arrays.to_torch_state_dict())
        model.eval()
        torch.set_num_threads(cores)  # the workers rest
        with torch.no_grad():
            guesses = model(test_inputs).argmax(1).numpy()
        accuracy = float((guesses == work["test_labels"]).mean())
        measured.append({"time": time.time(), "accuracy": accuracy})
        return MetricRecord({"accuracy": accuracy})

    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        clients = len(work["devices"])
        strategy = FedAvg(fraction_train=work["fraction"], fraction_evaluate=0.0, min_available_nodes=clients)
        strategy.start(
            grid,
            ArrayRecord(torch_state_dict=torch.load(Path(folder) / "initial.pt")),
            num_rounds=rounds,
            train_config=ConfigRecord({"folder": folder, "client": client}),
            evaluate_fn=evaluate,
        )

    run_simulation(
        server_app,
        client_app,
        num_supernodes=len(work["devices"]),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": cores},
        },
    )
    (Path(folder) / "flower.json").write_text(json.dumps(measured))
