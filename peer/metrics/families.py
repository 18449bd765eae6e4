"""Families of samples, made of numbers that were counted elsewhere.

Names follow Prometheus' rules: base units (seconds, bytes), `_total` for what only grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from peer.durations import Durations

if TYPE_CHECKING:
    from prometheus_client import Metric

Families = Iterator["Metric"]
Sample = tuple[tuple[str, ...], float]
"""The values of a family's labels, in their order, and the number."""


def gauge(name: str, text: str, value: float) -> Metric:
    """What is so now, one number."""
    return GaugeMetricFamily(name, text, value=value)


def gauges(name: str, text: str, labels: Iterable[str], samples: Iterable[Sample]) -> Metric:
    """What is so now, by labels."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for values, number in samples:
        family.add_metric(values, number)
    return family


def counter(name: str, text: str, value: float) -> Metric:
    """What only grows. `name` is without `_total`, which the samples get."""
    return CounterMetricFamily(name, text, value=value)


def counters(name: str, text: str, labels: Iterable[str], samples: Iterable[Sample]) -> Metric:
    """What only grows, by labels."""
    family = CounterMetricFamily(name, text, labels=list(labels))
    for values, number in samples:
        family.add_metric(values, number)
    return family


def histogram(
    name: str, text: str, labels: Iterable[str], samples: Iterable[tuple[tuple[str, ...], Durations]]
) -> Metric:
    """How long things took, by labels."""
    family = HistogramMetricFamily(name, text, labels=list(labels))
    for values, took in samples:
        family.add_metric(values, list(took.cumulative()), took.total_s)
    return family


def each(numbers: Mapping[str, float]) -> Iterator[Sample]:
    """The samples of a family with one label."""
    return (((name,), number) for name, number in numbers.items())


def one_of(states: Iterable[str], present: str) -> Iterator[Sample]:
    """A sample for each state: 1 for the present one, 0 for the others."""
    return (((state,), float(state == present)) for state in states)
