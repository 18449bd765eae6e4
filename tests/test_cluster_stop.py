"""SIGTERM: what is under way ends well, what would come next goes elsewhere, and the process ends with 0."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from peer.api.protocol import Handler, HttpServer
from tests.cluster_tools import MIB, Writer, content, wait_until
from tests.cluster_world import ClusterWorld
from tests.ledgers import NUMBER, Ledger, check_ledgers
from tests.test_cluster_kills import Reader

WAIT_S = 60.0
LARGE = content(1, 24 * MIB + 5)
"""More than what lies between a peer and a client that does not read."""


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ClusterWorld]:
    """Peers that wait long for what is under way; their parameter, if there is one, is that of TLS."""
    tls = getattr(request, "param", "")
    environment = {"ATOLL_DRAIN": "60s"}
    with ClusterWorld(
        tmp_path, options=["--chunk-size", "1MiB"], environment=environment, tls=tls
    ) as cluster:
        assert cluster.call("PUT", "/v1/buckets/stop").status == 201
        yield cluster


def ask_to_stop(world: ClusterWorld, peer: int) -> None:
    """SIGTERM, and wait until it takes no new connections, and has closed one that was idle: whatever comes from now on
    comes to a server that ends."""
    idle = world.connection(peer, WAIT_S)
    idle.request("GET", "/health")
    assert idle.getresponse().read() and idle.sock is not None
    world.signal(peer, signal.SIGTERM)
    assert idle.sock.recv(1) == b""
    idle.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", world.place(peer).api_port), WAIT_S)
    assert world.running(peer), "it does not wait for what is under way"


@pytest.mark.parametrize("world", ["", "auto"], ids=["plain", "tls"], indirect=True)
def test_an_upload_under_way_is_stored(world: ClusterWorld) -> None:
    """Goal: whoever has sent half of an object sends the rest, and is told that it is stored; all others have it."""
    half_sent, go_on = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield LARGE[: 5 * MIB]
        half_sent.set()
        assert go_on.wait(WAIT_S)
        yield LARGE[5 * MIB :]

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(world.call, "PUT", "/v1/buckets/stop/objects/up", body(), timeout_s=WAIT_S)
        assert half_sent.wait(WAIT_S)
        ask_to_stop(world, 0)
        go_on.set()
        assert answer.result(WAIT_S).status == 200
    assert world.stop(0) == 0
    assert world.call("GET", "/v1/buckets/stop/objects/up", peer=1).body == LARGE


@pytest.mark.parametrize("world", ["", "auto"], ids=["plain", "tls"], indirect=True)
def test_a_download_under_way_is_whole(world: ClusterWorld) -> None:
    """Goal: whoever has read the beginning of an object reads the rest, from the peer that stops."""
    assert world.call("PUT", "/v1/buckets/stop/objects/down", LARGE, peer=1).status == 200
    connection = world.connection(0, WAIT_S)
    try:
        headers = {"Authorization": world.authorization}
        connection.request("GET", "/v1/buckets/stop/objects/down", headers=headers)
        response = connection.getresponse()
        first = response.read(1000)
        ask_to_stop(world, 0)
        assert first + response.read() == LARGE
    finally:
        connection.close()
    assert world.stop(0) == 0


def test_what_does_not_end_is_cut(tmp_path: Path) -> None:
    """Goal: an upload that goes on for longer than `--drain` does not hold the stop up: it is cut, the process ends with 0,
    and nothing is stored."""
    with ClusterWorld(tmp_path, environment={"ATOLL_DRAIN": "500ms"}) as world:
        assert world.call("PUT", "/v1/buckets/stop").status == 201
        connection = socket.create_connection(("127.0.0.1", world.place(0).api_port), WAIT_S)
        with connection:
            head = f"PUT /v1/buckets/stop/objects/endless HTTP/1.1\r\nHost: x\r\nAuthorization: {world.authorization}\r\n"
            connection.sendall(f"{head}Content-Length: 1000000\r\n\r\nthe beginning".encode())
            assert world.call("GET", "/v1/buckets").status == 200  # after it: it has been read
            assert world.stop(0) == 0
        assert world.call("HEAD", "/v1/buckets/stop/objects/endless", peer=1).status == 404


def test_a_body_is_read_to_its_end_by_a_server_that_ends() -> None:
    """Goal: what a client sends of a request that is being answered arrives, also when all connections have been told to
    close."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        return web.Response(text=str(len(await request.read())))

    async def scenario() -> None:
        server, runner = await serving(answer)
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\nsome")
        await begun.wait()
        (connection,) = server.connections
        ending = asyncio.create_task(runner.cleanup())
        await asyncio.to_thread(wait_until, lambda: connection._force_close, "the server ends", WAIT_S)
        writer.write(bytes(900_000 - 4))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head and await reader.read() == b"900000"
        await ending
        writer.close()

    begun = asyncio.Event()
    asyncio.run(asyncio.wait_for(scenario(), WAIT_S))


def test_an_answer_that_does_not_end_is_waited_for_once() -> None:
    """Goal: whoever downloads slowly is cut when the drain is over, and not when that time has passed twice."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        tasks.append(asyncio.current_task())
        begun.set()
        response = web.StreamResponse()
        await response.prepare(request)
        while True:  # until its client, which reads nothing, lets it wait for ever
            await response.write(bytes(MIB))

    async def scenario() -> None:
        _, runner = await serving(answer, drain_s=0.5)
        _, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        (task,) = tasks
        assert task is not None
        ending = asyncio.create_task(runner.cleanup())
        await asyncio.sleep(0)
        # Timers of one loop come in their order, however late: this one after the drain's end, before twice of it.
        cut = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(
            0.9, lambda: cut.set_result(task.done() or task.cancelling() > 0)
        )
        assert await cut, "the handler goes on after the drain"
        await ending
        writer.close()

    tasks: list[asyncio.Task[Any] | None] = []
    begun = asyncio.Event()
    asyncio.run(asyncio.wait_for(scenario(), WAIT_S))


async def serving(answer: Handler, drain_s: float = 60.0) -> tuple[HttpServer, web.ServerRunner]:
    """A server on a port of its own."""
    server = HttpServer(answer, lambda status, code, message: web.Response(status=status))
    runner = web.ServerRunner(server, shutdown_timeout=drain_s)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return server, runner


def test_an_open_connection_is_ended_before_it_is_closed() -> None:
    """Goal: a request on a connection that is open already is answered, and the answer says that it was the last one: none
    is lost because it met the end of its connection on the way."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="done")

    async def scenario() -> None:
        server, runner = await serving(answer)
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])

        async def asked() -> bytes:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(4) == b"done"
            return head.lower()

        assert b"connection: close" not in await asked()
        leaving = asyncio.create_task(server.farewell(WAIT_S))
        await asyncio.sleep(0)
        assert b"connection: close" in await asked()
        assert await reader.read() == b"", "the connection is closed after the answer"
        await leaving  # and nobody is waited for any more
        writer.close()
        await runner.cleanup()

    asyncio.run(asyncio.wait_for(scenario(), WAIT_S))


def test_peers_restarted_under_load(
    world: ClusterWorld, record_property: Callable[[str, object], None]
) -> None:
    """Goal: peers that are restarted in turn cost no client anything: reads and writes go on, and every conditional write
    has an outcome that is known, and is right."""
    with world.client() as client, ExitStack() as stack:
        sizes = [900, 300_000]
        for number, size in enumerate(sizes):
            client.put("stop", f"steady/{number}", content(number, size))
        client.put("stop", NUMBER, b"0")
        reader = stack.enter_context(Reader(client, "stop", sizes, 1))
        writer = stack.enter_context(Writer(client, "stop", "w/", size=40_000, most=100_000))
        ledgers = [stack.enter_context(Ledger(client, "stop", who)) for who in range(3)]
        for peer in (0, 1, 2):
            for one in (reader, writer, *ledgers):
                one.wait_for(20)
            assert world.stop(peer) == 0
            for one in (reader, writer, *ledgers):
                one.wait_for(5)
            world.start(peer)
            world.wait_ready(peer)
    assert reader.failure is None, f"a read failed: {reader.failure!r}"
    assert not [doubt for ledger in ledgers for doubt in ledger.doubts]
    with world.client() as client:
        writer.check(client)
        check_ledgers(client, "stop", ledgers)
    record_property("conditional writes", sum(one.added + len(one.claimed) for one in ledgers))
    record_property("refused", sum(one.refused for one in ledgers))


@pytest.mark.parametrize("world", [""], ids=["plain"], indirect=True)
def test_a_terminal_that_is_gone_ends_a_peer_in_order(world: ClusterWorld) -> None:
    """Goal: SIGHUP without TLS is a stop as any other: the process ends with 0, and clients go on at the others."""
    world.signal(1, signal.SIGHUP)
    wait_until(lambda: not world.running(1), "it has ended")
    assert world.stop(1) == 0
    assert world.call("PUT", "/v1/buckets/stop/objects/after", b"x", peer=0).status == 200
