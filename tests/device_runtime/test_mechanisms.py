"""Conformance of privacy mechanisms, and the chain that everything leaves a device by."""

from __future__ import annotations

import numpy as np
import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.privacy.mechanisms.base import Mechanism, Metrics, Place, SumsPlace
from crowdlearn_device.privacy.mechanisms.outgoing import MECHANISMS, Outgoing, outgoing_of
from crowdlearn_device.privacy.tap import MemoryTap
from crowdlearn_device.protocol import wire_pb2 as pb

AT = SumsPlace("sums", 3, 0, 1, 2)
REPORTS = [Metrics(4, 2.0, 1), Metrics(4, 1.0, 3), Metrics(2, 0.5, 2, last=True)]


@pytest.fixture(params=sorted(MECHANISMS))
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    return MECHANISMS[request.param]({}, Place(secret=5))


def test_a_mechanism_is_registered_by_its_own_name(mechanism: Mechanism) -> None:
    assert MECHANISMS[mechanism.name] is type(mechanism)
    assert type(mechanism).__doc__


def test_a_mechanism_keeps_shape_and_dtype_and_leaves_the_devices_own_arrays_alone(
    mechanism: Mechanism,
) -> None:
    sums, values = np.ones((4, 3), np.float32), np.ones(5, np.float32)
    indices = np.arange(5, dtype=np.uint32)
    for given, left in ((sums, mechanism.sums(sums, AT)), (values, mechanism.weights(indices, values, 0))):
        assert (left.shape, left.dtype) == (given.shape, np.float32)
        assert np.isfinite(left).all()
        np.testing.assert_array_equal(given, np.ones_like(given))


def test_a_mechanism_reports_no_more_samples_than_there_were(mechanism: Mechanism) -> None:
    left = [told for each in REPORTS if (told := mechanism.metrics(each)) is not None]
    assert sum(told.rows for told in left) <= sum(each.rows for each in REPORTS)
    assert all(np.isfinite(told.loss) and told.correct <= told.rows for told in left)


def test_a_mechanism_refuses_settings_that_it_does_not_have(mechanism: Mechanism) -> None:
    with pytest.raises(WireError, match="no setting nonsense"):
        type(mechanism)({"nonsense": 1.0}, Place())


def test_a_device_refuses_a_mechanism_that_it_does_not_know() -> None:
    with pytest.raises(WireError, match="'other', this device has report_nothing"):
        outgoing_of([pb.Mechanism(name="other")], Place())


def test_a_pass_is_reported_by_its_mean_alone() -> None:
    chain = outgoing_of([pb.Mechanism(name="report_passes")], Place())
    assert [chain.metrics(each) for each in REPORTS] == [None, None, Metrics(10, 1.3, 6, last=True)]
    chain = outgoing_of([pb.Mechanism(name="report_passes")], Place())
    own = [Metrics(6, 0.0, 0, own={"near": 0.5}), Metrics(2, 0.0, 0, last=True, own={"near": 1.0})]
    assert [chain.metrics(each) for each in own] == [None, Metrics(8, 0.0, 0, True, {"near": 0.625})]


def test_a_tap_listens_behind_the_mechanisms() -> None:
    tap = MemoryTap()
    outgoing = outgoing_of([pb.Mechanism(name="report_passes")], Place(2, 1, 0), tap)
    for each in REPORTS:
        outgoing.metrics(each)
    outgoing.weights(np.arange(2, dtype=np.uint32), np.ones(2, np.float32), 4)
    assert [(r.kind, r.name, r.generation, r.boundary) for r in tap.records] == [
        ("metrics", "", 2, 0),
        ("shared", "indices", 2, 4),
        ("shared", "values", 2, 4),
    ]


def test_mechanisms_act_in_their_order() -> None:
    class Twice(Mechanism):
        name = "twice"

        def sums(self, values: np.ndarray, at: SumsPlace) -> np.ndarray:
            return 2 * values

    class More(Mechanism):
        name = "more"

        def sums(self, values: np.ndarray, at: SumsPlace) -> np.ndarray:
            return values + 1

    chain = Outgoing([Twice({}, Place()), More({}, Place())])
    np.testing.assert_array_equal(chain.sums(np.ones((1, 1), np.float32), AT), [[3.0]])
