"""Peers that are ill and not dead: a slow disk, one that takes no writes, an event loop that is blocked. Each says so, the
others go on without waiting for it, and it recovers by itself.

The illnesses are real: writes throttled by the kernel, files it refuses to change, a loop stopped in its system call.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_tools import content, wait_until
from tests.cluster_world import ClusterWorld
from tools.chaos.ailments import NoAilment, SlowDisk, make_read_only, make_writable
from tools.chaos.machines import NoDisk, small_disk

MIB = 1 << 20
ILL = 2
ANSWERED_S = 90.0
"""So that a busy machine fails no test. That nobody waits is shown on virtual time, and measured by `atoll chaos`."""
HEALTHY_S = 150.0


@contextmanager
def world_on_a_small_disk(directory: Path, part: str = "") -> Iterator[tuple[ClusterWorld, Path]]:
    """Three peers, the last one on a file system of its own, or this part of its directory, with a bucket; skips where none
    can be made."""
    try:
        with small_disk(directory, 512 * MIB) as disk:
            world = ClusterWorld(directory / "peers")
            (disk / "data").mkdir(mode=0o700)
            place = world.place(ILL).directory / part
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(disk / "data")
            with world:
                assert (
                    world.call("PUT", "/v1/buckets/ill", b'{"shards": 4}', timeout_s=ANSWERED_S).status == 201
                )
                yield world, disk
    except NoDisk as why:
        pytest.skip(f"cannot make a small disk here: {why}; mkfs.ext4 comes with: make test-deps")


class Load:
    """Objects put through every peer named, one after the other, and read through another one."""

    def __init__(self, world: ClusterWorld, *peers: int) -> None:
        self.world = world
        self.peers = peers or (0, 1, 2)
        self.stored: dict[str, bytes] = {}

    def round(self) -> None:
        """A small and a large object through each peer."""
        for peer in self.peers:
            for size in (300, 200_000):
                key = f"object-{len(self.stored):04}"
                body = content(len(self.stored), size)
                self.put(key, body, peer)
                self.stored[key] = body
                self.read(key, self.peers[(peer + 1) % len(self.peers)])

    def put(self, key: str, body: bytes, peer: int) -> None:
        """As a client does: once more after a 503, such as a machine that stood still for seconds gives."""
        answers: list[Any] = []

        def stored() -> bool:
            path = f"/v1/buckets/ill/objects/{key}"
            answers.append(self.world.call("PUT", path, body, peer=peer, timeout_s=ANSWERED_S))
            assert answers[-1].status in (200, 503), answers[-1].body
            return bool(answers[-1].status == 200)

        wait_until(stored, f"{key} is stored through peer {peer}", ANSWERED_S)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Go on until it holds."""

        def look() -> bool:
            self.round()
            return holds()

        wait_until(look, what, ANSWERED_S)

    def read(self, key: str, peer: int) -> None:
        path = f"/v1/buckets/ill/objects/{key}"
        answer = self.world.call("GET", path, peer=peer, timeout_s=ANSWERED_S)
        assert (answer.status, answer.body) == (200, self.stored[key]), (key, peer)

    def read_all(self) -> None:
        for key in self.stored:
            for peer in range(3):
                self.read(key, peer)


def node(world: ClusterWorld, peer: int) -> Any:
    """What peer 0 knows of a peer."""
    name = world.place(peer).name
    return next(one for one in world.json_of("/v1/cluster/nodes")["nodes"] if one["name"] == name)


def sentences(world: ClusterWorld, kind: str) -> dict[str, str]:
    """The reasons or the warnings of the verdict: code -> message."""
    return {one["code"]: one["message"] for one in world.json_of("/v1/cluster")[kind]}


def healthy(world: ClusterWorld) -> bool:
    told = world.json_of("/v1/cluster")
    return bool(told["verdict"] == "healthy" and told["redundancy"]["whole"])


def test_a_slow_disk(tmp_path: Path) -> None:
    """Goal: a peer that may write once a second says so; requests go on, through itself, too; what it missed it fetches,
    and the flag falls by itself."""
    with world_on_a_small_disk(tmp_path) as (world, disk):
        load = Load(world)
        load.round()
        try:
            slow = SlowDisk(world.pid(ILL), disk)
        except NoAilment as why:
            pytest.skip(f"no slow disk here: {why}")
        try:
            load.until(lambda: "slow" in node(world, ILL)["flags"], "it says that its disk is slow")
            for _ in range(10):
                load.round()
            assert "peer-3: disk slow (" in sentences(world, "warnings")["disk_slow"]
            assert "peer-3: disk slow (" in world.atoll("status").stdout
            assert node(world, ILL)["state"] in ("alive", "suspect")
        finally:
            slow.end()
        wait_until(lambda: healthy(world), "everything is everywhere", HEALTHY_S)
        wait_until(lambda: not node(world, ILL)["flags"], "the flag has fallen", ANSWERED_S)
        wait_until(lambda: not sentences(world, "warnings"), "nothing is said any more")
        journal = world.json_of("/v1/cluster/log")["events"]
        codes = [one["code"] for one in journal if (one["kind"], one["node"]["name"]) == ("disk", "peer-3")]
        assert codes[0] == "disk_slow" and codes[-1] == "disk_slow_over"
        load.read_all()


def test_a_read_only_disk(tmp_path: Path) -> None:
    """Goal: a peer whose disk refuses writes stays up, says so, and is a gateway still; with two such there is no majority,
    which is said and no doubt; reads go on all the time. When the disk takes writes it votes and heals by itself."""
    with world_on_a_small_disk(tmp_path) as (world, disk):
        load = Load(world)
        load.round()
        pid, second = world.pid(ILL), world.place(1).directory
        try:
            make_read_only(disk / "data")
        except NoAilment as why:
            pytest.skip(f"files cannot be made immutable here: {why}")
        try:
            load.until(lambda: "read-only" in node(world, ILL)["flags"], "it says that its disk is read-only")
            for _ in range(5):
                load.round()
            told = world.json_of("/v1/cluster")
            assert (told["verdict"], told["tolerates"]) == ("degraded", 0)
            assert sentences(world, "reasons")["disk_read_only"].startswith("peer-3: disk read-only (")
            assert world.json_of("/ready", peer=ILL)["reasons"] == ["the disk is read-only"]
            make_read_only(second)
            refused = wait_for_refusal(world)
            assert (refused.status, refused.code) == (503, "DiskReadOnly"), refused.body
            assert "its disk is read-only" in refused.message
            load.read_all()
            wait_until(
                lambda: "read-only" in node(world, 1)["flags"], "the second one says so, too", ANSWERED_S
            )
            make_writable(second)
            wait_until(lambda: not node(world, 1)["flags"], "the second one writes again", ANSWERED_S)
            load.round()
        finally:
            make_writable(second)
            make_writable(disk / "data")
        wait_until(lambda: healthy(world), "everything is everywhere", HEALTHY_S)
        assert world.pid(ILL) == pid and world.running(ILL) and not node(world, ILL)["flags"]
        load.read_all()


def test_chunks_on_a_read_only_disk_of_their_own(tmp_path: Path) -> None:
    """Goal: the disk that refuses writes is named, and told as long as it does, though the rows' disk takes every commit;
    objects without chunks go on with all their copies."""
    with world_on_a_small_disk(tmp_path, "segments") as (world, disk):
        load = Load(world)
        load.round()
        try:
            make_read_only(disk / "data")
        except NoAilment as why:
            pytest.skip(f"files cannot be made immutable here: {why}")
        try:
            load.until(lambda: "read-only" in node(world, ILL)["flags"], "it says that its disk is read-only")
            for number in range(20):
                load.put(f"small-{number}", b"in the rows", ILL)
                assert "read-only" in node(world, ILL)["flags"]
                assert "disk_read_only" in sentences(world, "reasons")
            said = "peer-3: disk read-only (segments/: "
            wait_until(
                lambda: sentences(world, "reasons").get("disk_read_only", "").startswith(said),
                "status names the disk",
            )
        finally:
            make_writable(disk / "data")
        wait_until(lambda: healthy(world), "everything is everywhere", HEALTHY_S)
        wait_until(lambda: not node(world, ILL)["flags"], "everybody has heard that its disk takes writes")
        load.read_all()


def wait_for_refusal(world: ClusterWorld) -> Any:
    """Put until it is refused for certain: the first ones may end as OutcomeUnknown, as one owner took them."""
    answers = []

    def refused() -> bool:
        path = "/v1/buckets/ill/objects/in-doubt"
        answers.append(world.call("PUT", path, b"never", timeout_s=ANSWERED_S))
        return answers[-1].status != 200 and answers[-1].code != "OutcomeUnknown"

    wait_until(refused, "a put is refused", ANSWERED_S)
    return answers[-1]


@contextmanager
def blocked_loop(world: ClusterWorld, peer: int, seconds: float) -> Iterator[None]:
    """The thread of a peer's event loop, and no other one, is held back in its next wait for events."""
    calls = "epoll_wait,epoll_pwait"
    words = ["strace", "-q", "-o", os.devnull, "-p", str(world.pid(peer)), "-e", f"trace={calls}"]
    held = subprocess.Popen(
        [*words, "-e", f"inject={calls}:delay_exit={round(seconds * 1e6)}:when=1"], stderr=subprocess.PIPE
    )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            held.send_signal(signal.SIGINT)
        held.communicate(timeout=60)


@contextmanager
def stopped_process(world: ClusterWorld, peer: int, seconds: float) -> Iterator[None]:
    """A peer that does not run at all."""
    world.signal(peer, signal.SIGSTOP)
    try:
        yield
    finally:
        world.signal(peer, signal.SIGCONT)


@pytest.mark.parametrize("how", ["blocked", "stopped"])
def test_a_loop_that_does_not_turn(tmp_path: Path, how: str) -> None:
    """Goal: requests through the others go on; when it turns again the peer says how long it did not, suspects nobody, and
    gets what it missed; a while later nothing is said any more."""
    if how == "blocked" and shutil.which("strace") is None:
        pytest.skip("strace is missing; it comes with: make test-deps")
    with ClusterWorld(tmp_path) as world:
        assert world.call("PUT", "/v1/buckets/ill", b'{"shards": 4}', timeout_s=ANSWERED_S).status == 201
        load = Load(world, 0, 1)
        load.round()
        with (blocked_loop if how == "blocked" else stopped_process)(world, ILL, 5.0):
            load.until(lambda: node(world, ILL)["state"] != "alive", "the others have noticed")
            for _ in range(20):
                load.round()
        wait_until(
            lambda: "blocked" in node(world, ILL)["flags"], "it says that its loop was blocked", ANSWERED_S
        )
        what = "event loop blocked" if how == "blocked" else "stopped"
        told = f"peer-3: {what} for "
        wait_until(
            lambda: told in sentences(world, "warnings").get("loop_blocked", ""), "and for how long", 60.0
        )
        wait_until(lambda: healthy(world), "everything is everywhere", HEALTHY_S)
        log = world.place(ILL).log.read_text()
        assert ("the event loop has not turned for" in log) is (how == "blocked")
        assert " is suspect" not in log and " is dead" not in log
        wait_until(lambda: not node(world, ILL)["flags"], "it is forgotten", ANSWERED_S)
        load.read_all()
