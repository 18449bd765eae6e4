"""A live cluster of an earlier version is upgraded, one peer after the other, while clients work; and one peer goes back.

The earlier version is the commit that completed healing, taken from this repository's history.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_tools import MIB, Writer, content, wait_until
from tests.cluster_world import ClusterWorld
from tests.ledgers import NUMBER, Ledger, check_ledgers
from tests.test_cli_watch import watching
from tests.test_cluster_kills import Reader
from tools.cli.profiles import write_profile

ROOT = Path(__file__).resolve().parent.parent
EARLIER = "ccb484d3d04211d1cbdab27499bd5e0459b2eca8"
STEADY = [900, 30_000, 300_000, 2 * MIB + 7]
HEALTHY_S = 60.0
PACE_S = 0.02
"""Between two requests of a client: a peer that comes back has to fetch all of what they write."""


def earlier_code(target: Path) -> Path:
    """The files of the earlier version, below `target`; skips where this is no clone that has them."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "archive",
        "--format=tar",
        EARLIER,
        "peer",
        "ring",
        "gossip",
        "tools",
        "tui",
    ]
    try:
        packed = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    except FileNotFoundError:
        pytest.skip("git is missing, which has the earlier version")
    except subprocess.CalledProcessError as problem:
        why = problem.stderr.decode(errors="replace").strip()
        pytest.skip(f"the earlier version is not in this clone ({why}); fetch it with: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(target, filter="data")
    return target


def told(world: ClusterWorld, peer: int) -> set[str]:
    """The states of all peers, as one of them tells them."""
    return {node["state"] for node in world.json_of("/v1/cluster", peer=peer)["nodes"]}


def works_both_ways(world: ClusterWorld, bucket: str, turn: str) -> None:
    """Every peer reads what every other one wrote, large and small, and tells the whole cluster."""
    for writer in range(3):
        for size in (500, MIB + 1):
            body, path = content(size + writer, size), f"/v1/buckets/{bucket}/objects/{turn}-{writer}-{size}"
            assert world.call("PUT", path, body, peer=writer).status == 200
            for reader in range(3):
                answer = world.call("GET", path, peer=reader)
                assert (answer.status, answer.body) == (200, body), (turn, writer, reader)
        if runs(
            world, writer, None
        ):  # what the earlier ones cannot tell is told of them, or said to be missing
            for view in ("nodes", "views", "log", "workers"):
                assert world.call("GET", f"/v1/cluster/{view}", peer=writer).status == 200, (turn, view)
    for peer in range(3):
        wait_until(lambda peer=peer: told(world, peer) == {"alive"}, f"all are alive for peer {peer}")  # type: ignore[misc]


def runs(world: ClusterWorld, peer: int, code: Path | None) -> bool:
    """Whether it is that tree's code that the peer runs, as far as its description of itself says."""
    described = json.loads(((code or ROOT) / "peer" / "api" / "openapi.json").read_bytes())
    return bool(world.json_of("/openapi.json", peer=peer) == described)


def replace_code(world: ClusterWorld, peer: int, code: Path | None) -> None:
    """Stop it, start it on its directory."""
    assert world.stop(peer) == 0
    world.code = code
    world.start(peer)
    world.wait_ready(peer)
    assert runs(world, peer, code)


def upgrade(world: ClusterWorld, peer: int) -> None:
    """As docs/operate.md says it: the next one only when all is healthy."""
    replace_code(world, peer, None)
    wait_until(lambda: world.json_of("/v1/cluster", peer=peer)["verdict"] == "healthy", "healthy", HEALTHY_S)
    assert world.atoll("status", peer=peer).returncode == 0


def check_watch(watch: subprocess.Popen[bytes], out: Path) -> None:
    """`atoll status --watch` began with the earlier version's peers, saw each of them started anew, and moved when its own
    was stopped."""

    def seen() -> list[dict[str, Any]]:
        return [json.loads(line) for line in out.read_bytes().splitlines()]

    wanted = {"peer-1", "peer-2", "peer-3"}
    wait_until(lambda: {one["node"] for one in seen() if "boot" in one} == wanted, "each was started anew")
    kinds = [one["kind"] for one in seen()]
    assert kinds[:2] == ["connected", "state"] and kinds.count("connected") > 1
    watch.send_signal(signal.SIGINT)
    assert watch.wait(60) == 130
    assert watch.stderr is not None and watch.stderr.read().strip() == b"atoll: interrupted"


def test_upgraded_one_peer_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Goal: each peer in turn goes on with the new version, under load: no request fails for good, what was acknowledged
    reads back, conditions are judged exactly, and old and new peers serve each other at every step. Then one goes back to
    the earlier version."""
    earlier = earlier_code(tmp_path / "earlier")
    monkeypatch.setenv("ATOLL_CONFIG_HOME", str(tmp_path / "peers"))
    with ClusterWorld(tmp_path / "peers", options=["--chunk-size", "1MiB"], code=earlier) as world:
        assert runs(world, 0, earlier) and not runs(world, 0, None)
        for options in ([], ["--plain"]):  # of this version, to peers of the earlier one
            assert "tolerates" in world.atoll("status", *options).stdout
        with world.client() as client, ExitStack() as stack:
            write_profile("upgraded", [world.api_url(2)], *world.credentials, True)
            out = stack.enter_context((tmp_path / "watch").open("wb"))
            watch = stack.enter_context(watching(world, "-o", "jsonl", stdout=out))
            client.create_bucket("upgraded", shards=4)
            for number, size in enumerate(STEADY):
                client.put("upgraded", f"steady/{number}", content(number, size))
            client.put("upgraded", NUMBER, b"0")
            reader = stack.enter_context(Reader(client, "upgraded", STEADY, 1, pace_s=PACE_S))
            writer = stack.enter_context(
                Writer(client, "upgraded", "w/", size=40_000, most=100_000, pace_s=PACE_S)
            )
            ledgers = [stack.enter_context(Ledger(client, "upgraded", who)) for who in range(2)]
            busy = (reader, writer, *ledgers)
            for peer in range(3):
                for one in busy:
                    one.wait_for(5)
                upgrade(world, peer)
                works_both_ways(world, "upgraded", f"up-{peer}")
            replace_code(world, 0, earlier)
            works_both_ways(world, "upgraded", "back")
            for one in busy:
                one.wait_for(5)
            check_watch(watch, tmp_path / "watch")
        assert reader.failure is None, f"a read failed: {reader.failure!r}"
        for peer in (0, 1):  # one of the earlier version, and one of this
            with world.client(peer, pin=True) as client:
                check_ledgers(client, "upgraded", ledgers)
                writer.check(client)
        record_property("reads", reader.reads)
        record_property("writes", len(writer.state))
        record_property("conditional writes", sum(one.added + len(one.claimed) for one in ledgers))
        record_property("refused", sum(one.refused for one in ledgers))
