"""Durations are counted in the class they belong to, and told as Prometheus' histograms want it."""

from __future__ import annotations

from peer.api.accounting import GONE, OPERATIONS, Requests
from peer.durations import DISK_S, LAG_S, REQUEST_S, Durations


def test_a_duration_is_in_its_class() -> None:
    """Goal: bounds belong to their class (`le`), what is longer than all of them to the last, and the sum is exact."""
    took = Durations((0.1, 1.0))
    for seconds in (0.0, 0.1, 0.25, 1.0, 7.5):
        took.observe(seconds)
    assert list(took.cumulative()) == [("0.1", 2), ("1.0", 4), ("+Inf", 5)]
    assert took.count == 5 and took.total_s == 8.85


def test_bounds_rise() -> None:
    """Goal: every set of bounds is in order, so that a search by halves finds the class."""
    for bounds in (REQUEST_S, DISK_S, LAG_S):
        assert list(bounds) == sorted(set(bounds))


def test_requests_are_summed_by_kind() -> None:
    """Goal: `status` and the events hear of requests by kind and of errors by status, not of health checks and who left."""
    requests = Requests("api")
    for operation, code in (
        ("put_object", 200), ("put_object", 503), ("get_bucket", 200), ("put_bucket", 201), ("health", 503),
        ("get_object", GONE),
    ):  # fmt: skip
        requests.begun += 1
        requests.end(operation, code, 0.01)
    requests.begun += 1
    assert requests.summary() == {"PUT": 2, "bucket": 2, "GET": 1, "status 503": 2}
    assert requests.in_flight == 1
    assert set(requests.operations) == set(OPERATIONS)
