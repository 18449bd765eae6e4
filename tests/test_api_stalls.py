"""Clients that stall, against the real server with a store that is a stand-in and limits that are short."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from peer.api.context import Context, Limits
from peer.api.events import Events
from peer.api.server import ApiServer
from peer.api.subscription import STATES
from peer.api.unbuilt import UnbuiltS3
from peer.errors import AtollError, Corrupt, NotFound, Unavailable
from peer.objects.heads import CHUNKS, Head
from peer.objects.store import Found
from tests.test_api_events import FakeCluster

AUTH = "Authorization: Bearer AK:SK\r\nHost: x\r\n"
SIZE = 32 << 20  # more than any socket buffers


class Clock:
    """Time as the limits see it; it moves when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("peer.api.context.time", clock)
    return clock


class Store:
    """Reads bodies to their end; serves an object whose every mebibyte is another; counts what is in hand."""

    def __init__(self) -> None:
        self.failures: list[AtollError] = []
        self.received = 0
        self.in_hand = 0
        self.break_at = SIZE
        self.go = asyncio.Event()
        self.starved_s: float | None = None
        self.chunk_bytes = 1 << 20
        self.buckets = SimpleNamespace(find=self._find_bucket)

    async def _find_bucket(self, name: str) -> None:
        if name != "abc":
            raise NotFound("no bucket", code="NoSuchBucket")

    async def put(self, bucket: str, key: bytes, body: Any, **_: Any) -> Head:
        body.holds(key == b"held")
        try:
            while piece := await body.read():
                self.received += len(piece)
        except AtollError as error:
            self.failures.append(error)
            raise
        if key == b"slow":
            await self.go.wait()
        return Head(self.received, "abc-1", 0, "x/y", None, b"", CHUNKS, b"")

    def has(self, count: int) -> bool:
        return self.received >= count

    async def find(self, bucket: str, key: bytes, *, inline: bool = True) -> Found:
        return Found(Head(SIZE, "abc-1", 0, "x/y", None, b"", CHUNKS, b""), None)

    async def read(
        self, found: Found, start: int, stop: int
    ) -> AsyncIterator[tuple[memoryview, Callable[[], None]]]:
        for at in range(start, stop, 1 << 20):
            if at >= self.break_at:
                raise Corrupt("a chunk is damaged everywhere") if at else Unavailable("no owner answers")
            self.in_hand += 1
            buffer = bytearray(content(at, min(at + (1 << 20), stop)))
            yield memoryview(buffer), partial(self.release, buffer)

    def release(self, buffer: bytearray) -> None:
        """Another request fills the buffer at once: whoever still sends from it sends this."""
        self.in_hand -= 1
        buffer[:] = b"\xee" * len(buffer)


def content(start: int, stop: int) -> bytes:
    """What the object holds: 1 in the first mebibyte, 2 in the second, ..."""
    whole = b"".join(bytes([1 + (at >> 20)]) * (1 << 20) for at in range(start >> 20 << 20, stop, 1 << 20))
    return whole[start - (start >> 20 << 20) :][: stop - start]


def test_the_sweeper_outlives_an_exception(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: one look for idle bodies that fails does not end the looking."""
    looks: list[int] = []

    def fail(context: Context) -> None:
        looks.append(1)
        raise RuntimeError("on purpose")

    monkeypatch.setattr(Context, "cut_idle_bodies", fail)

    async def act(port: int, context: Context) -> None:
        await eventually(lambda: len(looks) >= 2)

    serve(Store(), act)
    assert "a look for idle bodies failed" in caplog.text


def serve(store: Store, act: Callable[[int, Context], Any]) -> None:
    """Run `act(port, context)` against a server over `store`."""

    async def run() -> None:
        epoch = SimpleNamespace(root_access_key="AK", root_secret_key="SK")
        replica: Any = SimpleNamespace(me="ab" * 8, epoch=epoch, epochs=SimpleNamespace(current=None))
        objects: Any = store
        nobody: Any = SimpleNamespace()
        context = Context(replica, objects, nobody, nobody, Limits(idle_body_s=60.0))
        server = ApiServer(context)
        port = await server.start("127.0.0.1", 0)
        try:
            async with asyncio.timeout(30):
                await act(port, context)
        finally:
            await server.stop()
        assert not context.transfers, "a transfer was not taken off the list"

    uvloop.run(run())  # as peers do: unlike asyncio, it sends from the memory it is given, without a copy


async def eventually(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 (the condition lives in another's state; `serve` has the deadline)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", b"x" * 1000])
def test_idle_body_is_cut(clock: Clock, sent: bytes) -> None:
    """Goal: an upload that stops is ended after the limit, and the store told why."""
    store = Store()

    async def act(port: int, context: Context) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"PUT /v1/buckets/abc/objects/k HTTP/1.1\r\n{AUTH}Content-Length: 5000\r\n\r\n"
        writer.write(head.encode() + sent)
        await eventually(lambda: bool(context.transfers) and store.received == len(sent))
        clock.now_s += 59
        context.cut_idle_bodies()
        assert not store.failures
        clock.now_s += 2
        context.cut_idle_bodies()
        with pytest.raises(ConnectionResetError):
            assert await reader.read() == b""
            raise ConnectionResetError
        await eventually(lambda: bool(store.failures))
        assert store.failures[0].code == "IncompleteBody"
        assert "no byte of the body came for 60 s" in str(store.failures[0])
        assert context.counts["idle_bodies"] == 1
        writer.close()

    serve(store, act)


def test_slow_bodies_and_slow_stores_are_not_cut(clock: Clock) -> None:
    """Goal: only silence ends an upload: not a trickle, and not our own slowness."""
    store = Store()

    async def act(port: int, context: Context) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"PUT /v1/buckets/abc/objects/slow HTTP/1.1\r\n{AUTH}Content-Length: 20\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        for number in range(1, 21):
            writer.write(b"x")
            await eventually(lambda number=number: store.received == number)  # type: ignore[misc]
            clock.now_s += 55
            context.cut_idle_bodies()
        clock.now_s += 1000
        context.cut_idle_bodies()
        store.go.set()
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK"), answer
        assert "idle_bodies" not in context.counts
        writer.close()

    serve(store, act)


@pytest.mark.parametrize(("piece", "cut"), [(1, True), (200_000, False)])
def test_an_upload_that_keeps_a_buffer_must_move(clock: Clock, piece: int, cut: bool) -> None:
    """Goal: while others wait, a client that trickles into a buffer loses its connection, one that is slow does not; with
    nobody waiting neither does."""
    store = Store()

    async def act(port: int, context: Context) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"PUT /v1/buckets/abc/objects/held HTTP/1.1\r\n{AUTH}Content-Length: {SIZE}\r\n\r\n"
        writer.write(head.encode())

        async def trickle(seconds: int) -> None:
            for _ in range(seconds):
                if context.counts.get("idle_bodies"):
                    return
                wanted = store.received + piece
                writer.write(b"x" * piece)
                await eventually(partial(store.has, wanted))
                clock.now_s += 1
                context.cut_idle_bodies()

        await trickle(20)
        assert "idle_bodies" not in context.counts, "nobody waits"
        store.starved_s = 0.0
        await trickle(20)
        assert context.counts.get("idle_bodies", 0) == cut
        writer.close()
        await eventually(lambda: not context.transfers)

    serve(store, act)


def test_slow_reader_gives_its_buffer_back(clock: Clock) -> None:
    """Goal: while others wait, a slow client keeps no buffer, keeps its connection, and gets every byte right."""
    store = Store()

    async def act(port: int, context: Context) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65536)
        writer.write(f"GET /v1/buckets/abc/objects/k HTTP/1.1\r\n{AUTH}Connection: close\r\n\r\n".encode())
        while await reader.readline() != b"\r\n":
            pass
        transfer = next(iter(context.transfers))
        body = b""
        while transfer.lease is None:  # until it is known to be slow
            clock.now_s += 1
            body += await reader.read(65536)
        store.starved_s = 0.0

        def given_back() -> bool:
            clock.now_s += 1
            context.cut_idle_bodies()
            return store.in_hand == 0

        await eventually(given_back)
        while piece := await reader.read(1 << 20):
            body += piece
        assert body == content(0, SIZE)
        assert "idle_bodies" not in context.counts
        assert store.in_hand == 0
        writer.close()

    serve(store, act)


def test_stalled_reader_is_cut_sooner_while_others_wait(clock: Clock) -> None:
    """Goal: a connection that sits on a buffer itself is ended after 5 s of silence if others need it."""
    store = Store()

    async def act(port: int, context: Context) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(f"GET /v1/buckets/abc/objects/k HTTP/1.1\r\n{AUTH}\r\n".encode())
        await reader.readline()
        clock.now_s += 59
        context.cut_idle_bodies()
        assert "idle_bodies" not in context.counts
        store.starved_s = 0.0

        def cut() -> bool:
            clock.now_s += 6
            context.cut_idle_bodies()
            return context.counts.get("idle_bodies", 0) >= 1

        await eventually(cut)
        await eventually(lambda: store.in_hand == 0)
        writer.close()

    serve(store, act)


def test_stalled_reader_is_cut(clock: Clock) -> None:
    """Goal: a client that stops reading its download loses its connection, and its buffers come back."""
    store = Store()

    async def act(port: int, context: Context) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(f"GET /v1/buckets/abc/objects/k HTTP/1.1\r\n{AUTH}\r\n".encode())
        await reader.readline()

        def cut() -> bool:
            clock.now_s += 61
            context.cut_idle_bodies()
            return context.counts.get("idle_bodies", 0) >= 1

        await eventually(cut)
        await eventually(lambda: store.in_hand == 0 and context.counts.get("clients_gone") == 1)
        writer.close()

    serve(store, act)


def test_a_reader_of_events_that_stalls_is_dropped(clock: Clock) -> None:
    """Goal: who listens and does not read is not waited for: others hear all, what waits for it stays one of each state and
    so many happenings, and once it has read nothing for the limit it loses its connection and its place."""

    async def act(port: int, context: Context) -> None:
        fake = FakeCluster()
        events = context.events = Events(fake, fake, fake.log)
        request = f"GET /v1/events HTTP/1.1\r\n{AUTH}\r\n".encode()
        (lazy, lazy_writer), (keen, keen_writer) = [
            await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(2)
        ]
        for writer in (lazy_writer, keen_writer):
            writer.write(request)
        await lazy.readline()
        heard = 0

        async def listen() -> None:
            nonlocal heard
            while piece := await keen.read(1 << 16):
                heard += piece.count(b"event: epoch")

        listening = asyncio.create_task(listen())
        await eventually(lambda: len(events._clients) == 2)
        for number in range(60):  # more than any socket buffers
            events._tell("cluster", {"large": "x" * (1 << 20)})
            events._tell("epoch", {"number": number})
            await eventually(lambda number=number: heard == number + 1)  # type: ignore[misc]
        waiting = max(events._clients, key=lambda one: len(one._happened))
        assert len(waiting._happened) > 0 and len(waiting._states) <= len(STATES)

        def cut() -> bool:
            clock.now_s += 61
            context.cut_idle_bodies()
            return waiting not in events._clients

        await eventually(cut)
        assert len(events._clients) == 1 and heard == 60
        for writer in (lazy_writer, keen_writer):
            writer.close()
        await listening

    serve(Store(), act)


@pytest.mark.parametrize(("break_at", "status"), [(0, b"503"), (5 << 20, b"200")])
def test_broken_while_sending(break_at: int, status: bytes) -> None:
    """Goal: a failure before the first byte is an honest error; a later one ends the connection short of its length."""
    store = Store()
    store.break_at = break_at

    async def act(port: int, context: Context) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /v1/buckets/abc/objects/k HTTP/1.1\r\n{AUTH}Connection: close\r\n\r\n".encode())
        answer = b""
        with pytest.raises(ConnectionResetError):
            while piece := await reader.read(1 << 20):
                answer += piece
            raise ConnectionResetError
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert b"x-request-id: abababab-1" in head
        if status == b"503":
            assert json.loads(body)["error"]["code"] == "ServiceUnavailable"
            assert b"Retry-After" in head
        else:
            assert len(body) <= break_at
        assert store.in_hand == 0
        writer.close()

    serve(store, act)


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
def test_continue_comes_when_the_body_is_wanted(expect: str) -> None:
    """Goal: 100 Continue is sent once, when the body is about to be read."""
    store = Store()

    async def act(port: int, context: Context) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"PUT /v1/buckets/abc/objects/k HTTP/1.1\r\n{AUTH}Expect: {expect}\r\nContent-Length: 3\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        assert await reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK") and b"100 Continue" not in answer
        writer.close()

    serve(store, act)


def test_the_s3_port_lets_go_of_clients_that_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a port that only refuses does not collect connections for as long as strangers like."""
    monkeypatch.setattr("peer.api.unbuilt.IDLE_S", 0.05)

    async def work() -> None:
        s3 = UnbuiltS3()
        await s3.start("127.0.0.1", 0)
        assert s3._runner is not None
        port = s3._runner.addresses[0][1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /hal")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await s3.stop()

    asyncio.run(work())
