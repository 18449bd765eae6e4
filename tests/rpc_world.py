"""Small peers on loopback for the tests of `peer/rpc`, closed without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError, Full
from peer.requestid import CURRENT
from peer.rpc.bulk import BulkClient
from peer.rpc.bulkserver import Answer, BulkServer
from peer.rpc.exchange import Exchange
from peer.rpc.hello import WIRE_LEVEL, Hello
from peer.rpc.listener import Listener, Service
from peer.rpc.peers import Peers
from peer.rpc.stats import Stats

KEY = bytes(range(32))
CLUSTER = "c" * 32


def member(n: int) -> str:
    return f"{n:016x}"


class Peer:
    """One peer: answers ["echo", x] with [x], keeps ["hold", x] for the test to answer."""

    def __init__(
        self,
        n: int,
        *,
        key: bytes = KEY,
        cluster: str = CLUSTER,
        boot: int = 1,
        power: int = 12,
        stranger: bool = False,
        level: int = WIRE_LEVEL,
    ) -> None:
        self.id = "" if stranger else member(n)
        self.key = key
        self.hello = Hello(cluster, self.id, boot, level, power)
        self.stats = Stats()
        self.book: dict[str, tuple[str, int]] = {}
        self.requests: list[tuple[str, list[Any]]] = []
        self.for_requests: list[str] = []  # of clients: what requests and transfers came with
        self.held: list[Callable[[Any], None]] = []
        self.peers = Peers(lambda: self.hello, key, self.handle, lambda m: self.book.get(m), stats=self.stats)
        self.bulk = BulkClient(lambda: self.hello, key, lambda m: self.book.get(m), stats=self.stats)
        self.replica_buffers = BufferPool(4, name="replica")
        self.stored: list[bytes] = []
        self.bulk_server = BulkServer(self.serve, self.replica_buffers, stats=self.stats)
        self.gate = threading.Event()
        self.hanging = 0
        self.exchange = Exchange(lambda: self.hello, key, self.gossip, stats=self.stats)
        self.services: dict[str, Service] = {
            "calls": self.peers,
            "gossip": self.exchange,
            "bulk": self.bulk_server,
        }
        self.listener = Listener(lambda: self.hello, key, self.services, stats=self.stats)
        self.address = ("127.0.0.1", 0)

    async def start(self) -> None:
        self.address = ("127.0.0.1", await self.listener.start("127.0.0.1", self.address[1]))

    def knows(self, *others: Peer) -> None:
        for other in others:
            self.book[other.id] = other.address

    def handle(self, sender: str, body: list[Any], reply: Callable[[Any], None]) -> None:
        self.requests.append((sender, body))
        self.for_requests.append(CURRENT.get())
        match body[0]:
            case "echo":
                reply((body[1],))
            case "hold":
                self.held.append(reply)
            case "refuse":
                raise AtollError("no", code="Because")
            case "bug":
                raise RuntimeError("a bug in the handler")
            case "unpackable":
                reply((object(),))

    def serve(self, sender: str, header: list[Any], buffer: Buffer | None, length: int) -> Answer:
        """["put"] keeps the payload, ["get", i] sends it back, ["hang"] waits for the gate."""
        self.for_requests.append(CURRENT.get())
        match header[0]:
            case "put":
                assert buffer is not None
                self.stored.append(bytes(buffer.payload(length)))
                return (sender, length), None, None
            case "get":
                return ("here",), memoryview(self.stored[header[1]]), lambda: self.stored.append(b"released")
            case "hang":
                self.hanging += 1
                self.gate.wait(10)
                return ("late",), None, None
            case "full":
                raise Full("no room")
        raise RuntimeError("a bug in the bulk handler")

    async def transfer(
        self,
        other: str,
        *header: Any,
        payload: bytes | memoryview | None = None,
        into: Buffer | None = None,
        silence_s: float = 10.0,
    ) -> tuple[list[Any], int]:
        """`BulkClient.call` as a coroutine."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        view = memoryview(payload) if payload is not None else None
        self.bulk.call(other, header, view, into, silence_s, answer.set_result)
        result = await answer
        if isinstance(result, AtollError):
            raise result
        assert isinstance(result, tuple)
        return result

    async def gossip(self, payload: bytes) -> bytes:
        return payload[::-1]

    async def call(self, other: str, *message: Any, deadline_s: float = 5.0) -> list[Any]:
        """`Peers.call` as a coroutine."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.peers.call(other, message, deadline_s, answer.set_result)
        result = await answer
        if isinstance(result, AtollError):
            raise result
        assert isinstance(result, list)
        return result

    async def close(self) -> None:
        await self.listener.close()
        await self.exchange.close()
        await self.peers.close()
        await self.bulk.close()
        self.gate.set()
        await self.bulk_server.close()


@contextlib.asynccontextmanager
async def peers(*made: Peer) -> AsyncIterator[None]:
    """Start them, and afterwards prove that closing leaves no task, thread or buffer behind."""
    try:
        for peer in made:
            await peer.start()
        for peer in made:
            peer.knows(*(p for p in made if p is not peer))
        yield
    finally:
        for peer in made:
            await peer.close()
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert not [t.name for t in threading.enumerate() if t.name.startswith("bulk")]
        assert not any(p.replica_buffers.stats.lent for p in made)


async def until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """Wait for a condition by letting the loop turn; fails the test at the deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - the condition belongs to the code under test
            await asyncio.sleep(0.002)
