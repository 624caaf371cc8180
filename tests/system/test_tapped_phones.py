"""Taps of real runs over virtual phones hold what a rehearsal in one process holds, and give away as much."""

from __future__ import annotations

import numpy as np
import pytest
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.privacy.audit.audit import Auditor
from crowdlearn_host.privacy.audit.case import Case
from crowdlearn_host.privacy.audit.phones import phones_case
from crowdlearn_host.privacy.audit.rehearsal import rehearse
from crowdlearn_host.privacy.audit.views import views_of
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.spec.run_spec import RunSpec

pytestmark = pytest.mark.system
VALUES = {
    "data": "digits",
    "model": "mlp:64-40-24-10",
    "group": {"pieces": 3},
    "training": {
        "batch": 32,
        "micro_batch": 32,
        "learning_rate": 0.05,
        "kernels": "by_size",
        "wire": "float32",
    },
}


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(parse_config(VALUES, RunSpec, "the test"), lambda event, fields: None)


@pytest.fixture(scope="module")
def case(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return phones_case(prepared, tmp_path_factory.mktemp("tapped"), samples=200, epochs=2)


def test_phones_hold_what_a_rehearsal_holds(case: Case) -> None:
    tape = case.tapes[case.watched[0]]
    real = views_of(tape.records, (1,))
    fed = case.victim.subset(real.positions)
    # The rehearsal feeds in an order of its own; batches of the same samples give the same sums.
    rehearsed = rehearse(case.recipe, tape.before, fed, epoch=0, device=0, learning=False)
    mine = views_of(rehearsed.records, (1,))
    rows = np.argsort(mine.positions)
    for part, values in real.parts.items():
        if part.kind == "sums" and part.edge == 0:
            first = slice(0, case.recipe.training.batch)  # later ones are of weights that have moved
            np.testing.assert_allclose(values[first], mine.parts[part][rows][first], rtol=1e-4, atol=1e-4)


def test_the_audit_of_phones_finds_what_plain_mode_gives_away(case: Case) -> None:
    found = list(Auditor(case, quick=True).findings())
    labels = next(f for f in found if "least error" in f.attack)
    images = next(f for f in found if f.attack == "linear, PCA prior, interpolated weights")
    assert (labels.label_accuracy or 0) >= 0.95
    assert (images.psnr or 0) >= (images.prior_psnr or 0) + 5
    assert (images.reid or 0) >= 0.9
