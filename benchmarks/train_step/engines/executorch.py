"""ExecuTorch's own training export and runtime, from the same wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from executorch.extension.pybindings import _portable_lib
from executorch.extension.training import _load_for_executorch_for_training_from_buffer, get_sgd_optimizer

from benchmarks.train_step.engine import Array, Given


def prepare(given: Given) -> list[Path]:
    from executorch.exir import EdgeCompileConfig, to_edge
    from torch.export import export
    from torch.export.experimental import _export_forward_backward

    from benchmarks.models import NETWORKS

    class WithLoss(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out = self.model(x)
            return torch.nn.functional.cross_entropy(out, y), out.detach().argmax(dim=1)

    model = NETWORKS[given.model].build()
    model.load_state_dict({n: torch.from_numpy(w) for n, w in given.weights().items()}, strict=False)
    x, y = map(torch.from_numpy, given.data())
    joint = _export_forward_backward(export(WithLoss(model), (x, y), strict=True))
    program = to_edge(joint, compile_config=EdgeCompileConfig(_check_ir_validity=False)).to_executorch()
    file = given.folder / "executorch.pte"
    file.write_bytes(program.buffer)
    return [file]


class Stock:
    def __init__(self, given: Given) -> None:
        torch.set_num_threads(given.threads)
        _portable_lib._unsafe_reset_threadpool(given.threads)
        self._pte = (given.folder / "executorch.pte").read_bytes()
        self._module: Any = _load_for_executorch_for_training_from_buffer(self._pte)
        self._batch = list(map(torch.from_numpy, given.data()))
        self._rate = given.rate
        self._first: dict[str, Array] = {}
        self._sgd: Any = None

    def step(self) -> float:
        loss, *_ = self._module.forward_backward("forward", self._batch)
        gradients = self._module.named_gradients()
        if self._sgd is None:
            self._first = {n.removeprefix("model."): g.numpy().copy() for n, g in gradients.items()}
            self._sgd = get_sgd_optimizer(self._module.named_parameters(), self._rate)
        self._sgd.step(gradients)
        return float(loss)

    def gradients(self) -> dict[str, Array]:
        return self._first


load = Stock
