"""Canned answers of the API and a feed that gives them, for tests of the terminal UI: no network, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tui.feed import Feed, FeedError

PEERS = ("http://127.0.0.1:7401", "http://127.0.0.1:7411", "http://127.0.0.1:7421")


def node(number: int, state: str = "alive", **changes: Any) -> dict[str, Any]:
    """One entry of `nodes`; peer-1 is the one that answers."""
    entry = {
        "id": f"{number:016x}",
        "name": f"peer-{number}",
        "self": number == 1,
        "host": "127.0.0.1",
        "s3_url": f"http://127.0.0.1:{7390 + 10 * number}",
        "api_url": f"http://127.0.0.1:{7391 + 10 * number}",
        "peer_address": f"127.0.0.1:{7392 + 10 * number}",
        "zone": f"rack-{number}",
        "state": state,
        "incarnation": number,
        "boot": 1,
        "last_heard_s": 0.4,
        "version": "0.1.0",
        "epoch": [1, 3],
        "flags": [],
        "capacity_bytes": 500 * 10**9,
        "used_bytes": number * 10**9,
        "partitions": 4096,
        "share": 1 / 3,
        "owned_fair": 1 / 3,
    }
    return entry | changes


def cluster(**changes: Any) -> dict[str, Any]:
    """`GET /v1/cluster` of three healthy peers."""
    answer = {
        "cluster_id": "c" * 32,
        "time": "2026-11-21T01:02:03.456789Z",
        "peer": {"id": f"{1:016x}", "name": "peer-1", "version": "0.1.0", "uptime_s": 10.0},
        "verdict": "healthy",
        "reasons": [],
        "tolerates": 1,
        "epoch": {"generation": 1, "number": 3, "kind": "final"},
        "replicas": 3,
        "partition_power": 12,
        "chunk_bytes": 4 << 20,
        "partitions": {"total": 4096, "full": 4096, "degraded": 0, "unavailable": 0},
        "nodes": [node(1), node(2), node(3)],
    }
    return answer | changes


def degraded() -> dict[str, Any]:
    """The same with peer-2 dead."""
    return cluster(
        verdict="degraded",
        reasons=[{"code": "PeerDead", "message": "peer-2 is dead: 4,096 partitions lack a copy"}],
        tolerates=0,
        partitions={"total": 4096, "full": 0, "degraded": 4096, "unavailable": 0},
        nodes=[node(1), node(2, "dead", used_bytes=None, last_heard_s=75.0), node(3)],
    )


def ring(members: int = 3) -> dict[str, Any]:
    return {
        "epoch": {"generation": 1, "number": 3, "kind": "final"},
        "partition_power": 4,
        "replicas": 3,
        "members": [{"id": f"{number:016x}", "name": f"peer-{number}"} for number in range(1, members + 1)],
        "owners": [[(part + i) % members for i in range(3)] for part in range(16)],
    }


class Scene:
    """What each peer would answer, and a clock that stands still until it is moved."""

    def __init__(self, answer: Mapping[str, Any] | None = None) -> None:
        self.now = 100.0
        self.answers: dict[str, Mapping[str, Any]] = {PEERS[0]: answer or cluster()}
        self.failures: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []

    async def fetch(self, endpoint: str, what: str) -> Mapping[str, Any]:
        self.asked.append((endpoint, what))
        if endpoint in self.failures or endpoint not in self.answers:
            raise FeedError(self.failures.get(endpoint, "connection refused"))
        return ring() if what == "ring" else self.answers[endpoint]

    def feed(self, *endpoints: str, pinned: bool = False) -> Feed:
        return Feed(list(endpoints or PEERS[:1]), self.fetch, lambda: self.now, pinned=pinned)
