"""Goal: bulk transfers: bytes arrive whole both ways, in bounded memory, time and threads."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from peer.buffers import Buffer
from peer.errors import AtollError, Full, Invalid, Refused, Unavailable
from peer.rpc import bulk as bulk_module
from peer.rpc import bulkserver as bulkserver_module
from peer.rpc.bulksocket import BulkSocket
from peer.rpc.noise import TAG_BYTES
from tests.rpc_world import KEY, Peer, member, peers, until

CHUNK = 4 << 20
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    return uvloop.run if request.param == "uvloop" else asyncio.run


def test_chunks_of_every_size_there_and_back(run: Run) -> None:
    """Goal: payloads of 1 byte to a whole chunk arrive unchanged over one reused connection."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            into = Buffer()
            for i, size in enumerate((1, 15, 16, 4096, 128 << 10, CHUNK - 1, CHUNK)):
                sent = os.urandom(size)
                assert await a.transfer(b.id, "put", payload=sent) == ([a.id, size], 0)
                assert b.stored.pop(i) == sent
                b.stored.insert(i, sent)
                assert await a.transfer(b.id, "get", i, into=into) == (["here"], size)
                assert into.payload(size) == sent
                await until(lambda: b.stored[-1] == b"released")
                b.stored.pop()
            await until(lambda: b.stats.bulk_served == 14)
            assert b.stats.bulk_connections == 1
            assert a.stats.bulk_bytes_out == b.stats.bulk_served_in > CHUNK * 2
            assert a.stats.bulk_bytes_in == b.stats.bulk_served_out > CHUNK * 2

    run(main())


def test_many_at_once_share_few_connections(run: Run) -> None:
    """Goal (B2): more transfers than threads and buffers all succeed, over at most `per_member` connections."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            parts = [os.urandom(200_000 + i) for i in range(40)]
            there = [a.transfer(b.id, "put", payload=p) for p in parts]
            back = [b.transfer(a.id, "put", payload=p) for p in parts]
            await asyncio.gather(*there, *back)
            assert sorted(b.stored) == sorted(a.stored) == sorted(parts)
            assert b.stats.bulk_connections <= bulk_module.PER_MEMBER

    run(main())


def test_errors_of_the_handler_keep_the_connection(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: an AtollError arrives as itself, a bug as Unavailable, and the connection is used again."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            with pytest.raises(Full, match="no room"):
                await a.transfer(b.id, "full", payload=b"x" * 100)
            with pytest.raises(Unavailable, match="failed while handling"):
                await a.transfer(b.id, "nonsense")
            with pytest.raises(Unavailable, match="failed while handling"):
                await a.transfer(b.id, "put")  # no payload: the handler's assertion
            assert await a.transfer(b.id, "put", payload=b"y") == ([a.id, 1], 0)
            assert b.stats.accepted == 1
            with pytest.raises(Invalid, match="too large"):
                await a.transfer(b.id, "put", payload=bytes(CHUNK + 1))
            with pytest.raises(Invalid, match="cannot be packed"):
                await a.transfer(b.id, object())

    run(main())
    assert "a bug in the bulk handler" in caplog.text


def test_the_deadline_ends_a_transfer(run: Run) -> None:
    """Goal: a peer that does not answer costs a call its deadline, not more, and other calls go on."""

    async def main() -> None:
        a, b, c = Peer(1), Peer(2), Peer(3)
        async with peers(a, b, c):
            hung = [asyncio.create_task(a.transfer(b.id, "hang", silence_s=0.3)) for _ in range(6)]
            assert await a.transfer(c.id, "put", payload=b"x") == ([a.id, 1], 0)
            results = await asyncio.gather(*hung, return_exceptions=True)
            assert all(type(r) is Unavailable for r in results)
            assert a.stats.bulk_timed_out == 6
            b.gate.set()
            assert await a.transfer(b.id, "put", payload=b"x") == ([a.id, 1], 0)

    run(main())


def test_a_peer_that_accepts_and_says_nothing(run: Run) -> None:
    """Goal: a dial that hangs is reported at the deadline, and its memory is never touched afterwards (B1)."""

    async def main() -> None:
        a = Peer(1)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            a.book[member(2)] = ("127.0.0.1", silent.getsockname()[1])
            with pytest.raises(Unavailable, match="in time"):
                await a.transfer(member(2), "put", payload=b"x", silence_s=0.1)
            await until(lambda: not a.bulk._running)
        with pytest.raises(Unavailable):
            await a.transfer(member(2), "put", payload=b"x")  # backing off, or refused
        with pytest.raises(Unavailable, match="no address"):
            await a.transfer(member(3), "put", payload=b"x")
        await a.close()

    run(main())


def test_b3_progress_is_told_while_bytes_move(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (B3): a receiver that reads piece by piece is told of with each piece, one that stands still is not."""
    pieces = threading.Semaphore(0)
    monkeypatch.setattr(BulkSocket, "receive_payload", piece_by_piece(pieces))

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            told: list[str] = []
            a.bulk.on_progress = told.append
            payload = os.urandom(4 << 20)
            sending = asyncio.create_task(a.transfer(b.id, "put", payload=payload, silence_s=300))
            for _ in range(3):
                before = len(told)
                while len(told) == before:
                    pieces.release()
                    await looked(a, 1)
            await looked(a, 2)
            before = len(told)
            await looked(a, 2)
            assert len(told) == before and set(told) == {b.id} and not sending.done()
            for _ in range(1000):
                pieces.release()
            await sending
            assert b.stored == [payload]

    run(main())


def test_b4_a_transfer_that_moves_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (B4): a receiver takes a little whenever the sender has looked, which in all takes longer than nothing may move;
    that transfer ends well, and so does one that waits behind it. When it stops taking, both fail. The time of a whole
    transfer used to count, and that of waiting."""
    pieces = threading.Semaphore(0)
    monkeypatch.setattr(BulkSocket, "receive_payload", piece_by_piece(pieces, 128 << 10))
    monkeypatch.setattr(bulk_module, "PROGRESS_S", 0.1)

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        a.bulk._per_member = 1
        async with peers(a, b):
            payload = os.urandom(4 << 20)

            def send() -> asyncio.Future[list[Any]]:
                both = (a.transfer(b.id, "put", payload=payload, silence_s=2.0) for _ in range(2))
                return asyncio.gather(*both, return_exceptions=True)

            sending, began_s = send(), a.bulk._loop.time()
            while not sending.done():
                pieces.release()
                await looked(a, 1, sending)
            assert await sending == [([a.id, 4 << 20], 0)] * 2
            assert a.bulk._loop.time() > began_s + 2 * 2.0, "else this shows nothing"
            try:
                assert [type(error) for error in await send()] == [Unavailable] * 2
            finally:
                pieces.release(1000)

    asyncio.run(main())


def piece_by_piece(
    pieces: threading.Semaphore, most: int = 256 << 10
) -> Callable[[BulkSocket, Buffer, int], None]:
    """A `receive_payload` that takes so many bytes at most for each piece it is allowed."""

    def slowly(self: BulkSocket, into: Buffer, size: int) -> None:
        self._sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10
        )  # so the kernel takes little by itself
        with into.payload(size + TAG_BYTES) as view:
            got = 0
            while got < len(view):
                assert pieces.acquire(timeout=300)
                more = self._sock.recv_into(view[got : got + most])
                if not more:
                    raise EOFError
                got += more
            self._session.receive.open_in_place(view)

    return slowly


async def looked(peer: Peer, times: int, unless: asyncio.Future[Any] | None = None) -> None:
    """Until the client has looked at its transfers so often, or has nothing to look at any more."""
    for _ in range(times):
        last_s = peer.bulk._looked
        await until(lambda last_s=last_s: peer.bulk._looked > last_s or (unless and unless.done()), 90.0)  # type: ignore[misc]


def test_a_peer_that_goes_away(run: Run) -> None:
    """Goal: a transfer cut in the middle fails at once; connections that died idle are not used again."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            await a.transfer(b.id, "put", payload=b"x")
            hung = asyncio.create_task(a.transfer(b.id, "hang", silence_s=60))
            await until(lambda: b.hanging == 1)
            for connection in list(b.bulk_server._open):
                connection.shut()
            with pytest.raises(Unavailable, match="broke"):
                await hung
            await a.transfer(b.id, "put", payload=b"y")
            for connection in list(b.bulk_server._open):
                connection.shut()
            b.gate.set()
            await until(lambda: not b.bulk_server._open)
            await a.transfer(b.id, "put", payload=b"z")
            assert b.stored == [b"x", b"y", b"z"]

    run(main())


def test_refusals_and_bounds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a wrong key and a full server are Refused with a code; too many waiting fail at once."""
    monkeypatch.setattr(bulkserver_module, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(bulk_module, "MAX_WAITING_PER_MEMBER", 2)

    async def main() -> None:
        a, b, thief = Peer(1), Peer(2), Peer(3, key=KEY[::-1])
        async with peers(a, b, thief):
            with pytest.raises(Refused) as refused:
                await thief.transfer(b.id, "put", payload=b"x")
            assert refused.value.code == "WrongKey"
            results = await asyncio.gather(
                *(a.transfer(b.id, "hang", silence_s=0.5) for _ in range(8)), return_exceptions=True
            )
            codes = [r.code for r in results if isinstance(r, AtollError)]
            assert len(codes) == 8
            assert codes.count("Busy") >= 3
            assert any("too many transfers waiting" in str(r) for r in results)

    run(main())


def test_pushing_at_each_other_with_few_buffers(run: Run) -> None:
    """Goal: peers that all push at each other with one replica buffer each cannot deadlock."""

    async def main() -> None:
        made = [Peer(i) for i in (1, 2, 3)]
        for peer in made:
            while peer.replica_buffers.stats.lent < 3:
                assert peer.replica_buffers.try_take()
        async with peers(*made):
            payload = bytes(1 << 20)
            await asyncio.gather(
                *(p.transfer(q.id, "put", payload=payload) for p in made for q in made * 5 if p is not q)
            )
            assert [len(p.stored) for p in made] == [10, 10, 10]
            for peer in made:
                peer.replica_buffers._created = 1  # the ones this test kept

    run(main())


def test_closing_in_the_middle(run: Run) -> None:
    """Goal: closing ends running and waiting transfers, each reported once, and joins every thread."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            results: list[Any] = []
            for _ in range(10):
                a.bulk.call(b.id, ("hang",), None, None, 60, results.append)
            await until(lambda: b.stats.bulk_connections == bulk_module.PER_MEMBER)
            await a.bulk.close()
            assert len(results) == 10 and all(isinstance(r, Unavailable) for r in results)
            assert not [t for t in threading.enumerate() if t.name.startswith("bulk to")]
            with pytest.raises(Unavailable, match="shutting down"):
                await a.transfer(b.id, "put", payload=b"x")

    run(main())
