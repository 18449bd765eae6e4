"""GET /v1/events: what comes first, what comes when something happens, and what is bounded."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from peer.api import events as events_module
from peer.api import subscription
from peer.api.events import CLIENTS_MOST, Events
from peer.api.rates import requests_in
from peer.api.subscription import HEARTBEAT_S, QUEUED_MOST, STATES, TYPES
from peer.errors import Unavailable
from tests.cluster_tools import content
from tests.cluster_world import ClusterWorld
from tests.test_api_openapi import STRICT
from tests.test_ringview import pending_in

WAIT_S = 120.0
ID = "a" * 16


class Stream:
    """One client's events."""

    def __init__(self, world: ClusterWorld, peer: int = 0, query: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", world.place(peer).api_port, timeout=WAIT_S)
        self._connection.request("GET", f"/v1/events{query}", headers={"Authorization": world.authorization})
        self.response = self._connection.getresponse()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """(type, data), until the stream ends; each is held against its schema. Fails after WAIT_S."""
        kind, until_s = "", time.monotonic() + WAIT_S
        for raw in self.response:
            assert time.monotonic() < until_s, "what was waited for did not happen"
            line = raw.decode().rstrip("\n")
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                check(kind, data)
                yield kind, data

    def until(self, holds: Callable[[str, Any], bool]) -> Any:
        """The data of the first event for which it holds."""
        return next(data for kind, data in self if holds(kind, data))

    def all_of(self, *conditions: Callable[[str, Any], bool]) -> list[Any]:
        """The data of the first event for which each of these holds, in whatever order they come."""
        found: dict[int, Any] = {}
        for kind, data in self:
            for number, holds in enumerate(conditions):
                if number not in found and holds(kind, data):
                    found[number] = data
            if len(found) == len(conditions):
                break
        return [found[number] for number in range(len(conditions))]

    def close(self) -> None:
        self._connection.close()


def check(kind: str, data: Any) -> None:
    """Data are what openapi.json says of this event."""
    described = STRICT["paths"]["/v1/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    schema = described["x-events"][kind] | {"components": STRICT["components"]}
    errors = list(Draft202012Validator(schema).iter_errors(data))
    assert not errors, [f"{kind} {list(error.absolute_path)}: {error.message}" for error in errors[:3]]


@contextmanager
def listening(world: ClusterWorld, peer: int = 0, query: str = "") -> Iterator[Stream]:
    stream = Stream(world, peer, query)
    try:
        yield stream
    finally:
        stream.close()


# --- on real peers


def test_states_come_first(cluster: ClusterWorld) -> None:
    """Goal: whoever connects, to any peer, is told every state whole; the headers are those of an event stream."""
    for peer in range(3):
        with listening(cluster, peer) as stream:
            assert stream.response.status == 200
            assert stream.response.headers["Content-Type"] == "text/event-stream"
            assert stream.response.headers["x-request-id"]
            missing = set(STATES)
            for kind, _ in stream:
                missing.discard(kind)
                if not missing:
                    break


def test_only_what_was_asked_for(cluster: ClusterWorld) -> None:
    """Goal: `types` chooses; what is none is refused, and so is whoever has no key."""
    with listening(cluster, query="?types=requests") as stream:
        told = iter(stream)
        assert [next(told)[0] for _ in range(3)] == ["hello", "requests", "requests"]
    assert cluster.call("GET", "/v1/events?types=gossip").code == "InvalidArgument"
    assert cluster.call("GET", "/v1/events?since=1").code == "InvalidArgument"
    assert cluster.call("GET", "/v1/events", authorised=False).status == 401
    assert cluster.call("POST", "/v1/events").status == 405


def test_requests_per_second(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: puts through one peer show as its puts, seen from another one."""
    with listening(cluster, 0, "?types=requests") as stream:
        names = {cluster.place(peer).name for peer in range(3)}
        told = iter(stream)
        assert next(told)[0] == "hello"
        assert {node["name"] for node in next(told)[1]["nodes"]} <= names
        for number in range(200):
            for _ in range(5):
                path = f"/v1/buckets/{bucket}/objects/{number}"
                assert cluster.call("PUT", path, content(number, 100), peer=1).status == 200
            _, data = next(told)
            rates = {node["name"]: node["per_second"] for node in data["nodes"]}
            if rates.get(cluster.place(1).name, {}).get("PUT", 0) > 0:
                assert data["all"] > 0
                return
        raise AssertionError("no put was counted")


def test_a_peer_dies_and_comes_back(tmp_path: Path) -> None:
    """Goal: its death is told as a happening and in the verdict, its return too; a stream through a peer that is stopped
    ends at once, and does not hold the stop up."""
    with ClusterWorld(tmp_path) as world, listening(world) as stream:
        stream.until(lambda kind, data: kind == "cluster" and data["verdict"] == "healthy")
        world.kill(2)
        stream.until(
            lambda kind, data: kind == "membership" and (data["name"], data["state"]) == ("peer-3", "suspect")
        )
        told = stream.until(lambda kind, data: kind == "cluster" and data["verdict"] == "degraded")
        assert told["reasons"] and not told["redundancy"]["whole"]
        assert [node["whole"] for node in told["nodes"]] == [True, True, False]
        _, entry = stream.all_of(
            lambda kind, data: kind == "views" and believed(data) == [{"dead"}, {"dead"}, None],
            lambda kind, data: kind == "log" and data["code"] == "peer_dead",
        )
        told = stream.until(lambda kind, data: kind == "requests")
        assert [node["all"] is None for node in told["nodes"]] == [False, False, True]
        assert told["nodes"][2]["last_heard_s"] > 0
        assert entry["kind"] == "membership" and "peer-3" in entry["message"]
        answer = world.json_of("/v1/cluster/log")
        assert entry in answer["events"]
        assert answer["failed"] == [{"node": "peer-3", "message": "it is out of reach"}]
        times = [one["time"] for one in answer["events"]]
        assert times == sorted(times)
        world.start(2)
        stream.all_of(
            lambda kind, data: kind == "membership" and (data["name"], data["state"]) == ("peer-3", "alive"),
            lambda kind, data: kind == "log" and data["code"] == "peer_alive",
            lambda kind, data: (
                kind == "log" and (data["code"], data["node"]["name"]) == ("started", "peer-3")
            ),
        )
        world.signal(0, signal.SIGTERM)
        for _ in stream:
            pass
        assert world.stop(0) == 0


def believed(views: Any) -> list[set[str] | None]:
    """What each peer believes of those it does not hold for alive; None if nobody knows."""
    told = [one["believes"] for one in views["views"]]
    return [None if states is None else set(states.values()) for states in told]


def test_a_change_of_the_ring_is_followed(tmp_path: Path) -> None:
    """Goal: partitions on their way are told while registers are merged and while chunks are fetched, and no longer."""
    with ClusterWorld(tmp_path, 4) as world, listening(world, query="?types=ring") as stream:
        stream.until(lambda kind, data: kind == "ring" and not {"pending", "before"} & data.keys())
        assert world.call("PUT", "/v1/buckets/some").status == 201  # a ring without rows changes in one step
        for worker in ("transition", "anti-entropy"):
            assert world.call("POST", f"/v1/cluster/workers/{worker}/pause").status == 200
        assert world.call("POST", "/v1/cluster/nodes/peer-4/drain", peer=1, timeout_s=WAIT_S).status == 200
        told = stream.until(lambda kind, data: kind == "ring" and data["epoch"]["kind"] == "joint")
        drained = [member["name"] for member in told["members"]].index("peer-4")
        held = {p for p, owners in enumerate(told["before"]) if drained in owners}
        assert held and not any(drained in owners for owners in told["owners"])
        assert pending_in(told) == held
        assert world.call("POST", "/v1/cluster/workers/transition/resume").status == 200
        told = stream.until(lambda kind, data: kind == "ring" and data["epoch"]["kind"] == "final")
        assert "before" not in told and pending_in(told) == held, "chunks have not begun to move"
        assert world.call("POST", "/v1/cluster/workers/anti-entropy/resume").status == 200
        stream.until(lambda kind, data: kind == "ring" and "pending" not in data)


def test_the_ring_and_the_workers(tmp_path: Path) -> None:
    """Goal: another ring and a paused worker are told by a peer that was not asked for them."""
    with ClusterWorld(tmp_path, 4) as world, listening(world) as stream:
        stream.until(lambda kind, data: kind == "repair")
        assert world.call("POST", "/v1/cluster/workers/scrub/pause", peer=1).status == 200
        stream.until(
            lambda kind, data: (
                kind == "repair"
                and {one["state"] for one in data["workers"] if one["worker"] == "scrub"} == {"paused"}
            )
        )
        assert world.call("POST", "/v1/cluster/nodes/peer-4/drain", peer=1, timeout_s=WAIT_S).status == 200
        ring, told = stream.all_of(
            lambda kind, data: kind == "epoch", lambda kind, data: kind == "log" and data["code"] == "drain"
        )
        assert len(ring["members"]) == 4
        assert told["node"]["name"] == "peer-2" and "POST /v1/cluster/nodes/peer-4/drain" in told["message"]
        refused = world.call("POST", "/v1/cluster/nodes/peer-1/drain", peer=2, timeout_s=WAIT_S)
        told = stream.until(lambda kind, data: kind == "log" and data["code"] == "drain_refused")
        assert refused.message in told["message"] and told["node"]["name"] == "peer-3"


# --- bounds, without sockets


class FakeCluster:
    """What the events look at."""

    def __init__(self) -> None:
        self.looks = 0
        self.uptime_s = 100.0
        self.requests = {"GET": 1000, "status 404": 7, "status 503": 1}
        self.traffic: dict[str, int] | None = {"bytes_in": 5000, "bytes_out": 0}
        self.answers = True
        self.verdict = "healthy"
        self.pending: str | None = None
        self.believes: dict[str, str] | None = {}
        self.last_heard_s = 0.5
        self.log = FakeLog()

    async def looked(self) -> None:
        self.looks += 1

    def standing(self) -> Any:
        info: dict[str, Any] = {"process": {"uptime_s": self.uptime_s}, "requests": dict(self.requests)}
        info |= {"traffic": self.traffic} if self.traffic is not None else {}
        workers = [{"name": "hints", "queue": 3}, {"name": "garbage", "queue": 100}]
        info["healing"] = {"workers": workers}
        answering = [SimpleNamespace(id=ID)] if self.answers else []
        return SimpleNamespace(answering=answering, info=lambda member: info)

    def peer(self) -> dict[str, str]:
        return {"id": ID, "name": "p1", "version": "1"}

    def time(self) -> str:
        return "2026-11-21T01:02:03.456789Z"

    def overview_of(self, standing: Any) -> dict[str, Any]:
        node = {
            "id": ID, "name": "p1", "state": "alive", "whole": True, "ring": "active", "flags": [],
            "used_bytes": self.looks, "last_heard_s": self.last_heard_s,
        }  # fmt: skip
        peer = {"uptime_s": self.looks}
        return {"verdict": self.verdict, "time": self.time(), "peer": peer, "nodes": [node]}

    def ring_of(self, standing: Any) -> dict[str, Any]:
        return {"epoch": {"number": 1}} | ({"pending": self.pending} if self.pending else {})

    def views_of(self, standing: Any) -> dict[str, Any]:
        return {
            "views": [{"id": ID, "answers": True, "believes": self.believes, "heard_s": {"b": self.looks}}]
        }

    def listed_of(self, infos: Any) -> dict[str, Any]:
        return {"workers": [], "failed": []}


class FakeLog:
    """The journals of a cluster: `coming` is what the next look finds."""

    def __init__(self) -> None:
        self.recent: deque[dict[str, Any]] = deque(maxlen=200)
        self.coming: list[dict[str, Any]] = []

    def forget(self) -> None:
        self.recent.clear()

    async def news(self, infos: Any) -> list[dict[str, Any]]:
        found, self.coming = self.coming, []
        self.recent.extend(found)
        return found


def told_in(data: bytes | None) -> list[tuple[str, Any]]:
    assert data is not None
    parts = [part.split("\n") for part in data.decode().split("\n\n") if part.startswith("event")]
    return [(kind.removeprefix("event: "), json.loads(what.removeprefix("data: "))) for kind, what in parts]


def with_events(body: Callable[[FakeCluster, Events], Any], *, looks: bool = False) -> None:
    """`looks`: by itself, as long as somebody listens; else only when `look` is called."""

    async def main() -> None:
        fake = FakeCluster()
        events = Events(fake, fake, fake.log)
        if not looks:
            events._watch = asyncio.Event().wait  # type: ignore[method-assign, assignment]
        await body(fake, events)

    asyncio.run(main())


def test_what_waits_for_a_client_is_bounded() -> None:
    """Goal: a client that does not read costs so many happenings and one of each state; then it is told what it missed."""

    async def body(fake: FakeCluster, events: Events) -> None:
        one = events.subscribe(TYPES)
        for number in range(QUEUED_MOST + 10):
            events._tell("epoch", number)
            events._tell("requests", number)
        told = told_in(await one.next())
        assert told[0] == ("lost", {"events": 10})
        assert [what for kind, what in told if kind == "epoch"] == list(range(10, QUEUED_MOST + 10))
        assert [what for kind, what in told if kind == "requests"] == [QUEUED_MOST + 9]
        events._tell("epoch", 1)
        assert told_in(await one.next()) == [("epoch", 1)]
        events.leave(one)

    with_events(body)


def test_clients_are_bounded_and_nobody_looks_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: one too many is turned away; while nobody listens, nobody is asked; who comes later is told what is known."""
    monkeypatch.setattr(events_module, "EVERY_S", 0.001)

    async def body(fake: FakeCluster, events: Events) -> None:
        some = [events.subscribe(TYPES) for _ in range(CLIENTS_MOST)]
        with pytest.raises(Unavailable):
            events.subscribe(TYPES)
        await some[0].next()
        events.leave(some.pop())
        late = events.subscribe(["cluster"])
        assert told_in(await late.next())[0][0] == "cluster"
        for one in (*some, late):
            events.leave(one)
        await asyncio.sleep(0.01)
        looks = fake.looks
        await asyncio.sleep(0.01)
        assert fake.looks == looks
        events._tell("epoch", 1)

    with_events(body, looks=True)


def test_a_peer_that_stops_begins_no_stream() -> None:
    """Goal: whoever is told that the peer stops, and asks it again at once on another connection, is sent away: its stream
    would hold the end up for the whole drain, and tell of a peer that has left."""

    async def body(fake: FakeCluster, events: Events) -> None:
        one = events.subscribe(TYPES)
        events.close()
        with pytest.raises(Unavailable, match="stops"):
            events.subscribe(TYPES)
        while await one.next() is not None:
            pass
        events.leave(one)

    with_events(body)


def test_a_state_is_told_when_it_changes() -> None:
    """Goal: the time, or the bytes used, are no news; a verdict, another ring, what is pending and a changed belief are.
    What was told stands as of the event `requests`, which comes after every look and last."""

    async def body(fake: FakeCluster, events: Events) -> None:
        one = events.subscribe(STATES)

        async def told() -> list[str]:
            await events.look()
            return [kind for kind, _ in told_in(await one.next())]

        assert await told() == ["cluster", "repair", "ring", "views", "requests"]
        assert await told() == ["requests"]
        fake.verdict = "degraded"
        assert await told() == ["cluster", "requests"]
        fake.pending = "AQ=="
        assert await told() == ["ring", "requests"]
        fake.believes = {"b": "suspect"}
        assert await told() == ["views", "requests"]
        fake.last_heard_s = 9.0
        assert await told() == ["requests"]
        events.close()
        assert await one.next() is None
        events.leave(one)

    with_events(body)


def test_who_comes_later_is_told_of_the_past() -> None:
    """Goal: an entry of a journal is told once to who listens, and the last ones to who begins to."""

    async def body(fake: FakeCluster, events: Events) -> None:
        one = events.subscribe(["log"])
        fake.log.coming = [{"id": "1"}, {"id": "2"}]
        await events.look()
        both = [("log", {"id": "1"}), ("log", {"id": "2"})]
        assert told_in(await one.next()) == both
        late = events.subscribe(["log"])
        assert told_in(await late.next()) == both
        fake.log.coming = [{"id": "3"}]
        await events.look()
        assert told_in(await one.next()) == told_in(await late.next()) == [("log", {"id": "3"})]
        for each in (one, late):
            events.leave(each)

    with_events(body)


def test_a_large_state_is_told_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the ring of 2**16 partitions that changes every second is not sent every second, but is sent in the end."""
    monkeypatch.setattr(events_module, "BYTES_S", 0.001)

    async def body(fake: FakeCluster, events: Events) -> None:
        one = events.subscribe(["ring"])
        await events.look()
        assert told_in(await one.next())[0][1] == {"epoch": {"number": 1}}
        fake.pending = "AQ=="
        await events.look()
        assert not one._ready.is_set()
        monkeypatch.setattr(events_module, "BYTES_S", 1e9)
        await events.look()
        assert told_in(await one.next())[0][1]["pending"] == "AQ=="
        events.leave(one)

    with_events(body)


def test_no_second_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: who listens to what does not happen hears the peer's heart beat all the same, well within the 1.5 s of silence
    after which clients give a peer up."""
    assert HEARTBEAT_S < 1.0
    monkeypatch.setattr(subscription, "HEARTBEAT_S", 0.001)

    async def body(fake: FakeCluster, events: Events) -> None:
        one = events.subscribe(["epoch"])
        assert await one.next() == b":\n\n"
        events.leave(one)

    with_events(body)


def test_hello_says_whose_view_it_is() -> None:
    async def body(fake: FakeCluster, events: Events) -> None:
        ((kind, data),) = told_in(events.hello())
        check(kind, data)
        assert (kind, data["peer"]["name"], data["types"]) == ("hello", "p1", list(TYPES))

    with_events(body)


def test_rates() -> None:
    """Goal: by the peer's own clock; a peer that was started anew begins at nothing; what is no request does not count; of a
    peer that does not answer, or of a version that does not count, nothing is made up."""

    async def body(fake: FakeCluster, events: Events) -> None:
        one = events.subscribe(["requests"])

        async def rates() -> Any:
            await events.look()
            told = told_in(await one.next())[-1][1]
            check("requests", told)
            (node,) = told["nodes"]
            sums = [told[key] for key in ("all", "errors", "bytes_in", "bytes_out")]
            return node["per_second"], [node[key] for key in ("all", "errors", "bytes_in", "bytes_out")], sums

        assert await rates() == ({}, [0, 0, 0, 0], [0, 0, 0, 0])
        fake.uptime_s, fake.requests = 104.0, {"GET": 1100, "PUT": 10, "status 404": 99, "status 503": 3}
        fake.traffic = {"bytes_in": 9000, "bytes_out": 40}
        told = [27.5, 0.5, 1000.0, 10.0]
        assert await rates() == ({"GET": 25.0, "PUT": 2.5}, told, told)
        fake.uptime_s, fake.requests, fake.traffic = 2.0, {"GET": 6}, None
        assert await rates() == ({"GET": 3.0}, [3.0, 0.0, None, None], [3.0, 0.0, 0.0, 0.0])
        fake.answers = False
        assert await rates() == ({}, [None] * 4, [0.0] * 4)
        fake.answers, fake.requests = True, {"GET": 1000}
        assert await rates() == ({}, [0.0, 0.0, None, None], [0.0] * 4), (
            "what it was asked before is long ago"
        )
        events.leave(one)

    with_events(body)
    assert requests_in({"GET": 1, "status 200": 2, "events": 3, "clients_gone": 4}) == {"GET": 1}


def test_what_waits_in_repair_queues() -> None:
    """Goal: the backlog is what brings copies back; what only clears away is none."""

    async def body(fake: FakeCluster, events: Events) -> None:
        one = events.subscribe(["requests"])
        await events.look()
        assert told_in(await one.next())[0][1]["backlog"] == 3
        events.leave(one)

    with_events(body)
