"""`crowdlearn simulate` keeps a run that can be read, resumed, and is not mistaken for another."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.cli.console.options import Engine
from crowdlearn_host.cli.models.convert import export_model
from crowdlearn_host.cli.runs.evaluate import evaluate
from crowdlearn_host.cli.runs.simulate import simulate
from crowdlearn_host.errors import ConfigError, HostError, RunError, TrainingError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.plan import load_plan, save_plan
from crowdlearn_host.simulation import run_folder
from crowdlearn_host.simulation.run_folder import RunFolder
from crowdlearn_host.spec.simulated import load_simulation
from safetensors.numpy import load_file
from typer import Exit


def test_a_run_is_kept_with_its_configuration_metrics_and_model(files: Path) -> None:
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    run = files / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["samples"] == 4 * 396
    assert rows[-1]["accuracy"] > 0.8
    assert set(rows[-1]["bytes"]) == {"activation", "error", "shuffle", "sharing"}
    assert (run / "config.toml").read_text() == (files / "crowd.toml").read_text()
    assert json.loads((run / "environment.json").read_text())["torch"]
    assert load_file(run / "model.safetensors")["0.weight"].shape == (10, 6)


def test_what_forward_leaves_out_is_in_the_model_as_it_was_built(files: Path) -> None:
    (files / "spare.py").write_text(
        "from torch import nn\n\n"
        "class Spare(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.spare, self.used = nn.Linear(3, 2), nn.Linear(6, 5)\n"
        "        self.last = nn.Linear(5, 4)\n"
        "    def forward(self, x):\n"
        "        return self.last(self.used(x).tanh())\n"
    )
    text = (files / "crowd.toml").read_text().replace("mlp:6-10-8-4", "spare.py:Spare")
    (files / "crowd.toml").write_text(text)
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    trained = load_file(files / "run" / "model.safetensors")
    built = build_model(f"{files}/spare.py:Spare", 3).state_dict()
    same = {name for name, value in built.items() if np.array_equal(value.numpy(), trained[name])}
    assert same == {"spare.weight", "spare.bias"}
    evaluate(files / "run", str(files))


def test_a_run_that_was_interrupted_says_so_and_goes_on_to_the_same_model(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(files / "crowd.toml", str(files), files / "whole", processes=1)
    keep = RunFolder.keep

    def crash_after_the_second(folder: RunFolder, state) -> None:
        keep(folder, state)
        if len(state.records) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(Exit) as ended:
        patched.setattr(RunFolder, "keep", crash_after_the_second)
        simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    assert ended.value.exit_code == 130
    assert "round 2 of 4 is kept: the same command goes on from there" in capsys.readouterr().err
    metrics = files / "run" / "metrics.jsonl"
    kept = metrics.read_text().splitlines()
    assert len(kept) == 2
    # A crash between metrics and checkpoint leaves a row too many.
    with metrics.open("a") as more:
        more.write('{"epoch": 2}\n')
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    whole, resumed = (load_file(files / name / "model.safetensors") for name in ("whole", "run"))
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    rows = metrics.read_text().splitlines()
    assert (rows[:2], len(rows)) == (kept, 4)  # those rounds were not trained again


def test_a_run_folder_of_another_configuration_or_damaged_is_refused(files: Path) -> None:
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    (files / "other.toml").write_text((files / "crowd.toml").read_text().replace("seed = 3", "seed = 4"))
    with pytest.raises(RunError, match="another configuration"):
        simulate(files / "other.toml", str(files), files / "run", processes=1)
    checkpoint = files / "run" / "checkpoint.npz"
    whole = checkpoint.read_bytes()
    with RunFolder(files / "run", load_simulation(files / "crowd.toml")) as folder:
        for length in range(0, len(whole), 61):
            checkpoint.write_bytes(whole[:length])
            with pytest.raises(RunError, match=r"damaged .*delete it"):
                folder.resume()


def test_a_crowd_whose_checkpoint_takes_long_computes_rounds_again(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(files / "crowd.toml", str(files), files / "whole", processes=1)
    monkeypatch.setattr(run_folder, "QUICK_SECONDS", 0)
    monkeypatch.setattr(run_folder, "SHARE", 1e9)
    keep = RunFolder.keep

    def stop_after_the_third(folder: RunFolder, state) -> None:
        keep(folder, state)
        if len(state.records) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(Exit):
        patched.setattr(RunFolder, "keep", stop_after_the_third)
        simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    with RunFolder(files / "run", load_simulation(files / "crowd.toml")) as folder:
        assert len(folder.resume().records) == 1
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    whole, resumed = (load_file(files / name / "model.safetensors") for name in ("whole", "run"))
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    with RunFolder(files / "run", load_simulation(files / "crowd.toml")) as folder:
        assert len(folder.resume().records) == 4


def test_a_checkpoint_holds_once_what_all_groups_have_alike() -> None:
    rows = np.tile(np.arange(1000, dtype=np.float32), (50, 1))
    rows[3, 7], rows[4, 0] = 5, -0.0
    arrays = run_folder._columns("weights", rows)
    assert sum(array.nbytes for array in arrays.values()) < 3 * rows[0].nbytes
    assert run_folder._rows("weights", arrays).tobytes() == rows.tobytes()


def test_sharing_that_trains_nothing_together_is_told(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (files / "crowd.toml").read_text()
    (files / "crowd.toml").write_text(text.replace("theta = 0.8", "theta = 0"))
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    assert "sharing.theta = 0: no trained weight is shared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("devices = 400", "use fewer devices"),
        ('plan = "no.json"\ndevices = 12', "no.json"),
        ("devices = 12", "stopped"),
    ],
)
def test_a_start_that_kept_no_round_gives_way_to_the_corrected_one(
    files: Path, monkeypatch: pytest.MonkeyPatch, mistake: str, told: str
) -> None:
    text = (files / "crowd.toml").read_text()
    (files / "crowd.toml").write_text(text.replace("devices = 12", mistake))

    def stop(*_: object) -> None:
        raise RunError("stopped")

    with monkeypatch.context() as patched, pytest.raises(HostError, match=told):
        patched.setattr(RunFolder, "keep", stop)
        simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    with np.load(files / "train.npz") as arrays:  # the samples may be others then, too
        np.savez(files / "train.npz", inputs=arrays["inputs"] + 1, labels=arrays["labels"])
    (files / "crowd.toml").write_text(text.replace("seed = 3", "seed = 4"))
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    assert (files / "run" / "config.toml").read_text() == (files / "crowd.toml").read_text()


@pytest.mark.parametrize(
    ("file", "told"), [("config.toml", "another configuration"), ("run.db", "of phones")]
)
def test_a_folder_of_something_else_is_left_alone(files: Path, file: str, told: str) -> None:
    (files / "own").mkdir()
    kept = files / "own" / file
    kept.write_text("seed = 4\n")
    with pytest.raises(RunError, match=told):
        simulate(files / "crowd.toml", str(files), files / "own")
    assert kept.read_text() == "seed = 4\n"


def test_a_run_folder_is_one_process_at_a_time(files: Path) -> None:
    with (
        RunFolder(files / "run", load_simulation(files / "crowd.toml")),
        pytest.raises(RunError, match="in use by another process"),
    ):
        simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)


def test_a_run_does_not_go_on_with_other_samples_or_another_plan(files: Path) -> None:
    graph = neuron_graph(build_model("mlp:6-10-8-4", 0), torch.zeros(2, 6), "mlp:6-10-8-4")
    save_plan(balanced(graph, 3), files / "plan.json")
    (files / "planned.toml").write_text('plan = "plan.json"\n' + (files / "crowd.toml").read_text())
    simulate(files / "planned.toml", str(files), files / "run", processes=1)
    save_plan(balanced(graph, 2), files / "plan.json")
    with pytest.raises(RunError, match=rf"other plan: {files}/plan.json \(.*\), not {files}/plan.json"):
        simulate(files / "planned.toml", str(files), files / "run", processes=1)
    save_plan(balanced(graph, 3), files / "plan.json")
    other = files / "other"
    other.mkdir()
    for split in ("train", "test"):
        with np.load(files / f"{split}.npz") as arrays:
            inputs, labels = arrays["inputs"], arrays["labels"]
        inputs[-1, -1] += split == "test"
        np.savez(other / f"{split}.npz", inputs=inputs, labels=labels)
    with pytest.raises(RunError, match=f"other test data: {files} .* not {other} "):
        simulate(files / "planned.toml", str(other), files / "run", processes=1)


def test_a_simulated_model_is_evaluated_and_exported_as_one_of_phones(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    last = json.loads((files / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    capsys.readouterr()
    evaluate(files / "run", str(files), as_json=True)
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(last["accuracy"])
    export_model(files / "run", onnx=files / "model.onnx", data=str(files))
    assert (files / "model.onnx").stat().st_size > 0


@pytest.mark.parametrize("left", [0, 1])
def test_lost_metrics_are_written_anew_from_the_checkpoint(files: Path, left: int) -> None:
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    metrics = files / "run" / "metrics.jsonl"
    before = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(before[:left]))
    simulate(files / "crowd.toml", str(files), files / "run", processes=1)
    old, new = ([json.loads(line) for line in lines] for lines in (before, metrics.open()))
    for was, now in zip(old, new, strict=True):
        assert now.pop("time") == pytest.approx(was.pop("time"), abs=10)
        assert now == was


def test_a_saved_plan_says_who_owns_what(files: Path) -> None:
    graph = neuron_graph(build_model("mlp:6-10-8-4", 0), torch.zeros(2, 6), "mlp:6-10-8-4")
    save_plan(balanced(graph, 3), files / "three.json")
    planned = 'plan = "three.json"\n' + (files / "crowd.toml").read_text()
    (files / "planned.toml").write_text(planned)
    simulate(files / "planned.toml", str(files), files / "planned", processes=1)
    assert len(load_plan(files / "planned" / "plan.json", graph).pieces) == 3
    (files / "planned.toml").write_text(planned.replace("group = 4", "group = 2"))
    with pytest.raises(ConfigError, match="3 pieces for groups of 2"):
        simulate(files / "planned.toml", str(files), files / "other", processes=1)


def test_a_mistake_in_the_configuration_names_key_and_value(files: Path) -> None:
    (files / "wrong.toml").write_text("[sharing]\ntheta = 3\n")
    with pytest.raises(ConfigError, match=r"wrong.toml: sharing.theta = 3: .*less than or equal to 1"):
        simulate(files / "wrong.toml", str(files), files / "run")


def test_a_missing_ray_is_told(files: Path) -> None:
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(TrainingError, match=r"crowdlearn\[ray\]"):
            simulate(files / "crowd.toml", str(files), files / "run", engine=Engine.ray)
    else:
        pytest.skip("ray is installed")
