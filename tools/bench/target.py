"""The cluster under load: its peers, their CPU time, the bucket the bench works in."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench.load import Load
from tools.bench.sources import Delete, Heads
from tools.bench.wire import Endpoint, ask

ASK_S = 10.0


class BenchError(Exception):
    """The bench cannot go on; says why and what to do. What it made is deleted on the way out."""


class NobodyAnswersError(BenchError):
    """No peer can be reached, or none accepts the credentials."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer: where it answers and, if it runs on this machine, its pid."""

    name: str
    endpoint: Endpoint
    pid: int | None


@dataclass(slots=True)
class Target:
    """Every peer that is alive takes load; the CPU time of all of them is counted."""

    peers: list[Peer]
    under_load: list[Endpoint]
    heads: Heads
    chunk_bytes: int
    version: str

    async def request(self, method: str, path: str, body: bytes = b"", at: int = 0) -> tuple[int, Any]:
        """One request outside the measurement: status and JSON (None if there is none). Raises BenchError."""
        endpoint = self.under_load[at % len(self.under_load)]
        return await _json(self.heads, endpoint, method, path, body)

    async def make_bucket(self) -> None:
        status, answer = await self.request("PUT", self.heads.base)
        if status not in (200, 201):
            raise BenchError(f"cannot make the bucket {self.heads.bucket}: {_reason(status, answer)}")

    async def remove_bucket(self, clients: int, deadline_s: float) -> int:
        """Delete every object of the bucket, then the bucket; returns how many objects went."""
        total = 0
        while True:
            status, page = await self.request("GET", f"{self.heads.base}/objects?limit=1000", at=total)
            if status == 404:
                return total
            if status != 200:
                raise BenchError(f"cannot list {self.heads.bucket} to empty it: {_reason(status, page)}")
            keys = [str(entry["key"]) for entry in page["objects"]]
            if not keys:
                break
            total += await self._delete(iter(keys), min(clients, len(keys)), deadline_s)
        status, answer = await self.request("DELETE", self.heads.base)
        if status not in (200, 204, 404):
            raise BenchError(f"cannot delete the bucket {self.heads.bucket}: {_reason(status, answer)}")
        return total

    async def _delete(self, keys: Iterator[str], clients: int, deadline_s: float) -> int:
        sources = [Delete(self.heads, keys) for _ in range(clients)]
        done = await Load(deadline_s).run(sources, self.spread(clients), None)
        if not done.ops:
            raise BenchError(f"cannot delete objects of {self.heads.bucket}: {dict(done.errors)}")
        return done.ops

    def spread(self, clients: int) -> list[list[Endpoint]]:
        """Client i talks to peer i mod n; a single client to all of them in turn."""
        if clients == 1:
            return [list(self.under_load)]
        return [[self.under_load[i % len(self.under_load)]] for i in range(clients)]

    async def cpu_s(self) -> float | None:
        """CPU seconds all peers have used so far, None if one of them cannot tell."""
        used = await asyncio.gather(*(self._cpu_of(peer) for peer in self.peers))
        return None if any(one is None for one in used) else sum(one for one in used if one is not None)

    async def _cpu_of(self, peer: Peer) -> float | None:
        try:
            status, node = await _json(self.heads, peer.endpoint, "GET", "/v1/cluster/nodes/self")
        except BenchError:
            return None
        process = node.get("process") if status == 200 and isinstance(node, dict) else None
        if isinstance(process, dict) and isinstance(process.get("cpu_s"), (int, float)):
            return float(process["cpu_s"])
        return cpu_of_pid(peer.pid) if peer.pid is not None else None


def cpu_of_pid(pid: int) -> float | None:
    """User and system seconds of a process on this machine, in steps of the kernel's tick."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def find_target(
    urls: Sequence[str],
    access_key: str,
    secret_key: str,
    bucket: str,
    *,
    pinned: bool,
    tls: ssl.SSLContext | None = None,
) -> Target:
    """Ask the first peer that answers for all the others.

    `pinned`: load goes to `urls` only. `tls`: all are https, and this trusts them. Raises BenchError: no peer answers, or
    one that is alive cannot be asked.
    """
    heads = Heads(bucket, access_key, secret_key)
    given = [_endpoint(url, tls) for url in urls]
    cluster = await _first_answer(heads, given)
    alive = [
        node for node in cluster.get("nodes", ()) if node.get("state") == "alive" and node.get("api_url")
    ]
    peers = []
    for node in alive:
        endpoint = _endpoint(str(node["api_url"]), tls)
        status, own = await _json(heads, endpoint, "GET", "/v1/cluster/nodes/self")
        if status != 200:
            raise BenchError(f"{node.get('name')} does not tell its CPU time: {_reason(status, own)}")
        peers.append(Peer(str(node.get("name")), endpoint, _pid(own, endpoint)))
    if not peers:
        raise BenchError("the cluster has no peer that is alive")
    return Target(
        peers=peers,
        under_load=given if pinned else [peer.endpoint for peer in peers],
        heads=heads,
        chunk_bytes=int(cluster.get("chunk_bytes") or 4 << 20),
        version=str((cluster.get("peer") or {}).get("version") or "unknown"),
    )


async def _first_answer(heads: Heads, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    failures = []
    for endpoint in endpoints:
        try:
            status, cluster = await _json(heads, endpoint, "GET", "/v1/cluster")
        except BenchError as error:
            failures.append(str(error))
            continue
        if status == 200 and isinstance(cluster, dict):
            return cluster
        failures.append(f"{endpoint.header}: {_reason(status, cluster)}")
    raise NobodyAnswersError("no peer answers: " + "; ".join(failures))


async def _json(
    heads: Heads, endpoint: Endpoint, method: str, path: str, body: bytes = b""
) -> tuple[int, Any]:
    try:
        status, answer = await ask(endpoint, heads.whole(method, path, endpoint, body), ASK_S)
    except OSError as error:
        raise BenchError(f"{endpoint.header}: {str(error) or 'no answer in time'}") from None
    try:
        return status, json.loads(answer) if answer else None
    except ValueError:
        return status, None


def _endpoint(url: str, tls: ssl.SSLContext | None) -> Endpoint:
    try:
        return Endpoint.of(url, tls)
    except ValueError as error:
        raise BenchError(str(error)) from None


def _pid(node: Any, endpoint: Endpoint) -> int | None:
    """The peer's pid if it runs here: a pid of another machine would be some other process."""
    process = node.get("process") if isinstance(node, dict) else None
    if endpoint.host not in ("127.0.0.1", "::1", "localhost") or not isinstance(process, dict):
        return None
    pid = process.get("pid")
    return pid if isinstance(pid, int) else None


def _reason(status: int, answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return f"status {status}{f', {message}' if message else ''}"
