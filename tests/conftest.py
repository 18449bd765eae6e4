"""Fixtures that several test modules share."""

from __future__ import annotations

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
