"""Goal: calls between peers: coalesced frames, deadlines, backoff, overload, refusals, joining, closing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from peer.errors import AtollError, Invalid, Refused, Unavailable
from peer.rpc import link as link_module
from peer.rpc import peers as peers_module
from tests.rpc_world import KEY, Peer, member, peers, until

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    return uvloop.run if request.param == "uvloop" else asyncio.run


def test_echo_both_ways_over_one_link(run: Run) -> None:
    """Goal: a call dials on demand, and the other side's calls use the same connection."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            assert await a.call(b.id, "echo", b"bytes") == [b"bytes"]
            assert await b.call(a.id, "echo", "str") == ["str"]
            assert a.stats.dials + b.stats.dials == 1
            assert b.requests[0] == (a.id, ["echo", b"bytes"])
            assert a.peers.connected(b.id) and b.peers.connected(a.id)

    run(main())


def test_who_answers_at_an_address(run: Run) -> None:
    """Goal: a member is told from another one at its address, from nobody there, and from silence."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            assert await a.peers.answers(*b.address, b.id, 5.0) is True
            assert await a.peers.answers(*b.address, member(3), 5.0) is False
            assert await a.peers.answers(*a.address, member(3), 5.0) is False
            with socket.create_server(("127.0.0.1", 0)) as silent:
                port = silent.getsockname()[1]
                assert await a.peers.answers("127.0.0.1", port, b.id, 0.1) is None
            assert await a.peers.answers("127.0.0.1", port, b.id, 5.0) is False

    run(main())


def test_a_turn_is_one_write(run: Run) -> None:
    """Goal: everything sent in one loop turn goes out as one write, replies too."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            await a.call(b.id, "echo", 0)
            before, replies_before = a.stats.writes, b.stats.writes
            answers = await asyncio.gather(*(a.call(b.id, "echo", i) for i in range(100)))
            assert answers == [[i] for i in range(100)]
            assert a.stats.writes == before + 1
            assert b.stats.writes == replies_before + 1

    run(main())


def test_large_messages_and_large_turns(run: Run) -> None:
    """Goal: a turn larger than one frame is cut into several; a message beyond the limit changes nothing."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            big = [bytes([i]) * (1 << 20) for i in range(3)]
            assert await asyncio.gather(*(a.call(b.id, "echo", x) for x in big)) == [[x] for x in big]
            many = await asyncio.gather(*(a.call(b.id, "echo", b"x" * 9000) for _ in range(100)))
            assert many == [[b"x" * 9000]] * 100
            with pytest.raises(Invalid, match="peers take up to"):
                await a.call(b.id, "echo", bytes(5 << 20))
            with pytest.raises(Invalid, match="cannot be packed"):
                await a.call(b.id, "echo", object())
            assert await a.call(b.id, "echo", 1) == [1]

    run(main())


def test_handler_errors_reach_the_caller(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: an AtollError travels with its code; a bug is logged there and Unavailable here."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            with pytest.raises(AtollError) as refused:
                await a.call(b.id, "refuse")
            assert refused.value.code == "Because"
            with pytest.raises(Unavailable, match="failed while handling"):
                await a.call(b.id, "bug")
            with pytest.raises(AtollError, match="cannot be sent"):
                await a.call(b.id, "unpackable")
            assert await a.call(b.id, "echo", 1) == [1]

    run(main())
    assert "a bug in the handler" in caplog.text


def test_deadline_and_late_reply(run: Run) -> None:
    """Goal: a call without an answer fails at its deadline; the late answer harms nobody."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            with pytest.raises(Unavailable, match="did not answer in time"):
                await a.call(b.id, "hold", deadline_s=0.1)
            b.held[0](("late",))
            b.held[0](("twice",))  # L3
            assert await a.call(b.id, "echo", 1) == [1]
            assert a.stats.calls_timed_out == 1
            assert a.peers.in_flight() == 0

    run(main())


def test_a_late_loop_accuses_nobody(run: Run) -> None:
    """Goal: after a pause of this process replies are let in before deadlines are judged."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            await a.call(b.id, "echo", 1)
            results: list[Any] = []
            a.peers.call(b.id, ("hold",), 0.0, results.append)
            a.peers._sweep_due -= 10  # as if the timer had come ten seconds late
            if a.peers._sweeper is not None:
                a.peers._sweeper.cancel()
            a.peers._sweep()
            assert results == [] and a.peers.in_flight() == 1
            await until(lambda: len(results) == 1)
            assert isinstance(results[0], Unavailable)

    run(main())


def test_requests_owed_are_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (L5): a peer that asks without waiting is told so; what it asked before is still answered."""
    monkeypatch.setattr(link_module, "MAX_OWED", 3)

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            calls = [asyncio.create_task(a.call(b.id, "hold", i)) for i in range(5)]
            await until(lambda: sum(c.done() for c in calls) == 2)
            for reply in b.held:
                reply(("yes",))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert results[:3] == [["yes"]] * 3
            assert all("too many requests waiting" in str(r) for r in results[3:])

    run(main())


def test_backoff_fails_at_once_then_redials(run: Run) -> None:
    """Goal (P2): after a failed dial calls fail with its reason without dialling; gossip's news ends that."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            await b.listener.close()
            with pytest.raises(Unavailable, match="cannot reach the peer at 127"):
                await a.call(b.id, "echo", 1)
            a.peers._routes[b.id].retry_at += 60
            with pytest.raises(Unavailable, match="cannot reach"):
                await a.call(b.id, "echo", 1)
            assert a.stats.dials == 1
            await b.start()
            a.knows(b)
            a.peers.heard_of(b.id)
            assert await a.call(b.id, "echo", 1) == [1]
            with pytest.raises(Unavailable, match="no address is known"):
                await a.call(member(9), "echo", 1)

    run(main())


def test_a_dial_that_fails_oddly_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an exception that is none of ours fails the calls that wait, at once, and the next one dials again."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):

            async def odd(*_: Any, **__: Any) -> Any:
                raise ValueError("odd")

            monkeypatch.setattr(peers_module, "connect", odd)
            async with asyncio.timeout(3):
                with pytest.raises(Unavailable, match="failed inside this peer"):
                    await a.call(b.id, "echo", 1)
            monkeypatch.undo()
            a.peers.heard_of(b.id)
            assert await a.call(b.id, "echo", 1) == [1]

    run(main())


def test_too_many_calls_fail_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (L5): beyond the bounds, on the link and before it, a call is Unavailable at once."""
    monkeypatch.setattr(link_module, "MAX_IN_FLIGHT", 5)
    monkeypatch.setattr(peers_module, "MAX_WAITING", 3)

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            early = await asyncio.gather(*(a.call(b.id, "echo", i) for i in range(5)), return_exceptions=True)
            assert [type(x) for x in early] == [list] * 3 + [Unavailable] * 2
            results: list[Any] = []
            for _ in range(7):
                a.peers.call(b.id, ("hold",), 60, results.append)
            await until(lambda: len(results) == 2)
            assert all("too many calls" in str(r) for r in results)
            assert a.stats.calls_overloaded == 4
            await until(lambda: len(b.held) == 5)
            for reply in b.held:
                reply((1,))
            await until(lambda: len(results) == 7)

    run(main())


def test_call_address_as_a_stranger_and_as_a_member(run: Run) -> None:
    """Goal: joining: one call to an address, by a stranger without id, by a member, and to oneself."""

    async def main() -> None:
        a, b, c = Peer(1), Peer(2), Peer(0, cluster="", power=0, stranger=True)
        async with peers(a, b):
            try:
                assert await c.peers.call_address(*a.address, ("echo", 7), 5) == [7]
                assert a.requests[-1] == ("", ["echo", 7])
                await until(lambda: not c.stats.links and not a.stats.links)
            finally:
                await c.close()
            assert await b.peers.call_address(*a.address, ("echo", 8), 5) == [8]
            assert await b.peers.call_address(*a.address, ("echo", 9), 5) == [9]
            assert await b.call(a.id, "echo", 10) == [10]
            assert b.stats.dials == 1
            with pytest.raises(Refused) as own:
                await b.peers.call_address(*b.address, ("echo", 9), 5)
            assert own.value.code == "Self"
            with pytest.raises(Unavailable, match="did not answer in time"):
                await b.peers.call_address(*a.address, ("hold",), 0.1)

    run(main())


def test_refusals_name_their_reason(run: Run) -> None:
    """Goal: wrong key, cluster, partition power and member are Refused, with a code."""

    async def main() -> None:
        a = Peer(1)
        others = {
            "WrongKey": Peer(2, key=KEY[::-1]),
            "WrongCluster": Peer(3, cluster="d" * 32),
            "WrongPartitionPower": Peer(4, power=13),
            "SameMember": Peer(1, boot=2),
        }
        async with peers(a):
            for code, other in others.items():
                with pytest.raises(Refused) as refused:
                    await other.peers.call_address(*a.address, ("echo", 1), 5)
                assert refused.value.code == code
                assert f"the peer at 127.0.0.1:{a.address[1]} re" in str(refused.value)
                await other.close()
            b = Peer(5)
            b.book[member(6)] = a.address
            with pytest.raises(Refused, match="this is peer") as wrong:
                await b.call(member(6), "echo", 1)
            assert wrong.value.code == "WrongMember"
            with pytest.raises(Refused):
                await b.call(member(6), "echo", 1)  # the backoff keeps the reason
            await b.close()
            assert a.stats.wrong_key == 1
            assert sum(a.stats.refused.values()) == 4
            assert a.requests == []

    run(main())


def test_closing_fails_what_waits(run: Run) -> None:
    """Goal: close ends dials and calls, later calls fail at once, and closing twice is harmless."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            results: list[Any] = []
            a.peers.call(b.id, ("hold",), 60, results.append)
            await a.peers.close()
            await a.peers.close()
            assert len(results) == 1 and isinstance(results[0], Unavailable)
            with pytest.raises(Unavailable, match="shutting down"):
                await a.call(b.id, "echo", 1)

    run(main())
