"""Goal: links between peers: one per pair whatever happens, taken over, broken and replaced without a trace."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import uvloop

from peer.errors import Unavailable
from peer.rpc import link as link_module
from tests.rpc_world import Peer, peers, until

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    return uvloop.run if request.param == "uvloop" else asyncio.run


def test_simultaneous_dials_end_with_one_link(run: Run) -> None:
    """Goal: peers that dial each other at once lose no call and keep the lower id's connection."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            calls = [a.call(b.id, "echo", i) for i in range(20)] + [
                b.call(a.id, "echo", i) for i in range(20)
            ]
            assert await asyncio.gather(*calls) == [[i] for i in range(20)] * 2
            route = a.peers._routes[b.id]
            # The one of b may be up, alone, before that of a is.
            await until(lambda: route.link is not None and route.link.dialler == a.id)
            await until(lambda: a.stats.links == b.stats.links == 1)
            assert route.link is not None and route.link.dialler == a.id
            assert a.stats.calls_lost == b.stats.calls_lost == 0

    run(main())


def test_a_replaced_link_serves_until_idle(run: Run) -> None:
    """Goal (L4): the link that loses to a preferred one answers its open call before it closes."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            slow = asyncio.create_task(b.call(a.id, "hold", "x"))
            await until(lambda: bool(a.held))
            await a.peers._open_to(b.address, b.id, 5)  # the lower id dials: preferred
            assert await b.call(a.id, "echo", 1) == [1]
            assert a.stats.links == 2
            a.held[0](("kept",))
            assert await slow == ["kept"]
            await until(lambda: a.stats.links == b.stats.links == 1)

    run(main())


def test_a_retired_link_carries_no_new_call(run: Run) -> None:
    """Goal (L4): when the link that took over breaks, a new one is dialled; GOODBYE is not taken back."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            slow = asyncio.create_task(b.call(a.id, "hold", "x"))
            await until(lambda: bool(a.held))
            taking_over = await a.peers._open_to(b.address, b.id, 5)
            assert await b.call(a.id, "echo", 1) == [1]
            taking_over.abort(Unavailable("broken by the test"))
            await until(lambda: a.stats.links == b.stats.links == 1)
            assert not a.peers.connected(b.id) and not b.peers.connected(a.id)
            assert await b.call(a.id, "echo", 2) == [2]
            a.held[0](("kept",))
            assert await slow == ["kept"]
            await until(lambda: a.stats.links == b.stats.links == 1)
            assert a.peers.connected(b.id) and b.peers.connected(a.id)

    run(main())


def test_a_reply_that_never_comes_keeps_no_link_for_ever(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a replaced link is closed after a while even if an answer is still owed."""
    monkeypatch.setattr(link_module, "RETIRED_MOST_S", 0.05)

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            slow = asyncio.create_task(b.call(a.id, "hold", "x", deadline_s=60))
            await until(lambda: bool(a.held))
            await a.peers._open_to(b.address, b.id, 5)
            with pytest.raises(Unavailable, match="lost"):
                await slow
            await until(lambda: a.stats.links == b.stats.links == 1)

    run(main())


def test_a_peer_that_demands_and_reads_nothing_is_cut_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (L5): replies nobody reads do not pile up beyond the hard limit."""
    monkeypatch.setattr(link_module, "HARD_LIMIT_BYTES", 1 << 20)

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            await a.call(b.id, "echo", 1)
            greedy = a.peers._routes[b.id].link
            assert greedy is not None and greedy._transport is not None
            greedy._transport.pause_reading()
            results: list[Any] = []
            for _ in range(50):
                a.peers.call(b.id, ("hold",), 60, results.append)
            await until(lambda: len(b.held) == 50)
            for reply in b.held:
                reply((bytes(1 << 20),))
                await asyncio.sleep(0)
            await until(lambda: b.stats.links == 0)
            greedy._transport.resume_reading()
            await until(lambda: len(results) == 50)
            assert any(isinstance(r, Unavailable) for r in results)

    run(main())


def test_losing_the_connection_fails_all_calls(run: Run) -> None:
    """Goal (L2): calls in flight fail at once when the other process goes, each exactly once."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            results: list[Any] = []
            for _ in range(10):
                a.peers.call(b.id, ("hold",), 60, results.append)
            await until(lambda: len(b.held) == 10)
            await b.close()
            await until(lambda: len(results) == 10)
            assert all(type(r) is Unavailable for r in results)
            b.held[0](("too late",))  # no connection to answer on: a no-op
            with pytest.raises(Unavailable):
                await a.call(b.id, "echo", 1)

    run(main())


def test_a_peer_that_reads_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (L5): a full write buffer fails further calls at once; memory stays bounded."""
    monkeypatch.setattr(link_module, "HIGH_WATER_BYTES", 64 << 10)
    monkeypatch.setattr(link_module, "LOW_WATER_BYTES", 16 << 10)

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            await a.call(b.id, "echo", 1)
            deaf = b.peers._routes[a.id].link
            assert deaf is not None and deaf._transport is not None
            deaf._transport.pause_reading()
            results: list[Any] = []
            sent = 0
            while not a.stats.calls_overloaded and sent < 1000:
                a.peers.call(b.id, ("echo", bytes(1 << 20)), 60, results.append)
                sent += 1
                await asyncio.sleep(0)
            assert a.stats.calls_overloaded
            deaf._transport.resume_reading()
            await until(lambda: len(results) == sent)
            assert sum(type(r) is list for r in results) >= sent - a.stats.calls_overloaded
            assert await a.call(b.id, "echo", 1) == [1]

    run(main())


def test_a_new_boot_replaces_the_old_process(run: Run) -> None:
    """Goal (P3): a link from another boot fails the calls to the process before it."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        reborn = Peer(2, boot=2)
        async with peers(a, b, reborn):
            a.knows(b)
            hung = asyncio.create_task(a.call(b.id, "hold", deadline_s=60))
            await until(lambda: bool(b.held))
            assert await reborn.call(a.id, "echo", 1) == [1]
            with pytest.raises(Unavailable, match="restarted"):
                await hung
            await a.call(b.id, "echo", 2)
            assert reborn.requests == [(a.id, ["echo", 2])]

    run(main())


def test_forget_closes_the_link(run: Run) -> None:
    """Goal: a peer that is no member any more loses its connection and its calls."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            hung = asyncio.create_task(a.call(b.id, "hold", deadline_s=60))
            await until(lambda: bool(b.held))
            a.peers.forget(b.id)
            with pytest.raises(Unavailable, match="no longer a member"):
                await hung
            await until(lambda: not a.stats.links and not b.stats.links)
            assert await a.call(b.id, "echo", 1) == [1]

    run(main())


@pytest.mark.parametrize("seed", range(6))
def test_every_call_ends_once_while_links_break(run: Run, seed: int) -> None:
    """Goal (L1, L2, P1): under breaking links each call ends exactly once, and pairs settle on one link."""
    rng = random.Random(seed)

    async def main() -> None:
        made = [Peer(i) for i in range(1, 5)]
        for peer in made:
            peer.peers._jitter = rng.random
        ended: list[int] = []
        good: list[int] = []

        def done(n: int, result: Any) -> None:
            ended.append(n)
            if result == [n]:
                good.append(n)
            else:
                assert isinstance(result, Unavailable)

        async with peers(*made):
            for n in range(400):
                a, b = rng.sample(made, 2)
                a.peers.call(b.id, ("echo", n), 5, partial(done, n))
                if rng.random() < 0.1:
                    await asyncio.sleep(0)
                if rng.random() < 0.03 and a.peers._links:
                    rng.choice(list(a.peers._links)).abort(Unavailable("broken by the test"))
            await until(lambda: len(ended) == 400)
            assert sorted(ended) == list(range(400))
            assert len(good) > 50
            await until(lambda: not any(r.dialling for p in made for r in p.peers._routes.values()))
            for a in made:
                for b in made:
                    if a is not b:
                        a.peers.heard_of(b.id)
                        assert await a.call(b.id, "echo", 1) == [1]
            await until(lambda: all(p.stats.links == 3 for p in made))
            assert not any(p.peers.in_flight() for p in made)

    run(main())
