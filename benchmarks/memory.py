"""What a piece takes of memory: the planner's figure beside what a device process grows by.

A process of its own holds one follower's piece on the device runtime and trains a few mini-batches; its
partners' messages are made up, but pass through the wire's encoding. Growth is the peak of the resident set
over these steps less the resident set once ExecuTorch is imported and the program was parsed once. Making the
partners' messages happens in the same process and counts too.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.executor import ExecuTorchExecutor
from crowdlearn_device.piece import Message, Piece
from crowdlearn_device.state import PieceState
from crowdlearn_device.wire import decode_tensor, encode_tensor
from crowdlearn_export.slice_program import export_slice
from crowdlearn_export.stages import Optimizer
from crowdlearn_export.trace import neuron_graph
from crowdlearn_host.planner.bundles import bundles
from crowdlearn_host.planner.costs import Training, costs
from torch import nn

BATCH, MICRO, STEPS, FOLLOWER = 64, 32, 4, 1


@dataclass(frozen=True)
class Case:
    """A network, and the shape of one sample."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


def dense() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10)
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()),
        nn.Linear(2048, 10),
    )


class Residual(nn.Module):
    """A stem, and a convolution whose result is added to what it began with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.body, self.head = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.body(x))
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


CASES = {
    "dense": Case(dense, (64,)),
    "convolutional": Case(convolutional, (3, 32, 32)),
    "residual": Case(Residual, (3, 32, 32)),
}
Layout = list[list[tuple[int, int]]]


def main(
    networks: Annotated[str, typer.Option(help="Which of dense, convolutional, residual.")] = ",".join(CASES),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Print predicted and measured memory of a follower that owns half of every hidden layer."""
    rows = []
    context = multiprocessing.get_context("spawn")
    for name in networks.split(","):
        case = CASES[name]
        graph = neuron_graph(case.build(), torch.zeros(2, *case.shape), name)
        last = len(graph.layers) - 1
        owned = [0 if i in (0, last) else layer.neurons // 2 for i, layer in enumerate(graph.layers)]
        program = export_slice(graph, owned, Optimizer(0.9), max_batch=MICRO + 1)
        layout: Layout = [
            [(0, n.neurons) if i in (0, last) else (0, 0) for i, n in enumerate(graph.layers)],
            [(0, n) for n in owned],
            [(n, n + n) for n in owned],
        ]
        priced = costs(graph, Training(BATCH, MICRO, momentum=True))
        counts = [owned[members[0]] for members in bundles(graph)]
        predicted = sum(n * each.memory for n, each in zip(counts, priced.each, strict=True))
        predicted += sum(extra for n, extra in zip(counts, priced.presence, strict=True) if n)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "program.pte"
            file.write_bytes(program.pte)
            with context.Pool(1) as pool:
                measured = pool.apply(grown, (program.manifest, file, layout))
        row = {
            "network": name,
            "predicted_mb": predicted / 1e6,
            "measured_mb": measured / 1e6,
            "ratio": predicted / measured,
            "arena_mb": program.manifest.arena_bytes / 1e6,
        }
        rows.append(row)
        typer.echo("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{v:14}" for k, v in row.items()))
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1) + "\n")


def grown(manifest: Any, file: Path, layout: Layout) -> int:
    """Bytes by which this process grows at its peak, in training STEPS mini-batches."""
    torch.from_numpy(np.zeros(1))
    ExecuTorchExecutor(file.read_bytes())
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    layers: dict[int, dict[str, Any]] = {}
    for array in manifest.arrays:
        start, stop = layout[FOLLOWER][array.layer]
        for kind in ("value", "momentum") if array.trained else ("value",):
            filled = np.full((stop - start, *array.shape), 0.01, np.float32)
            layers.setdefault(array.layer, {})[f"{kind}/{array.name}"] = filled
    executor = ExecuTorchExecutor(file.read_bytes())
    state = PieceState(tuple(layout[FOLLOWER]), layers)
    piece = Piece(manifest, executor, layout, FOLLOWER, state, 0, 0.001, 0)
    del state, layers
    for step in range(STEPS):
        for purpose, due in ((pb.PURPOSE_ACTIVATION, piece._incoming), (pb.PURPOSE_ERROR, piece._outgoing)):
            order = sorted(due) if purpose == pb.PURPOSE_ACTIVATION else sorted(due, reverse=True)
            for micro in range(BATCH // MICRO):
                for layer in order:
                    for e, partner in due[layer]:
                        if partner != FOLLOWER:
                            piece.receive(_message(manifest, piece, purpose, step, micro, e, partner))
                    while piece.ready:
                        for message in piece.run():
                            encode_tensor(message.values).SerializeToString()
    assert piece.boundary == STEPS
    return _status("VmHWM") - before


def _message(
    manifest: Any, piece: Piece, purpose: Any, step: int, micro: int, e: int, partner: int
) -> Message:
    edge = manifest.edges[e]
    forward = purpose == pb.PURPOSE_ACTIVATION
    a, b = piece._joined(edge, partner, FOLLOWER) if forward else piece._joined(edge, FOLLOWER, partner)
    shape = (MICRO, b - a, *manifest.layers[edge.target].sum_shape)
    sent = encode_tensor(np.random.default_rng(micro).random(shape, np.float32)).SerializeToString()
    values = decode_tensor(pb.Tensor.FromString(sent))
    return Message(partner, purpose, step, micro, BATCH // MICRO, BATCH, e, values)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    typer.run(main)
