"""The audit finds what plain mode gives away, and nothing where nothing is sent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_host.cli import build
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.plan import save_plan
from crowdlearn_host.privacy.audit import labels, membership
from crowdlearn_host.privacy.audit.attacks import Evidence, Linear, PriorOnly
from crowdlearn_host.privacy.audit.audit import Auditor, Finding, image_shape
from crowdlearn_host.privacy.audit.case import Case, rehearsed_case
from crowdlearn_host.privacy.audit.figures import auc, psnr
from crowdlearn_host.privacy.audit.on_shares import Noise, findings_on_shares
from crowdlearn_host.privacy.audit.page import page
from crowdlearn_host.runs.folder import new_run
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.spec.run_spec import RunSpec
from torch import nn
from typer.testing import CliRunner

from .models_without_batch_norm import smooth

MODEL = "mlp:64-40-24-10"
VALUES = {
    "data": "digits",
    "model": MODEL,
    "group": {"pieces": 3},
    "training": {"batch": 32, "micro_batch": 32, "learning_rate": 0.05, "kernels": "by_size"},
}


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(parse_config(VALUES, RunSpec, "the test"), lambda event, fields: None)


@pytest.fixture(scope="module")
def case(prepared: Prepared) -> Case:
    return rehearsed_case(prepared, samples=200, epochs=2)


@pytest.fixture(scope="module")
def findings(case: Case) -> list[Finding]:
    return list(Auditor(case, quick=True).findings())


def of(findings: list[Finding], attack: str, role: str = "follower") -> Finding:
    return next(f for f in findings if attack in f.attack and f.role == role)


def test_a_follower_reads_labels(findings: list[Finding]) -> None:
    assert (of(findings, "least error").label_accuracy or 0) >= 0.95


def test_a_follower_reconstructs_and_re_identifies(findings: list[Finding]) -> None:
    found = of(findings, "linear, PCA prior, interpolated weights")
    assert (found.psnr or 0) >= (found.prior_psnr or 0) + 5
    assert (found.reid or 0) >= 0.9


def test_hidden_layers_alone_tell_of_samples(findings: list[Finding]) -> None:
    found = of(findings, "hidden layers only")
    assert (found.psnr or 0) >= (found.prior_psnr or 0) + 1


def test_colluders_learn_more(findings: list[Finding]) -> None:
    alone = of(findings, "linear, PCA prior, interpolated weights")
    together = of(findings, "linear, PCA prior, interpolated weights", "all followers")
    assert (together.psnr or 0) > (alone.psnr or 0)


def test_an_heir_tells_members(findings: list[Finding]) -> None:
    heir, both = (of(findings, "membership", role).auc or 0 for role in ("heir", "heir with host"))
    assert heir > 0.53
    assert both > 0.53  # of all the victim's passes


def test_a_page_shows_pictures_beside_reconstructions(case: Case, findings: list[Finding]) -> None:
    told = page("a title", findings, case.victim.inputs[:4])
    shown = sum(finding.pictures is not None for finding in findings)
    assert told.count("data:image/png") == shown + 1
    assert "<script" not in told


@pytest.fixture(scope="module")
def on_shares(case: Case) -> list[Finding]:
    model = build_model(MODEL, 0)
    return list(findings_on_shares(case, model, batch=128, quick=True, first_layer=True))


def test_one_helper_on_shares_learns_nothing_of_a_sample(on_shares: list[Finding]) -> None:
    helper = [f for f in on_shares if f.role == "helper"]
    assert len(helper) > 8
    for found in helper:
        assert (found.psnr or 0) <= (found.prior_psnr or 0) + 0.5, found.attack
        assert (found.ssim or 0) <= (found.prior_ssim or 0) + 0.05, found.attack
        assert (found.reid or 0) <= 0.01, found.attack
        assert (found.label_accuracy or 0) <= 0.17, found.attack  # 600 samples: chance deviates


@pytest.fixture(scope="module")
def two_triples(case: Case) -> list[Finding]:
    """The second triple has a part of the first map, and all of the second one."""
    model = build_model(MODEL, 0)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    held = {names[0]: (40, 24), names[1]: (0, 40)}
    return list(findings_on_shares(case, model, batch=128, quick=True, first_layer=True, held=held))


def test_a_helper_of_each_triple_together_learn_no_more_than_one(two_triples: list[Finding]) -> None:
    together = [f for f in two_triples if f.role == "a helper of each triple"]
    assert {"shares of activations", "shares of errors"} <= {f.attack.rpartition(", ")[2] for f in together}
    for found in [*together, *(f for f in two_triples if f.role == "helper")]:
        assert (found.psnr or 0) <= (found.prior_psnr or 0) + 0.5, found.attack
        assert (found.ssim or 0) <= (found.prior_ssim or 0) + 0.05, found.attack
        assert (found.reid or 0) <= 0.01, found.attack
        assert (found.label_accuracy or 0) <= 0.17, found.attack  # 600 samples: chance deviates


def test_two_helpers_of_a_triple_read_what_enters_its_maps(two_triples: list[Finding]) -> None:
    first, second = (f for f in two_triples if f.role == "2 helpers of a triple")
    assert "triple 2" in second.attack
    for found in (first, second):
        assert (found.psnr or 0) > (found.prior_psnr or 0) + 3


def test_two_helpers_of_a_triple_learn_all(on_shares: list[Finding]) -> None:
    found = next(f for f in on_shares if f.role == "2 helpers of a triple")
    assert (found.psnr or 0) > (found.prior_psnr or 0) + 10


def test_noise_hides_members_in_opened_gradients(case: Case) -> None:
    def found(noise: Noise | None) -> float:
        seen = findings_on_shares(
            case, smooth(), batch=128, quick=True, first_layer=True, noise=noise, opened_alone=True
        )
        return of(list(seen), "opened gradient", "helper").auc or 0

    assert found(None) > 0.55
    assert 0.45 < found(Noise(clip=1.0, times=1.0)) < 0.55


def test_the_audit_finds_members_in_opened_gradients(on_shares: list[Finding]) -> None:
    assert (of(on_shares, "opened gradient", "helper").auc or 0) > 0.55


def test_nothing_is_learned_from_views_that_are_noise() -> None:
    rng = np.random.default_rng(0)
    inputs, noise = rng.random((900, 30), np.float32), rng.standard_normal((900, 20), np.float32)
    evidence = Evidence(noise[:600], inputs[:600], np.zeros(600, np.int64), noise[600:])
    prior = psnr(inputs[600:], PriorOnly().guess(evidence))
    assert psnr(inputs[600:], Linear().guess(evidence)) <= prior + 0.1


def test_members_lie_in_the_row_space_of_a_move() -> None:
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((500, 60)).astype(np.float32)
    moves = rng.standard_normal((40, 30)).astype(np.float32) @ samples[:30]
    found = membership.scores(moves, samples[:200], samples[200:])
    assert auc(found[:30], found[30:]) == 1.0


def test_decisive_errors_teach_the_others() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    seen = np.eye(3, dtype=np.float32)[truth] + 0.1 * rng.standard_normal((300, 3)).astype(np.float32)
    errors = 0.1 - np.eye(3, dtype=np.float32)[truth]
    errors[::2] = 0  # rounded away
    assert (labels.self_taught(errors, seen) == truth).mean() > 0.99


def test_shapes_of_images() -> None:
    assert image_shape((784,)) == (28, 28)
    assert image_shape((3, 32, 32)) == (3, 32, 32)
    assert image_shape((65,)) is None
    assert image_shape((5, 4, 4)) is None


def test_the_command_audits_a_plan(prepared: Prepared, tmp_path: Path) -> None:
    plan, html = tmp_path / "plan.json", tmp_path / "page.html"
    save_plan(prepared.plan, plan)
    command = ["privacy", str(plan), "--data", "digits", "--model", MODEL, "--samples", "60"]
    result = CliRunner().invoke(
        build(["privacy", "demo"]), [*command, "--quick", "--epochs", "1", "--json", "--html", str(html)]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert {"mode", "role", "attack", "n", "psnr", "prior_psnr", "ssim", "reid", "label_accuracy"} <= rows[
        0
    ].keys()
    assert "data:image/png" in html.read_text()


def test_an_attacker_with_few_samples_of_its_own_is_audited_too(prepared: Prepared) -> None:
    few = rehearsed_case(prepared, samples=200, own=80, epochs=1)
    found = list(Auditor(few, quick=True).findings())
    found += findings_on_shares(few, build_model(MODEL, 0), batch=512, quick=True, first_layer=True)
    assert all(finding.auc is None or 0 <= finding.auc <= 1 for finding in found)


def test_a_plan_without_its_model_and_a_network_on_one_device_are_refused(
    prepared: Prepared, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    save_plan(prepared.plan, plan)
    result = CliRunner().invoke(build(["privacy", "demo"]), ["privacy", str(plan), "--data", "digits"])
    assert "add --model" in str(result.exception)
    whole = parse_config({**VALUES, "group": {"pieces": 1}}, RunSpec, "the test")
    with pytest.raises(ConfigError, match="nothing is sent"):
        rehearsed_case(prepare(whole, lambda event, fields: None))


@pytest.mark.parametrize(
    ("sums", "role", "attack"),
    [("shares", "helper", "shares of errors"), ("masked", "follower", "hidden layers only")],
)
def test_the_command_audits_a_run_as_it_protects_its_sums(
    sums: str, role: str, attack: str, tmp_path: Path
) -> None:
    lines = [
        'name = "run"',
        f'model = "{MODEL}"',
        'data = "digits"',
        "group = { pieces = 4 }",
        "training = { batch = 32, micro_batch = 32 }",
        f'privacy = {{ sums = "{sums}" }}',
    ]
    (tmp_path / "config.toml").write_text("\n".join(lines))
    prepared = prepare(RunSpec.load(tmp_path / "config.toml"), lambda event, fields: None)
    with new_run(tmp_path / "run", "\n".join(lines), prepared, tmp_path):
        pass
    told = [
        "privacy",
        str(tmp_path / "run"),
        "--data",
        "digits",
        "--samples",
        "100",
        "--own",
        "300",
        "--epochs",
        "1",
    ]
    done = CliRunner().invoke(build(["privacy", "demo"]), [*told, "--quick", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert {row["mode"] for row in rows} == {sums}
    assert any(row["role"] == role and attack in row["attack"] for row in rows)
