"""Every message of `benchmarks.brokers` arrives, by the relay and by nats-server."""

from __future__ import annotations

import tempfile

import pytest

from benchmarks.brokers import KINDS, measure
from benchmarks.relay import SIZES, nats_server


def test_messages_are_exchanged_by_both() -> None:
    pytest.importorskip("nats", reason="nats-py is not installed")
    if nats_server(tempfile.gettempdir()) is None:
        pytest.skip("nats-server is not installed")
    rows = measure(list(KINDS), 1, 200)
    assert [(row["message"], row["by"]) for row in rows] == [(size, kind) for size in SIZES for kind in KINDS]
    assert all(row["messages_per_second"] > 0 for row in rows)
