"""The main job on real processes: a tree stored through one peer outlives the death of any, then of all.

Stored through peer 1; peer 2 is killed; everything reads back identical through peer 3 while more is written; peer 2
comes back and serves what was written meanwhile; all are killed and started again, and everything is there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster_tools import (
    MIB,
    Writer,
    assert_same_tree,
    files_below,
    listing,
    make_file,
    standard_library,
)
from tests.cluster_world import ClusterWorld

PACKAGES = ("asyncio", "email", "encodings", "importlib", "json", "unittest", "xml")

Figure = Callable[[str, object], None]


@contextmanager
def timed(figure: Figure, what: str, size: int = 0) -> Iterator[None]:
    """Record how long the block took, and how fast `size` bytes moved."""
    begun_s = time.monotonic()
    yield
    took_s = time.monotonic() - begun_s
    rate = f" ({size / took_s / 1e6:.0f} MB/s)" if size else ""
    figure(what, f"{took_s:.1f} s{rate}")


def command(world: ClusterWorld, *arguments: str, peer: int) -> None:
    """One command line that must succeed."""
    ran = world.atoll(*arguments, peer=peer, deadline_s=1800.0)
    assert ran.returncode == 0, f"atoll {' '.join(arguments)}: {ran.stderr[-2000:]}"


def read_back(world: ClusterWorld, tree: Path, target: Path, peer: int) -> None:
    """`atoll get -r` through one peer gives the same tree."""
    command(world, "get", "-r", "tree/lib", str(target), peer=peer)
    assert_same_tree(tree, target)
    shutil.rmtree(target)


def assert_listed(world: ClusterWorld, tree: Path, peer: int) -> None:
    """The listing names exactly the tree's files, with their sizes."""
    with world.client(peer, pin=True) as client:
        listed = {entry.key.removeprefix("lib/"): entry.size for entry in listing(client, "tree", "lib/")}
    assert listed == files_below(tree)


def outlives(world: ClusterWorld, tree: Path, scratch: Path, figure: Figure) -> None:
    """The scenario, from an empty cluster to one that was killed as a whole."""
    size = sum(files_below(tree).values())
    figure("tree", f"{len(files_below(tree))} files, {size / 1e6:.0f} MB")
    with world.client(0) as client:
        client.create_bucket("tree")
        client.create_bucket("more")
    with timed(figure, "stored through peer 1", size):
        command(world, "put", "-r", str(tree), "tree/lib", peer=0)

    world.kill(1)
    with world.client(2, 0) as client, Writer(client, "more", "meanwhile/") as writer:
        with timed(figure, "read back through peer 3, peer 2 dead, while more was written", size):
            read_back(world, tree, scratch / "back", peer=2)
        writer.wait_for(20)
        with timed(figure, "peer 2 ready again"):
            world.start(1)
            world.wait_ready(1)
    with (
        timed(figure, "all that was written meanwhile read through peer 2"),
        world.client(1, pin=True) as client,
    ):
        figure("objects written meanwhile", writer.check(client))
    with timed(figure, "read back through peer 2", size):
        assert_listed(world, tree, peer=1)
        read_back(world, tree, scratch / "back", peer=1)

    world.kill_all()
    with timed(figure, "all ready again"):
        world.start_again()
    for peer in range(3):
        assert_listed(world, tree, peer)
        with world.client(peer, pin=True) as client:
            writer.check(client)
    with timed(figure, "read back after all were killed", size):
        read_back(world, tree, scratch / "back", peer=0)


def test_a_tree_outlives_every_peer(tmp_path: Path, record_property: Figure) -> None:
    """Goal: some hundred files and one of many chunks, through the deaths of one peer and of all."""
    tree = tmp_path / "tree"
    assert standard_library(tree, PACKAGES) > 200
    make_file(tree / "many-chunks", 40 * MIB + 4321)
    with ClusterWorld(tmp_path / "cluster") as world:
        outlives(world, tree, tmp_path, record_property)


@pytest.mark.full
def test_the_standard_library_and_four_gibibytes(large_path: Path, record_property: Figure) -> None:
    """Goal: the acceptance of the first release: Python's whole library and a file of 4 GiB, as above."""
    tree = large_path / "tree"
    assert standard_library(tree) > 1000
    make_file(tree / "four-gibibytes", 4096 * MIB)
    with ClusterWorld(large_path / "cluster") as world:
        outlives(world, tree, large_path, record_property)
