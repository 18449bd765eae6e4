"""A cluster in memory that speaks the HTTP API of openapi.json, for tests of what talks to it.

Several peers share one store and run on one background thread. Faults are ordered per peer: `kill`
closes its port and connections, `plan` makes its next requests fail in a chosen way. `seen` records
every request that arrived, in order.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

from aiohttp import web

from peer.etag import etag_of

ACCESS_KEY = "ATOLLROOT"
SECRET_KEY = "s3cret/of+the=root"
CHUNK_BYTES = 64 * 1024
Handler = Callable[[web.Request, list[str]], Any]


@dataclass
class Stored:
    data: bytes
    etag: str
    modified: datetime
    content_type: str
    meta: dict[str, str]


class ApiError(Exception):
    def __init__(self, status: int, code: str, message: str, retry: bool = False) -> None:
        super().__init__(message)
        self.status, self.code, self.retry = status, code, retry


@dataclass
class FakePeer:
    """One peer: its address, the faults planned for it, and what reached it."""

    cluster: FakeCluster
    name: str
    port: int = 0
    state: str = "alive"
    faults: deque[str] = field(default_factory=deque)
    """For the next object or bucket requests: "503", "busy-forever", "lose-answer" (done, then cut), "drop"
    (not done, cut), "cut-body" (half of a GET), "flip" (one wrong byte in a GET), "unknown", "early-403",
    "freeze" (the peer answers nothing any more), "freeze-body" (the same after half of a GET)."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    runner: web.AppRunner | None = None
    listener: asyncio.Server | None = None
    thawed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def plan(self, *faults: str) -> None:
        self.faults.extend(faults)

    def kill(self) -> None:
        """Close the port and every connection at once; gossip has not noticed."""
        self.cluster.call(self._stop())

    def start(self) -> None:
        self.cluster.call(self._start())

    def freeze(self) -> None:
        """Take requests from now on, and answer none."""
        self.cluster.call(self._freeze())

    async def _freeze(self) -> None:
        self.thawed.clear()

    def thaw(self) -> None:
        """Answer again, what came meanwhile included."""
        self.cluster.call(self._thaw())

    async def _thaw(self) -> None:
        self.thawed.set()

    async def _start(self) -> None:
        self.thawed.set()
        app = web.Application(client_max_size=1 << 40)
        app.router.add_route("*", r"/{tail:[\s\S]*}", self._serve)
        silent = logging.getLogger("tests.fake_api")
        silent.setLevel(logging.CRITICAL + 1)  # planned faults are not worth a traceback each
        self.runner = web.AppRunner(app, access_log=None, logger=silent, shutdown_timeout=0.01)
        await self.runner.setup()
        loop = asyncio.get_running_loop()
        self.listener = await loop.create_server(
            self.runner.server, "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self.listener.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        runner, self.runner = self.runner, None
        listener, self.listener = self.listener, None
        if runner is None or listener is None:
            return
        # asyncio leaks a connection that it is accepting while the listener closes; so accept no more first.
        for sock in listener.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        for _ in range(5):
            await asyncio.sleep(0)
        listener.close()
        if runner.server is not None:
            for connection in list(runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
        await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        raw = request.raw_path
        self.seen.append((request.method, raw))
        await self.thawed.wait()
        if "X-Atoll-Operation" in request.headers:
            self.cluster.operations.append(request.headers["X-Atoll-Operation"])
        try:
            return await self._guarded(request, raw)
        except ApiError as error:
            told = {"code": error.code, "message": str(error), "retry": error.retry, "request_id": "r-1"}
            body = json.dumps({"error": told}).encode()
            headers = {"x-request-id": "r-1"} | ({"Retry-After": "0"} if error.status == 503 else {})
            return web.Response(
                status=error.status, body=body, content_type="application/json", headers=headers
            )

    async def _guarded(self, request: web.Request, raw: str) -> web.StreamResponse:
        path = raw.partition("?")[0]
        if path == "/health/cluster":
            verdict = self.cluster.verdict
            return web.json_response({"verdict": verdict}, status=503 if verdict == "unavailable" else 200)
        if request.headers.get("Authorization") != f"Bearer {ACCESS_KEY}:{SECRET_KEY}":
            raise ApiError(401, "AccessDenied", "no or wrong credentials")
        parts = [unquote_to_bytes(part).decode() for part in path.split("/", 5)[1:]]
        if parts[:2] == ["v1", "cluster"]:
            return self._cluster_view(request, path)
        if parts[:2] != ["v1", "buckets"]:
            raise ApiError(404, "NotFound", "there is nothing at this path")
        fault = self.faults.popleft() if self.faults else ""
        if fault == "busy-forever":
            self.faults.append(fault)
        if fault in ("503", "busy-forever"):
            raise ApiError(503, "SlowDown", "too busy", retry=True)
        if fault == "early-403":
            raise ApiError(403, "AccessDenied", "refused before the body was read")
        if fault == "freeze":
            self.thawed.clear()
            await self.thawed.wait()
        if fault == "drop":
            await request.read()
            raise _cut(request)
        answer = await self._data(request, parts, fault)
        if fault == "unknown":
            raise ApiError(503, "OutcomeUnknown", "it may still happen", retry=True)
        if fault == "lose-answer":
            raise _cut(request)
        return answer

    async def _data(self, request: web.Request, parts: list[str], fault: str) -> web.StreamResponse:
        store = self.cluster
        if len(parts) == 2:
            return web.json_response(
                {"buckets": [store.bucket_entry(name) for name in sorted(store.buckets)]}
            )
        if len(parts) == 3:
            return await self._bucket(request, parts[2])
        if parts[2] not in store.buckets:
            raise ApiError(404, "NoSuchBucket", f"there is no bucket {parts[2]}")
        if len(parts) == 4:
            return store.list_page(parts[2], request)
        key = parts[4]
        if request.method == "PUT":
            return await store.put(parts[2], key, request)
        if request.method == "DELETE":
            return store.delete(parts[2], key, request)
        return await store.get(parts[2], key, request, fault, self)

    async def _bucket(self, request: web.Request, name: str) -> web.Response:
        store = self.cluster
        if request.method == "PUT":
            new = name not in store.buckets
            if new:
                told = json.loads(await request.read() or b"{}")
                store.buckets[name] = {}
                store.shards[name] = int(told.get("shards", 64))
            return web.json_response(store.bucket_entry(name), status=201 if new else 200)
        if name not in store.buckets:
            raise ApiError(404, "NoSuchBucket", f"there is no bucket {name}")
        if request.method == "GET":
            return web.json_response(store.bucket_entry(name))
        if store.buckets[name]:
            raise ApiError(409, "BucketNotEmpty", f"bucket {name} holds objects")
        del store.buckets[name]
        return web.Response(status=204)

    def _cluster_view(self, request: web.Request, path: str) -> web.Response:
        store, nodes = self.cluster, [peer.entry(self) for peer in self.cluster.peers]
        if path == "/v1/cluster":
            return web.json_response(store.view(self, nodes))
        if path == "/v1/cluster/nodes":
            return web.json_response({"nodes": nodes})
        if path.startswith("/v1/cluster/nodes/"):
            wanted = path.rpartition("/")[2]
            for node in nodes:
                if wanted in (node["id"], node["name"]) or (wanted == "self" and node["self"]):
                    return web.json_response(node | {"process": {"pid": 1, "uptime_s": 5.0}})
            raise ApiError(404, "NoSuchNode", f"there is no node {wanted}")
        members = [{"id": node["id"], "name": node["name"]} for node in nodes]
        epoch = {"generation": 0, "number": 3, "kind": "final"}
        if path == "/v1/cluster/ring":
            owners = [[(p + i) % len(nodes) for i in range(store.replicas)] for p in range(8)]
            shape = {"partition_power": 3, "replicas": store.replicas, "members": members, "owners": owners}
            return web.json_response({"epoch": epoch, **shape})
        if path == "/v1/cluster/ring/lookup":
            owners_of = store.owners(request.query["bucket"], request.query.get("key", ""))
            told = [peer.entry(self) for peer in owners_of]
            answer = {"bucket": request.query["bucket"], "key": request.query.get("key"), "partition": 5}
            return web.json_response(
                answer
                | {
                    "placement": "aa",
                    "owners": [{k: n[k] for k in ("id", "name", "state", "api_url")} for n in told],
                }
            )
        if path.startswith("/v1/cluster/workers"):
            return web.json_response(store.workers(request, path))
        if path == "/v1/cluster/epochs":
            names = [node["name"] for node in nodes]
            return web.json_response({"epochs": [epoch | {"members": names, "replicas": store.replicas}]})
        raise ApiError(404, "NotFound", "there is nothing at this path")

    def entry(self, asked: FakePeer) -> dict[str, Any]:
        number = self.cluster.peers.index(self) + 1
        return {
            "id": f"{number:016x}",
            "name": self.name,
            "self": self is asked,
            "host": "127.0.0.1",
            "s3_url": f"http://127.0.0.1:{self.port - 1}",
            "api_url": self.url,
            "peer_address": f"127.0.0.1:{self.port + 1}",
            "zone": "here",
            "state": self.state,
            "incarnation": 1,
            "boot": 1,
            "last_heard_s": 0.2,
            "version": "0.1.0",
            "epoch": [0, 3],
            "flags": [],
            "capacity_bytes": 10**12,
            "used_bytes": 10**9,
            "partitions": 8,
            "share": 1 / len(self.cluster.peers),
            "owned_fair": 1.0,
        }


class FakeCluster:
    """The shared store and its peers; `with FakeCluster(3) as cluster`."""

    def __init__(self, peers: int = 3, replicas: int = 3) -> None:
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.shards: dict[str, int] = {}
        self.replicas = replicas
        self.verdict = "healthy"
        self.operations: list[str] = []  # the ids of puts and deletes of objects that arrived
        self.worker_states: dict[str, str] = {}
        self.worker_rates: dict[str, float] = {}
        self.page_limit = 1000
        self.peers = [FakePeer(self, f"peer-{i + 1}") for i in range(peers)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FakeCluster:
        self._thread.start()
        for peer in self.peers:
            peer.start()
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.kill()
        self.call(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _settle(self) -> None:
        """Let connections that were just accepted or aborted come to their end before the loop stops."""
        me = asyncio.current_task()
        for turn in range(1000):
            await asyncio.sleep(0)
            others = asyncio.all_tasks() - {me}
            if not others and turn > 10:
                return
            if turn == 500:
                for task in others:
                    task.cancel()

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    @property
    def urls(self) -> list[str]:
        return [peer.url for peer in self.peers]

    @property
    def seen(self) -> list[tuple[str, str]]:
        return [request for peer in self.peers for request in peer.seen]

    def owners(self, bucket: str, key: str) -> list[FakePeer]:
        start = sum((bucket + key).encode()) % len(self.peers)
        return [self.peers[(start + i) % len(self.peers)] for i in range(min(self.replicas, len(self.peers)))]

    def view(self, asked: FakePeer, nodes: list[dict[str, Any]]) -> dict[str, Any]:
        healthy = self.verdict == "healthy"
        return {
            "cluster_id": "c" * 32,
            "time": format_time(datetime.now(UTC)),
            "peer": {"id": asked.entry(asked)["id"], "name": asked.name, "version": "0.1.0", "uptime_s": 5.0},
            "verdict": self.verdict,
            "reasons": [] if healthy else [{"code": "PeerDead", "message": "peer-2 is dead"}],
            "tolerates": 1 if healthy else 0,
            "redundancy": {
                "whole": healthy,
                "lacking": 0 if healthy else 12,
                "objects": 60,
                "left_s": None,
                "message": "Every object has its 3 copies."
                if healthy
                else "About 12 of 60 objects lack a copy.",
            },
            "epoch": {"generation": 0, "number": 3, "kind": "final"},
            "replicas": self.replicas,
            "partition_power": 3,
            "chunk_bytes": CHUNK_BYTES,
            "partitions": {"total": 8, "full": 8 if healthy else 0, "degraded": 0, "unavailable": 0},
            "nodes": nodes,
        }

    def workers(self, request: web.Request, path: str) -> dict[str, Any]:
        """One worker on each peer; commands change its state, and a peer that is down is told of."""
        _, _, _, _, worker, verb, *_ = [*path.split("/"), "", ""]
        if worker not in ("", "all", "anti-entropy"):
            raise ApiError(404, "NoSuchWorker", f"there is no worker {worker}")
        concerned = [peer for peer in self.peers if request.query.get("node", peer.name) == peer.name]
        up = [peer for peer in concerned if peer.listener is not None]
        for peer in up:
            if verb in ("pause", "resume"):
                self.worker_states[peer.name] = "paused" if verb == "pause" else "idle"
            elif verb == "throttle":
                self.worker_rates[peer.name] = float(request.query["per_second"])
        told = [
            {
                "worker": "anti-entropy", "node": {"id": peer.name, "name": peer.name}, "queue": 3, "oldest_s": 1.5,
                "state": self.worker_states.get(peer.name, "idle"), "done": 7, "rate": 0.5, "bytes": 2048,
                "left_s": 6.0, "per_second": self.worker_rates.get(peer.name), "last_error": "", "detail": {"passes": 1},
            }
            for peer in up
        ]  # fmt: skip
        silent = [peer.name for peer in concerned if peer not in up]
        return {
            "workers": told,
            "failed": [{"node": name, "message": "it did not answer"} for name in silent],
        }

    def bucket_entry(self, name: str) -> dict[str, Any]:
        return {"name": name, "created": "2026-11-21T01:02:03.456789Z", "shards": self.shards[name]}

    def list_page(self, bucket: str, request: web.Request) -> web.Response:
        query = request.query
        prefix, delimiter, after = (query.get(name, "") for name in ("prefix", "delimiter", "after"))
        limit = min(int(query.get("limit", self.page_limit)), self.page_limit)
        objects: list[dict[str, Any]] = []
        prefixes: list[str] = []
        last, more = "", None
        for key in sorted(self.buckets[bucket], key=str.encode):
            if not key.startswith(prefix):
                continue
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key[: cut + len(delimiter)] if cut >= 0 else key
            if name == last or (after and name.encode() <= after.encode()):
                continue
            if len(objects) + len(prefixes) == limit:
                more = last
                break
            last = name
            if cut >= 0:
                prefixes.append(name)
            else:
                objects.append(self.entry(bucket, key))
        return web.json_response({"objects": objects, "prefixes": prefixes, "next": more})

    def entry(self, bucket: str, key: str) -> dict[str, Any]:
        held = self.buckets[bucket][key]
        entry = {
            "key": key,
            "size": len(held.data),
            "etag": held.etag,
            "modified": format_time(held.modified),
        }
        return entry | {"content_type": held.content_type}

    async def put(self, bucket: str, key: str, request: web.Request) -> web.Response:
        data = await request.read()
        self.check(bucket, key, request)
        meta = {n.lower(): v for n, v in request.headers.items() if n.lower().startswith("x-atoll-meta-")}
        kind = request.headers.get("Content-Type", "application/octet-stream")
        held = Stored(data, etag_of(data, CHUNK_BYTES), datetime.now(UTC), kind, meta)
        self.buckets[bucket][key] = held
        answer = {"key": key, "size": len(data), "etag": held.etag}
        return web.json_response(answer, headers={"ETag": f'"{held.etag}"'})

    def check(self, bucket: str, key: str, request: web.Request) -> None:
        held = self.buckets[bucket].get(key)
        wanted, unwanted = request.headers.get("If-Match"), request.headers.get("If-None-Match")
        if wanted is not None and (held is None or wanted not in ("*", f'"{held.etag}"')):
            raise ApiError(412, "PreconditionFailed", "the object is another one now")
        if unwanted is not None and held is not None and unwanted in ("*", f'"{held.etag}"'):
            status = 304 if request.method in ("GET", "HEAD") else 412
            raise ApiError(status, "PreconditionFailed", "the object is there already")

    def delete(self, bucket: str, key: str, request: web.Request) -> web.Response:
        self.check(bucket, key, request)
        self.buckets[bucket].pop(key, None)
        return web.Response(status=204)

    async def get(
        self, bucket: str, key: str, request: web.Request, fault: str, peer: FakePeer
    ) -> web.StreamResponse:
        held = self.buckets[bucket].get(key)
        if held is None:
            raise ApiError(404, "NoSuchKey", f"there is no object {key}")
        self.check(bucket, key, request)
        span = request.http_range
        data, status = held.data, 200
        headers = {
            "ETag": f'"{held.etag}"',
            "Last-Modified": email.utils.format_datetime(held.modified, usegmt=True),
            "Content-Type": held.content_type,
            "Accept-Ranges": "bytes",
        }
        if "Range" in request.headers:
            start, stop, _ = span.indices(len(data))
            if start >= stop:
                raise ApiError(416, "InvalidRange", f"the object has {len(data)} bytes")
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        if fault == "flip":
            data = data[:-1] + bytes([data[-1] ^ 1])
        response = web.StreamResponse(status=status, headers=headers | held.meta)
        response.content_length = len(data)
        await response.prepare(request)
        if request.method == "GET":
            if fault == "cut-body":
                await response.write(data[: len(data) // 2])
                raise _cut(request)
            if fault == "freeze-body":
                await response.write(data[: len(data) // 2])
                peer.thawed.clear()
                await peer.thawed.wait()
                raise _cut(request)
            await response.write(data)
        await response.write_eof()
        return response


def _cut(request: web.Request) -> Exception:
    """Close the connection so that what was written still arrives, but nothing more."""
    if request.transport is not None:
        request.transport.close()
    return ConnectionResetError("planned")


def format_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@contextmanager
def fake_cluster(peers: int = 3, replicas: int = 3) -> Iterator[FakeCluster]:
    with FakeCluster(peers, replicas) as cluster:
        yield cluster
