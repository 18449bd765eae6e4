"""The id of a client's request goes with every message it causes, and with nothing else; old peers are not sent it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from peer.errors import Unavailable
from peer.requestid import CURRENT, MOST
from peer.rpc import frames
from peer.rpc import link as link_module
from peer.rpc.hello import REQUEST_IDS
from tests.rpc_world import Peer, member, peers, until

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    return uvloop.run if request.param == "uvloop" else asyncio.run


async def told(a: Peer, b: Peer, request_id: str, size: int = 100) -> list[str]:
    """A call and a transfer for this request, in a task of their own; what came with them."""
    b.for_requests.clear()

    async def work() -> None:
        CURRENT.set(request_id)
        await a.call(b.id, "echo", 1)
        await a.transfer(b.id, "put", payload=bytes(size))

    await asyncio.create_task(work())
    return list(b.for_requests)


def test_calls_and_transfers_carry_it(run: Run) -> None:
    """Goal: the other side works for the request that the caller works for, of many over one connection; what a peer does by
    itself is for none, also over a connection that a request opened."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            for request_id in ("first", "", "x" * MOST, "last", ""):
                assert await told(a, b, request_id) == [request_id, request_id]
            await b.call(a.id, "echo", 2)
            assert a.for_requests == [""], "the same connection, the other way"
            assert a.stats.dials + b.stats.dials == 1

    run(main())


def test_what_comes_of_a_reply_belongs_to_it(run: Run) -> None:
    """Goal: a further message that a reply causes carries the id, whether the reply came, failed, or never came."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            over: list[asyncio.Future[str]] = []

            def ask(request_id: str, operation: str, deadline_s: float = 5.0) -> None:
                done = asyncio.get_running_loop().create_future()
                over.append(done)
                CURRENT.set(request_id)
                a.peers.call(b.id, (operation, 1), deadline_s, lambda _: done.set_result(CURRENT.get()))
                CURRENT.set("")

            ask("one", "echo")
            ask("two", "refuse")
            ask("", "echo")
            ask("late", "hold", 0.05)
            assert await asyncio.gather(*over) == ["one", "two", "", "late"]
            assert CURRENT.get() == ""

    run(main())


def test_a_failed_dial_belongs_to_it() -> None:
    """Goal: a call that never left, and a transfer that never began, end for the request that they were made for."""

    async def main() -> None:
        a = Peer(1)
        async with peers(a):
            found: asyncio.Queue[str] = asyncio.Queue()
            CURRENT.set("r")
            a.peers.call(member(9), ("echo", 1), 1.0, lambda _: found.put_nowait(CURRENT.get()))
            a.bulk.call(
                member(9), ("put",), memoryview(b"x"), None, 1.0, lambda _: found.put_nowait(CURRENT.get())
            )
            CURRENT.set("")
            assert [await found.get(), await found.get()] == ["r", "r"]

    asyncio.run(main())


def test_an_old_peer_gets_what_it_reads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: to a peer that told a lower level, messages and transfers are as they were before there were ids, byte for byte;
    what it sends is understood."""
    packed: list[bytes] = []
    pack = link_module.pack_message

    def noted(message: Any) -> bytes:
        packed.append(pack(message))
        return packed[-1]

    monkeypatch.setattr(link_module, "pack_message", noted)

    async def main() -> None:
        new, old = Peer(1), Peer(2, level=REQUEST_IDS - 1)
        async with peers(new, old):
            assert await told(new, old, "quokka") == ["", ""]
            assert await told(old, new, "wombat") == ["wombat", "wombat"], (
                "this test's old peer writes as a new one does"
            )
            assert packed[0] == frames.pack((frames.REQUEST, 0, ("echo", 1)))
            await until(lambda: old.stats.bulk_served == 1)
            sent = old.stats.bulk_served_in
            await told(new, old, "")
            await until(lambda: old.stats.bulk_served == 2)
            assert old.stats.bulk_served_in == 2 * sent, "not a byte more with an id than without"

    run(main())


@pytest.mark.parametrize("nonsense", [7, None, "x" * (MOST + 1), "two\nlines", [1]])
def test_an_impossible_id_is_none(nonsense: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a peer that sends nonsense for an id is answered all the same; nothing of it gets into a log."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            assert await told(a, b, nonsense) == ["", ""]

    asyncio.run(main())


@pytest.mark.parametrize(
    "message", [[frames.REPLY, 0, [0], "id"], [frames.REQUEST, 0, ["echo", 1], "id", 2], [frames.REQUEST, 0]]
)
def test_other_messages_have_no_id(message: list[Any]) -> None:
    """Goal: only a request may be longer, by one."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            await a.call(b.id, "echo", 1)
            (link,) = a.peers._links
            link._send(frames.pack(message))
            await until(lambda: b.stats.malformed == 1)
            with pytest.raises(Unavailable):
                await a.call(b.id, "hold", 1)

    asyncio.run(main())
