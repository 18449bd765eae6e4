"""Goal: whoever follows events hears them all, goes on at the next peer when one falls silent, and knows whose they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.client.following import CONNECTED, UNREACHABLE, Event, Following, Parser, Silent, events_request
from peer.errors import Corrupt, Denied, Invalid

A, B, C = (f"http://h{i}:7401" for i in range(3))
ALIVE = [{"id": url, "api_url": url, "state": "alive"} for url in (A, B)]
CLUSTER = Event("cluster", {"nodes": ALIVE})


class World:
    """What each peer tells before it fails, and with what; peers not named refuse connections."""

    def __init__(self, **told: list[Event | Exception]) -> None:
        self.told = {{"a": A, "b": B, "c": C}[name]: list(events) for name, events in told.items()}
        self.asked: list[str] = []
        self.pauses = 0

    async def stream(self, url: str) -> AsyncIterator[Event]:
        self.asked.append(url)
        events = self.told.get(url) or [Silent("connection refused")]
        while events:
            event = events.pop(0)
            if isinstance(event, Exception):
                raise event
            yield event

    async def pause(self, seconds: float) -> None:
        self.pauses += 1

    def heard(self, count: int, *urls: str, pinned: bool = False) -> list[Event]:
        """The first `count` events."""

        async def listen() -> list[Event]:
            found: list[Event] = []
            following = Following(urls, self.stream, pinned=pinned, pause=self.pause)
            async with aclosing(following.events()) as events:  # type: ignore[type-var]
                async for event in events:
                    found.append(event)
                    if len(found) == count:
                        break
            return found

        return asyncio.run(listen())


def connected(url: str, before: str | None = None, why: str | None = None) -> Event:
    return Event(CONNECTED, {"url": url, "before": before, "why": why})


def test_goes_on_at_a_peer_it_was_told_of() -> None:
    """Goal: started with one address it outlives that peer, and says where it went and why."""
    later = Event("requests", {"all": 1})
    world = World(a=[CLUSTER, Silent("it said nothing for 1.6 s")], b=[later])
    assert world.heard(4, A) == [connected(A), CLUSTER, connected(B, A, "it said nothing for 1.6 s"), later]


def test_a_pinned_one_stays() -> None:
    """Goal: with --endpoint no other peer is asked; that nobody answers is told, and asked again."""
    world = World(a=[CLUSTER, Silent("broke")])
    heard = world.heard(4, A, pinned=True)
    assert heard[2:] == [Event(UNREACHABLE, {"failures": [[A, "connection refused"]]})] * 2
    assert world.asked == [A, A, A] and world.pauses == 1


def test_the_living_are_asked_first() -> None:
    """Goal: after the loss of a peer nobody waits for one that is known to be dead."""
    nodes = [{"id": "b", "api_url": B, "state": "dead"}, {"id": "c", "api_url": C, "state": "alive"}]
    world = World(a=[Event("cluster", {"nodes": nodes}), Silent("broke")], c=[Event("requests", {})])
    world.heard(4, A)
    assert world.asked == [A, C]


def test_a_refusal_ends_it() -> None:
    """Goal: wrong credentials are an error and no endless loop; one stale peer among others is not."""
    with pytest.raises(Denied):
        World(a=[Denied("no")]).heard(9, A, B)
    world = World(a=[Denied("no")], b=[CLUSTER])
    assert world.heard(2, A, B) == [connected(B), CLUSTER]


def test_credentials_meant_for_tls_stay_in_it() -> None:
    """Goal: an address in the clear that a peer names is not followed from https."""
    world = World()
    world.told["https://h0:7401"] = [CLUSTER, Silent("broke")]
    heard = world.heard(3, "https://h0:7401")
    assert heard[-1].kind == UNREACHABLE and not {A, B} & set(world.asked)


def test_streams_that_break_at_once_are_not_hammered() -> None:
    """Goal: peers that begin to tell and break off each time are asked with pauses, after a first round without one."""
    broken = [CLUSTER, Silent("broke")] * 20
    world = World(a=list(broken), b=list(broken))
    world.heard(20, A, B)
    assert len(world.asked) == 10 and world.pauses >= 7


@given(st.data())
def test_events_survive_any_cutting(data: st.DataObject) -> None:
    """Goal: however the network cuts the stream, the same events come out; comments do not."""
    told: list[tuple[str, Any]] = [
        ("cluster", {"a": [1, "ü"]}),
        ("log", {"message": "x: y"}),
        ("requests", {}),
    ]
    whole = b"retry: 2000\n\n:\n\n" + b"".join(
        f"event: {kind}\ndata: {json.dumps(what)}\n\n:\n\n".encode() for kind, what in told
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parser = Parser()
    found = [
        event
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)
        for event in parser.feed(whole[start:end])
    ]
    assert found == [Event(kind, what) for kind, what in told]


def test_what_is_no_event_stream() -> None:
    """Goal: another server's answer is an error, not an endless buffer; bad types are refused before anything is sent."""
    with pytest.raises(Corrupt):
        list(Parser().feed(b"event: cluster\ndata: <html>\n\n"))
    parser = Parser()
    with pytest.raises(Corrupt):
        for _ in range(40):
            list(parser.feed(b"x" * (1 << 20)))
    with pytest.raises(Invalid):
        events_request(["a&b"])
