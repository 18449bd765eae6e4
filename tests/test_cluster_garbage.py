"""Real peers give back the space of what is overwritten, deleted and abandoned, while clients read and peers are killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.cluster_tools import MIB, content, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_cluster_kills import Reader

OBJECTS, SIZE = 60, 3 * MIB // 2
STEADY = (300_000, 2 * MIB + 7, 70_000)


def allocated(world: ClusterWorld) -> int:
    """Bytes of segment files that the file system holds for all peers."""
    folders = [world.place(index).directory / "segments" for index in range(3)]
    return sum(entry.stat().st_blocks * 512 for folder in folders for entry in os.scandir(folder))


def storage(world: ClusterWorld, index: int) -> dict[str, int]:
    return dict(world.json_of("/v1/cluster/nodes/self", peer=index)["storage"])


def live(world: ClusterWorld) -> list[int]:
    """Bytes of records that rows name, on each peer."""
    return [storage(world, index)["live_bytes"] for index in range(3)]


def test_space_comes_back(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Goal: objects written twice and then deleted, one peer killed and started again meanwhile, leave the disks as they
    were; not one read fails."""
    environment = {"ATOLL_GARBAGE_AFTER": "2s"}
    with ClusterWorld(tmp_path, options=["--chunk-size", "1MiB"], environment=environment) as world:
        with world.client() as client, ExitStack() as stack:
            client.create_bucket("garbage")
            for number, size in enumerate(STEADY):
                client.put("garbage", f"steady/{number}", content(number, size))
            wait_until(lambda: len(set(live(world))) == 1, "all copies are made")
            before, allocated_before = live(world), allocated(world)
            readers = [
                stack.enter_context(Reader(client, "garbage", list(STEADY), seed)) for seed in range(2)
            ]
            for version in range(2):
                for number in range(OBJECTS):
                    client.put("garbage", f"object/{number}", content(1000 * version + number, SIZE))
                    if number == OBJECTS // 2:
                        world.kill(1)
                        world.start(1)
            world.wait_ready(1)
            most, allocated_most = live(world), allocated(world)
            for number in range(OBJECTS):
                client.delete("garbage", f"object/{number}")
            world.kill(2)
            world.start(2)
            world.wait_ready(2)
            for reader in readers:
                reader.wait_for(20)
            wait_until(lambda: live(world) == before, "only what is there is kept", 240.0)
            wait_until(
                lambda: allocated(world) < allocated_before + (allocated_most - allocated_before) // 4,
                "the file system has the space back", 120.0,
            )  # fmt: skip
            assert [reader.failure for reader in readers] == [None, None]
        for name, value in {
            "live before, MiB": sum(before) / MIB,
            "live at most, MiB": sum(most) / MIB,
            "live after, MiB": sum(live(world)) / MIB,
            "allocated before, MiB": allocated_before / MIB,
            "allocated at most, MiB": allocated_most / MIB,
            "allocated after, MiB": allocated(world) / MIB,
            "punched since the last starts, MiB": sum(storage(world, i)["punched_bytes"] for i in range(3))
            / MIB,
        }.items():
            record_property(name, round(value, 1))
