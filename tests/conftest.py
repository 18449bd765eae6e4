"""Fixtures that several test modules share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

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
