"""Disks that fill up: what does not fit is refused with 507, reads go on, and space given back is used again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cluster_tools import MIB, content, wait_until
from tests.cluster_world import Answer, ClusterWorld
from tools.chaos.machines import NoDisk, small_disk
from tools.devlayout import DevError
from tools.rot import fill_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")

DISK = 512 * MIB
"""Room for a new peer, its floor of 64 MiB, segments, a log, and what somebody else fills and gives back."""
REFUSALS = {("InsufficientStorage", 507), ("ServiceUnavailable", 503), ("OutcomeUnknown", 503)}
"""The last when the disk was found full only by the commit of the row: another owner might have taken it."""


IN_DOUBT = {"in-doubt"}


@contextmanager
def disk_or_skip(directory: Path) -> Iterator[Path]:
    """A file system of DISK bytes; skips where mounting is not allowed."""
    with ExitStack() as stack:
        try:
            mounted = stack.enter_context(small_disk(directory, DISK))
        except NoDisk as why:
            pytest.skip(f"cannot make a small disk here: {why}; mkfs.ext4 comes with: make test-deps")
        yield mounted


def put(world: ClusterWorld, key: str, body: bytes, peer: int = 0) -> Answer:
    return world.call("PUT", f"/v1/buckets/disk/objects/{key}", body, peer=peer, timeout_s=60.0)


def delete(world: ClusterWorld, key: str) -> Answer:
    return world.call("DELETE", f"/v1/buckets/disk/objects/{key}", timeout_s=60.0)


def wait_for_refusal(world: ClusterWorld) -> Answer:
    """Put one small object again and again until it is refused, a few of them at most: a peer notices at a commit."""
    for number in range(20):
        answer = put(world, "in-doubt", content(number, 16_000))
        if answer.status != 200:
            return answer
    raise AssertionError("a full disk takes what it likes")


def refusal(answer: Answer) -> tuple[str, int]:
    return ("" if answer.status == 200 else answer.code, answer.status)


def assert_refused(answer: Answer) -> None:
    assert refusal(answer) in REFUSALS, answer.body


def assert_reads(world: ClusterWorld, stored: dict[str, bytes], peer: int = 0) -> None:
    for key, body in stored.items():
        answer = world.call("GET", f"/v1/buckets/disk/objects/{key}", peer=peer)
        assert (answer.status, answer.body) == (200, body), key
    listed = world.call("GET", "/v1/buckets/disk/objects", peer=peer).json["objects"]
    assert [entry["key"] for entry in listed if entry["key"] not in IN_DOUBT] == sorted(stored)


def reads(world: ClusterWorld, key: str) -> bool:
    try:
        return world.call("GET", f"/v1/buckets/disk/objects/{key}").status == 200
    except OSError:
        return False


def store_until_refused(world: ClusterWorld, stored: dict[str, bytes]) -> Answer:
    """Put chunks until one does not fit: its answer."""
    for number in range(2 * DISK // (4 * MIB)):
        body = content(number, 4 * MIB)
        answer = put(world, f"chunk-{number:03}", body)
        if answer.status != 200:
            return answer
        stored[f"chunk-{number:03}"] = body
    raise AssertionError("a disk took twice its size")


def test_a_full_disk(tmp_path: Path) -> None:
    """Goal: chunks stop at the floor with 507 while small objects still go; on a disk with no byte left both are
    refused and reads go on; a restart then says what it lacks, and with a few MiB serves again; with space given back
    all is as before."""
    with disk_or_skip(tmp_path) as disk, ClusterWorld(disk, 1, replicas=1) as world:
        assert world.call("PUT", "/v1/buckets/disk", b'{"shards": 4}').status == 201
        with (disk / "somebody-elses").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 128 * MIB)
        assert verdict(world) == ("healthy", [])
        stored: dict[str, bytes] = {}
        refused = store_until_refused(world, stored)
        assert (refused.status, refused.code) == (507, "InsufficientStorage")
        assert len(stored) > 20
        assert put(world, "small", b"fits below the floor").status == 200
        stored["small"] = b"fits below the floor"
        assert_reads(world, stored)
        assert verdict(world) == ("degraded", ["disk_full"])
        wait_for_flags(world, disk, ["full"])

        for number in range(200):
            assert put(world, f"to-go-{number:03}", content(number, 1000)).status == 200
        fill_disk(disk / "filler")
        refused = wait_for_refusal(world)
        assert (refused.status, refused.code) == (507, "InsufficientStorage")
        assert_refused(put(world, "in-doubt", content(10_001, 4 * MIB)))
        for number in range(150):  # refusals in between eat nothing of what deletions live on
            assert delete(world, f"to-go-{number:03}").status == 204
            assert refusal(put(world, "in-doubt", content(number, 16_000))) == ("InsufficientStorage", 507)
        assert verdict(world) == ("degraded", ["disk_full"])
        assert "takes deletions only" in world.json_of("/v1/cluster")["reasons"][0]["message"]
        assert world.json_of("/health/cluster")["verdict"] == "degraded"

        world.kill(0)  # with the ballast, a disk that is full is no reason to stay down
        world.start(0)
        wait_until(lambda: reads(world, "small"), "it serves what it has")
        assert delete(world, "to-go-150").status == 204
        assert refusal(put(world, "in-doubt", b"small")) == ("InsufficientStorage", 507)
        assert not (world.place(0).directory / "ballast").exists()
        fill_disk(disk / "filler-of-the-ballast")
        for number in range(151, 200):
            stored[f"to-go-{number:03}"] = content(number, 1000)
        assert_reads(world, stored)
        assert world.running(0)

        world.kill(0)
        world.start(0)
        with pytest.raises(DevError, match="No space left on device"):
            world.wait_ready(0)
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - 4 * MIB)
        world.start(0)
        wait_until(lambda: reads(world, "small"), "it serves what it has")
        assert world.call("GET", "/ready").status == 503
        assert_reads(world, stored)
        assert_refused(put(world, "in-doubt", content(10_002, 4 * MIB)))

        for name in ("filler", "filler-of-the-ballast", "somebody-elses"):
            (disk / name).unlink()
        for key, body in (("again", content(10_003, 4 * MIB)), ("small-again", b"fits")):
            wait_until(lambda key=key, body=body: put(world, key, body).status == 200, "it fits again")  # type: ignore[misc]
            stored[key] = body
        assert_reads(world, stored)
        wait_for_flags(world, disk, [])
        world.wait_ready(0)


def wait_for_flags(world: ClusterWorld, disk: Path, flags: list[str]) -> None:
    """Wait until the peer says these of itself; a failure tells what it knew and logged."""
    try:
        wait_until(lambda: flags_of(world) == flags, f"the peer says {flags} of itself")
    except AssertionError as failure:
        storage = world.call("GET", "/v1/cluster/nodes/self").json["storage"]
        log = (disk / "peer-1.log").read_text()[-4000:]
        raise AssertionError(f"{failure}\n{storage}\n{os.statvfs(disk)}\n{log}") from failure


def verdict(world: ClusterWorld) -> tuple[str, list[str]]:
    """What status says, and the codes of its reasons."""
    told = world.json_of("/v1/cluster")
    return told["verdict"], [reason["code"] for reason in told["reasons"]]


def flags_of(world: ClusterWorld) -> list[str]:
    return list(world.call("GET", "/v1/cluster/nodes/self").json["flags"])
