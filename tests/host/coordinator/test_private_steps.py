"""Steps of DP-SGD over the pieces of a group: the same clipped sums and noise, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.private_steps import clipping_of, factors_of
from crowdlearn_device.privacy.dp.draws import Draws, gaussian
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array, Floats
from crowdlearn_device.protocol.schedule import dominator_order
from crowdlearn_device.security.identity import Identity
from crowdlearn_host.coordinator.group.settings import Settings
from crowdlearn_host.privacy.dp.budget import Budget

from . import crowd_parties, tiny
from .crowd import ONE_PIECE, THREE_PIECES, TWO_PIECES, Counts, Crowd, largest_difference, settings_for
from .crowd import memory_folder as memory
from .test_group_protocol import PHASES, ROLES, KillOnce, phase_of
from .tiny import LAYERS, MOMENTUM, TinyExecutor, first_weights, manifest

CLIP = 0.4
SAMPLES = (13, 9, 16, 6)


@pytest.fixture(autouse=True)
def _without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = tiny.without_statistics()
    for module in (tiny, crowd_parties):
        monkeypatch.setattr(module, "array_specs", lambda: specs)


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory() as path:
        yield path


def private(counts: Counts = THREE_PIECES, noise: float = 0.5, **changes: Any) -> Settings:
    budget = Budget(None, 1e-5, noise, 3, 2)
    usual: dict[str, Any] = {"budget": budget, "clip": CLIP, "snapshot_every": 2}
    return settings_for(counts, **{**usual, **changes})


def trained(folder: Path, settings: Settings, seed: int = 0) -> dict[str, Floats]:
    crowd = Crowd(folder, settings, SAMPLES, seed)
    crowd.run()
    assert crowd.done, crowd.group.reason
    return crowd.model()


def by_definition(crowd: Crowd) -> dict[str, Floats]:
    """The weights after the run, without noise: one unsliced network, one sample after the other."""
    weights = first_weights()
    momentum = {name: np.zeros_like(array) for name, array in weights.items()}
    for epoch in range(crowd.settings.epochs):
        for device in dominator_order(range(len(SAMPLES)), seed=crowd.settings.seed, epoch=epoch):
            data = crowd.phones[device].data
            draws = Draws(crowd.settings.seed, epoch, device, len(data), crowd.settings.batch)
            for step in range(-(-len(data) // crowd.settings.batch)):
                sums = {name: np.zeros_like(array) for name, array in weights.items()}
                for row in draws.rows(step):
                    own = gradient(
                        weights, np.asarray(data.inputs)[row : row + 1], data.labels[row : row + 1]
                    )
                    square = sum(float((each.astype(np.float64) ** 2).sum()) for each in own.values())
                    for name, each in own.items():
                        sums[name] += each * min(1.0, CLIP / max(square**0.5, 1e-12))
                for name, each in sums.items():
                    momentum[name] = MOMENTUM * momentum[name] + each / draws.expected
                    weights[name] = weights[name] - crowd.settings.learning_rate * momentum[name]
    return weights


def gradient(weights: dict[str, Floats], inputs: Array, labels: Array) -> dict[str, Floats]:
    """The gradient of one sample's loss, by the stages of the whole network."""
    network = TinyExecutor(manifest(LAYERS))
    given = {("parameter", name): array for name, array in weights.items()}
    sums = [inputs]
    for layer in range(len(LAYERS) - 1):
        sums.append(network._stage(f"forward_{layer}", {**given, ("sum", ""): sums[-1]})["sum", ""])
    ends = {**given, ("sum", ""): sums[-1], ("labels", ""): labels, ("scale", ""): np.ones((), np.float32)}
    found = network._stage("loss", ends)
    gradients = {name: values for (role, name), values in found.items() if role == "gradient"}
    for layer in reversed(range(len(LAYERS) - 1)):
        back = {**given, ("sum", ""): sums[layer], ("error", ""): found["error", ""]}
        found = network._stage(f"backward_{layer}", back)
        gradients |= {name: values for (role, name), values in found.items() if role == "gradient"}
    return {name: gradients[name] for name in weights}


@pytest.mark.parametrize("counts", [THREE_PIECES, TWO_PIECES, ONE_PIECE])
def test_pieces_clip_each_sample_by_the_norm_over_all_of_them(counts: Counts, folder: Path) -> None:
    rows = [
        len(Draws(5, epoch, device, count, 3).rows(step))
        for epoch in (0, 1)
        for device, count in enumerate(SAMPLES)
        for step in range(-(-count // 3))
    ]
    assert min(rows) == 0  # such a step is noise alone
    crowd = Crowd(folder, private(counts, noise=1e-12), SAMPLES)
    crowd.run()
    assert crowd.done, crowd.group.reason
    assert largest_difference(crowd.model(), by_definition(crowd)) <= 1e-6


def test_a_death_changes_neither_draws_nor_noise(folder: Path) -> None:
    calm, count = Crowd(folder / "calm", private(), SAMPLES), dict.fromkeys(PHASES, 0)

    def note(action: object) -> None:
        count[phase_of(action, calm)] += 1  # type: ignore[arg-type]

    calm.run(note)
    assert largest_difference(calm.model(), by_definition(calm)) > 1e-3  # there is noise
    for role in ROLES:
        crowd = Crowd(folder / role, private(), SAMPLES, seed=1)
        kill = KillOnce(crowd, role, "backward", nth=count["backward"] // 2)
        crowd.run(kill.and_back)
        assert kill.done
        assert crowd.done, crowd.group.reason
        assert largest_difference(crowd.model(), calm.model()) == 0, role


def test_noise_of_a_secret_is_repeated_by_its_owner_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a host that has a step repeated with other weights gets other noise, not the difference."""
    own = [Identity.generate() for _ in SAMPLES]
    others = [Identity.generate() for _ in SAMPLES]
    models = []
    for number, identities in enumerate((own, own, others)):
        drawn = iter(identities)
        monkeypatch.setattr(Identity, "generate", lambda drawn=drawn: next(drawn))
        models.append(trained(folder / str(number), private(secret_order=True), seed=number))
    assert largest_difference(models[0], models[1]) == 0
    assert largest_difference(models[0], models[2]) > 1e-3
    draws = Draws(5, 0, 0, 10, 3)
    assert draws.key(2, 1, b"norms") != draws.key(2, 1, b"other norms")
    assert draws.key(2, 1) != draws.key(2, 2)


def test_dominators_tell_the_host_nothing_of_a_draw(folder: Path) -> None:
    crowd = Crowd(folder, private(), SAMPLES)
    crowd.run()
    told = crowd.log("progress")
    assert {fields["rows"] for fields in told} <= {1, 2, 3}
    assert not any("loss" in fields for fields in told)
    assert [fields["epsilon"] for fields in told] == sorted(fields["epsilon"] for fields in told)
    assert told[-1]["epsilon"] == private().budget.total(SAMPLES, 2)  # type: ignore[union-attr]


def test_a_spent_budget_ends_the_run_and_says_so(folder: Path) -> None:
    one = private().budget.total(SAMPLES, 1) * 1.01  # type: ignore[union-attr]
    crowd = Crowd(folder / "one", private(budget=Budget(one, 1e-5, 0.5, 3, 2)), SAMPLES)
    crowd.run()
    assert crowd.done
    assert [fields["epoch"] for fields in crowd.log("epoch")] == [0]
    (spent,) = crowd.log("budget_spent")
    assert spent["epochs"] == 1
    assert spent["epsilon"] <= one
    none = Crowd(folder / "none", private(budget=Budget(0.1, 1e-5, 0.5, 3, 2)), SAMPLES)
    none.run()
    assert none.group.phase == "stopped"
    assert "spent before the first epoch" in none.group.reason
    assert not none.log("progress")


def test_devices_refuse_steps_that_would_not_hide_a_sample() -> None:
    plain = manifest(LAYERS)
    asked = pb.Training(batch=4, clipping=pb.Clipping(clip=1, noise=1))
    assert clipping_of(asked, plain) is not None
    for told, reason in (
        ({"wire": pb.INT8}, "rounding depends on other samples"),
        ({"staleness": 1}, "overlap"),
        ({"masked": 14}, "masked"),
        ({"clipping": pb.Clipping(clip=0, noise=1)}, "no such step"),
        ({"clipping": pb.Clipping(clip=1, noise=float("nan"))}, "no such step"),
    ):
        training = pb.Training(batch=4, clipping=pb.Clipping(clip=1, noise=1))
        training.MergeFrom(pb.Training(**told))  # type: ignore[arg-type]
        if "clipping" in told:
            training.clipping.CopyFrom(told["clipping"])  # type: ignore[arg-type]
        with pytest.raises(WireError, match=reason):
            clipping_of(training, plain)


def test_draws_take_each_sample_at_the_rate_and_noise_is_normal() -> None:
    draws = Draws(7, 1, 2, 1000, 50)
    taken = np.bincount(np.concatenate([draws.rows(step) for step in range(400)]), minlength=1000)
    assert abs(taken.mean() - 20) < 0.2
    assert abs(taken.var() - 400 * 0.05 * 0.95) < 2
    assert (draws.rows(3) == draws.rows(3)).all()
    noise = gaussian(draws.key(0, 0), 200_001)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(noise[:100_000], noise[100_000:200_000])[0, 1]) < 0.02
    assert (factors_of([np.array([4.0, 0.0]), np.array([12.0, 0.0])], 2.0) == [0.5, 1.0]).all()
