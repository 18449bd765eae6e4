"""`python -m tests.tui_many PEERS SECONDS FILE`: a made-up recording of many peers, for looking and for measuring.

Everything a peer of such a cluster would tell, and as often: rates every second, workers and the cluster as they change,
some peers dead, some suspected, some that nobody agrees on, a ring that changes.
"""

from __future__ import annotations

import base64
import json
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.tui_canned import cluster, node

Told = tuple[float, str, dict[str, Any]]
POWER, REPLICAS = 12, 3
WORKERS = (
    "hints", "anti-entropy", "transition", "garbage", "scrub", "eviction", "purge", "chunk-sync", "recovery", "adoption",
)  # fmt: skip
BEGIN = datetime(2026, 11, 21, 12, tzinfo=UTC)


def story(peers: int, seconds: int, seed: int = 1) -> Iterator[Told]:
    """All events in order."""
    rng = random.Random(seed)
    nodes = [node(number, share=1 / peers, zone=f"rack-{number % 12}") for number in range(1, peers + 1)]
    members = [{"id": one["id"], "name": one["name"]} for one in nodes]
    owners = [rng.sample(range(peers), REPLICAS) for _ in range(1 << POWER)]
    epoch = {"generation": 0, "number": 7, "kind": "joint"}
    pending = set(range(1 << POWER))
    yield 0.0, "connected", {"url": "http://127.0.0.1:7401", "before": None, "why": None}
    yield 0.0, "hello", {"peer": members[0], "time": at(0), "types": []}
    for second in range(seconds):
        for one in rng.sample(nodes[1:], max(1, peers // 100)):
            one["state"] = (
                one["state"] if rng.random() < 0.7 else rng.choice(["alive", "alive", "suspect", "dead"])
            )
        for one in nodes:
            one["last_heard_s"] = round(rng.random() * 3, 3)
            one["whole"] = one["state"] == "alive"
        gone = [one for one in nodes if one["state"] == "dead"]
        degraded = sum(any(nodes[owner]["state"] == "dead" for owner in row) for row in owners)
        counts = {
            "total": 1 << POWER,
            "full": (1 << POWER) - degraded,
            "degraded": degraded,
            "unavailable": 0,
        }
        reasons = [{"code": "peer_down", "message": f"{one['name']} is dead"} for one in gone]
        yield float(second), "cluster", cluster(
            nodes=nodes, verdict="degraded" if gone else "healthy", reasons=reasons, tolerates=0 if gone else 1,
            partitions=counts, epoch=epoch, time=at(second),
        )  # fmt: skip
        pending -= set(rng.sample(sorted(pending), min(40, len(pending))))
        yield float(second), "ring", {
            "epoch": epoch, "partition_power": POWER, "replicas": REPLICAS, "members": members, "owners": owners,
            "before": owners, "pending": bitmap(pending),
        }  # fmt: skip
        yield float(second), "views", {"members": members, "views": [view(one, gone, rng) for one in nodes]}
        yield (
            float(second),
            "repair",
            {"workers": [w for one in nodes for w in workers(one, rng)], "failed": []},
        )
        yield float(second), "requests", requests(nodes, rng, second)
        peer = rng.choice(members)
        yield float(second), "log", {
            "id": f"{peer['id']}-1-{second}", "time": at(second), "node": peer, "kind": "membership", "code": "peer_suspect",
            "level": rng.choice(["info", "info", "warning", "error"]), "message": f"{peer['name']} is suspected",
        }  # fmt: skip


def at(second: float) -> str:
    return (BEGIN + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")


def bitmap(partitions: set[int]) -> str:
    bits = bytearray((1 << POWER) // 8)
    for partition in partitions:
        bits[partition >> 3] |= 1 << (partition & 7)
    return base64.b64encode(bits).decode()


def view(one: dict[str, Any], gone: list[dict[str, Any]], rng: random.Random) -> dict[str, Any]:
    believes = {other["id"]: "dead" if rng.random() < 0.95 else "suspect" for other in gone}
    return {"id": one["id"], "name": one["name"], "answers": one["state"] == "alive", "believes": believes}


def workers(one: dict[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    for name in WORKERS:
        queue = rng.randrange(1000) if rng.random() < 0.2 else 0
        yield {
            "worker": name, "node": {"id": one["id"], "name": one["name"]}, "state": "busy" if queue else "idle",
            "queue": queue, "oldest_s": 12.5 if queue else None, "done": rng.randrange(10**6), "rate": queue / 10,
            "bytes": rng.randrange(10**9), "left_s": 10.0 if queue else None, "per_second": None, "last_error": "",
            "detail": {},
        }  # fmt: skip


def requests(nodes: list[dict[str, Any]], rng: random.Random, second: int) -> dict[str, Any]:
    told = [
        {
            "id": one["id"], "name": one["name"], "per_second": {"GET": rng.randrange(90)}, "all": rng.randrange(90),
            "errors": 0, "bytes_in": rng.randrange(10**6), "bytes_out": rng.randrange(10**6),
            "used_bytes": rng.randrange(10**11), "last_heard_s": rng.random(),
        }
        for one in nodes
    ]  # fmt: skip
    sums = {key: sum(one[key] for one in told) for key in ("all", "errors", "bytes_in", "bytes_out")}
    return {"time": at(second), "nodes": told, "backlog": rng.randrange(10**5), **sums}


def main() -> None:
    peers, seconds, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    with path.open("w") as file:
        for when, kind, data in story(peers, seconds):
            file.write(json.dumps({"at": when, "event": kind, "data": data}) + "\n")


if __name__ == "__main__":
    main()
