"""Federated averaging in pfl-research's simulation, for benchmarks.simulation; runs where pfl is installed.

Only numpy, torch and pfl are there. The workload is a folder that benchmarks.simulation wrote. Each core has
a process that trains its share of a round's clients, as pfl's users start it (torch.distributed).
Parameters are averaged; of batch norm's statistics each process keeps those of its last client.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops.pytorch_ops import distributed
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import nn


class Network(nn.Module):
    """The workload's model, with the loss that pfl asks it for."""

    def __init__(self, widths: list[int], *, normalised: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for sources, targets in itertools.pairwise(widths[:-1]):
            norm = [nn.BatchNorm1d(targets)] if normalised else []
            layers += [nn.Linear(sources, targets), *norm, nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor, eval: bool = False) -> torch.Tensor:
        """Cross-entropy of a mini-batch."""
        self.train(not eval)
        return F.cross_entropy(self.layers(inputs), labels)

    @torch.no_grad()
    def metrics(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """None: evaluation is the callback's."""
        return {}


class Clock(TrainingProcessCallback):
    """Tells when each round has ended, and what the model is worth then, in the first process."""

    def __init__(self, work: dict[str, Any], cores: int, rounds: list[dict[str, float]]) -> None:
        self._inputs = torch.from_numpy(np.array(work["test_inputs"]))
        self._labels = work["test_labels"]
        self._cores, self._told = cores, rounds

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Evaluate the global model."""
        if distributed is None or distributed.global_rank == 0:
            model.pytorch_model.eval()
            torch.set_num_threads(self._cores)  # the other processes wait
            with torch.no_grad():
                guesses = model.pytorch_model.layers(self._inputs).argmax(1).numpy()
            torch.set_num_threads(1)
            self._told.append({"time": time.time(), "accuracy": float((guesses == self._labels).mean())})
        return False, Metrics()


def main() -> None:
    """Arguments: folder, rounds, cores. Writes pfl.json there: time and accuracy of each round."""
    folder, rounds, cores = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
    work: dict[str, Any] = {**arrays, **json.loads((folder / "settings.json").read_text())}
    network = Network(work["widths"], normalised=work["normalised"])
    network.layers.load_state_dict(torch.load(folder / "initial.pt"))
    central = torch.optim.SGD(network.parameters(), lr=1.0)
    model = PyTorchModel(network, torch.optim.SGD, central)

    def samples_of(client: int) -> Dataset:
        own = np.random.permutation(work["devices"][client])
        return Dataset([torch.from_numpy(work[kind][own]) for kind in ("inputs", "labels")], str(client))

    clients = list(range(len(work["devices"])))
    data = FederatedDataset(samples_of, get_user_sampler("minimize_reuse", clients))
    measured: list[dict[str, float]] = []
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=round(work["fraction"] * len(clients)),
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=data, val_data=data),
        model,
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=work["rate"], local_batch_size=work["batch"]
        ),
        NNEvalHyperParams(local_batch_size=None),
        [Clock(work, cores, measured)],
        send_metrics_to_platform=False,
    )
    if measured:
        (folder / "pfl.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
