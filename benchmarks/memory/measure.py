"""A group of device processes on sockets of this machine, and the memory that each takes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn.hosting import Group, RunFolder, Server, Settings, SharedModel
from crowdlearn.planning import Plan, Training
from crowdlearn_device.optimizers.registry import typical
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import MAX_FRAME
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.program.slice_program import SliceProgram, export_slice
from websockets.asyncio.client import connect

from .resident import forget_peak, peak

SAMPLES, LIMIT_SECONDS = 128, 240.0
WIRE = {1: pb.INT8, 2: pb.FLOAT16, 4: pb.FLOAT32}


def measure(
    graph: NeuronGraph,
    plan: Plan,
    training: Training,
    folder: Path,
    devices: Sequence[int],
    cache: Path | None = None,
) -> tuple[list[int], list[int]]:
    """Bytes by which the process of each device grew at its peak: in the first one's pass, when the devices
    held the plan's pieces in their order; and while pieces changed hands for the next pass.
    """
    optimizer = typical(training.optimizer, momentum=training.momentum)
    shapes = [tuple(stop - start for start, stop in piece.neurons) for piece in plan.pieces]
    programs = {
        shape: export_slice(graph, shape, optimizer, max_batch=training.micro_batch + 1, cache=cache)
        for shape in dict.fromkeys(shapes)
    }
    return asyncio.run(_measure(graph, plan, training, folder, devices, [programs[s] for s in shapes]))


async def _measure(
    graph: NeuronGraph,
    plan: Plan,
    training: Training,
    folder: Path,
    devices: Sequence[int],
    programs: Sequence[SliceProgram],
) -> tuple[list[int], list[int]]:
    count = len(devices)
    processes = [_start(folder / str(k), graph, programs, k) for k in range(count)]
    before: list[int] = []
    training_peaks: list[int] = []
    passed = asyncio.Event()

    def peaks() -> list[int]:
        return [peak(processes[device].pid) - before[device] for device in devices]

    def on_event(event: str, fields: dict[str, Any]) -> None:
        if event == "assigned" and fields["generation"] == 2:
            training_peaks[:] = peaks()
            for process in processes:
                forget_peak(process.pid)
            passed.set()

    rng = np.random.default_rng(0)
    arrays = {}
    for spec in array_specs(graph):
        shape = (graph.layers[spec.layer].neurons, *spec.shape)
        drawn = rng.normal(0, 0.02, shape).astype(np.float32)
        arrays[spec.name] = np.abs(drawn) + 1 if spec.name.endswith("running_var") else drawn
    settings = Settings(
        layout=tuple(piece.neurons for piece in plan.pieces),
        programs=tuple(program.manifest.sha256 for program in programs),
        epochs=1,
        batch=training.batch,
        micro_batch=training.micro_batch,
        in_flight=training.in_flight,
        learning_rate=0.001,
        seed=0,
        snapshot_every=1,
        wire_type=WIRE[training.wire.dtype_bytes],
        devices=count,
        turns=(tuple(devices),),
    )
    server = Server(
        run="memory",
        groups=[Group(settings)],
        folder=RunFolder(folder / "run", create=True),
        shared=SharedModel(array_specs(graph), arrays),
        on_event=on_event,
        on_checkpoint=lambda group, epoch, arrays: None,
    )
    try:
        attached = []
        for k, process in enumerate(processes):
            home = folder / str(k)
            while not (home / "port").exists():
                if process.poll() is not None:
                    raise RuntimeError(f"the device's process ended with {process.returncode}")
                await asyncio.sleep(0.02)
            before.append(int((home / "before").read_text()))
            url = f"ws://127.0.0.1:{(home / 'port').read_text().strip()}/"
            shown = {"Authorization": f"Bearer {(home / 'token').read_text()}"}
            connection = await connect(
                url, max_size=MAX_FRAME, compression=None, ping_timeout=None, additional_headers=shown
            )
            attached.append(asyncio.create_task(server.attach(connection, dialled=True, number=k)))
        async with asyncio.timeout(LIMIT_SECONDS):
            await passed.wait()
            while server.groups[0].phase == "forming":
                await asyncio.sleep(0.002)
        shuffle_peaks = peaks()
        await server.stop("measured")
        await asyncio.gather(*attached)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        server.folder.close()
    return training_peaks, shuffle_peaks


def _start(
    home: Path, graph: NeuronGraph, programs: Sequence[SliceProgram], number: int
) -> subprocess.Popen[bytes]:
    (home / "programs").mkdir(parents=True)
    (home / "data").mkdir()
    for program in programs:
        for name, content in program.files().items():
            (home / "programs" / name).write_bytes(content)
    rng = np.random.default_rng(number)
    first, last = graph.layers[0], graph.layers[-1]
    inputs = rng.random((SAMPLES, first.neurons, *first.sum_shape), np.float32)
    np.savez(home / "data" / "train.npz", inputs=inputs, labels=rng.integers(0, last.neurons, SAMPLES))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.memory.device", str(home)]
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2])
