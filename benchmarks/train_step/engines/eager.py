"""PyTorch itself, operator by operator."""

from __future__ import annotations

import torch

from benchmarks.models import NETWORKS
from benchmarks.train_step.engine import Array, Given


class Eager:
    def __init__(self, given: Given) -> None:
        torch.set_num_threads(given.threads)
        self._model = NETWORKS[given.model].build()
        self._start = {n: torch.from_numpy(w) for n, w in given.weights().items()}
        self._model.load_state_dict(self._start, strict=False)
        self._x, self._y = map(torch.from_numpy, given.data())
        self._sgd = torch.optim.SGD(self._model.parameters(), lr=given.rate)

    def step(self) -> float:
        self._sgd.zero_grad()
        loss = torch.nn.functional.cross_entropy(self._model(self._x), self._y)
        torch.autograd.backward(loss)
        self._sgd.step()
        return loss.item()

    def gradients(self) -> dict[str, Array]:
        self._model.load_state_dict(self._start, strict=False)
        self.step()
        return {n: p.grad.numpy() for n, p in self._model.named_parameters() if p.grad is not None}


load = Eager
