"""Fixtures that several test modules share."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster_world import ClusterWorld


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    """Three peers that all tests share: nobody kills or restarts one, and each test uses buckets of its own.

    Chunks of 64 KiB make objects of many chunks, and of manifests, cheap.
    """
    with ClusterWorld(tmp_path_factory.mktemp("cluster"), 3, options=["--chunk-size", "64KiB"]) as world:
        yield world


_numbers = itertools.count(1)


@pytest.fixture
def bucket(cluster: ClusterWorld) -> str:
    """A bucket of the shared cluster that is this test's own; few shards, so that making it is cheap."""
    name = f"bucket-{next(_numbers)}"
    assert cluster.call("PUT", f"/v1/buckets/{name}", b'{"shards": 4}').status == 201
    return name


@pytest.fixture
def large_path(tmp_path: Path) -> Iterator[Path]:
    """A directory for gigabytes: removed when the test ends, however it ends."""
    path = tmp_path / "large"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests measured (record_property), so that they can be read and compared."""
    measured = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and report.user_properties
    ]
    if measured:
        terminalreporter.section("figures")
    for report in measured:
        terminalreporter.write_line(report.nodeid)
        for name, value in report.user_properties:
            terminalreporter.write_line(f"    {name}: {value}")
