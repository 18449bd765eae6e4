"""Goal: the peer port with real sockets: strangers, floods, garbage after the hello, gossip exchanges."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import Invalid, ProtocolError, Refused, StartupError, Unavailable
from peer.rpc import exchange as exchange_module
from peer.rpc import frames
from peer.rpc import listener as listener_module
from peer.rpc.hello import Session
from peer.rpc.sockets import connect, shown
from tests.rpc_world import KEY, Peer, member, peers, until

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    return uvloop.run if request.param == "uvloop" else asyncio.run


async def raw(peer: Peer, data: bytes) -> bytes:
    """What the peer port answers to some bytes, up to its hanging up."""
    reader, writer = await asyncio.open_connection(*peer.address)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


async def open_as(peer: Peer, kind: str, to: Peer) -> tuple[socket.socket, Session]:
    return await connect(to.address, key=KEY, hello=lambda: peer.hello, kind=kind, wanted="", timeout_s=5)


def test_strangers_are_told_nothing(run: Run) -> None:
    """Goal: garbage, another protocol and silence end the connection, counted, and peers go on."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            assert await raw(a, b"GET / HTTP/1.1\r\n\r\n") == b""
            assert await raw(a, b"\x00\x30" + bytes(48)) == b"\x00\x00"  # "not our key", and no more
            assert await raw(a, b"\x00\x05hello") == b""
            assert (a.stats.malformed, a.stats.wrong_key) == (2, 1)
            assert await b.call(a.id, "echo", 1) == [1]
            assert a.stats.strangers == 0

    run(main())


def test_silence_is_timed_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a stranger that says nothing, or half a message, is dropped after its time."""
    monkeypatch.setattr(listener_module, "STRANGER_TIMEOUT_S", 0.1)

    async def main() -> None:
        a = Peer(1)
        async with peers(a):
            assert await asyncio.gather(raw(a, b""), raw(a, b"\x00\x30half")) == [b"", b""]
            assert a.stats.strangers_timed_out == 2
            assert a.stats.strangers == 0

    run(main())


def test_strangers_are_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: beyond the bound connections are closed at once; known peers are not counted."""
    monkeypatch.setattr(listener_module, "MAX_STRANGERS", 3)

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            await b.call(a.id, "echo", 1)
            silent = [socket.create_connection(a.address) for _ in range(3)]
            await until(lambda: a.stats.strangers == 3)
            assert await raw(a, b"") == b""
            assert a.stats.strangers_dropped == 1
            assert await b.call(a.id, "echo", 1) == [1]
            for sock in silent:
                sock.close()
            await until(lambda: a.stats.strangers == 0)

    run(main())


def test_a_port_in_use_names_the_remedy(run: Run) -> None:
    """Goal: StartupError says which port and what to do; so does an address that is not ours."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a):
            with pytest.raises(StartupError, match=f"{a.address[1]} is in use: .*--port"):
                await b.listener.start(*a.address)
            with pytest.raises(StartupError, match="cannot listen"):
                await b.listener.start("192.0.2.1", 0)
            with pytest.raises(StartupError, match="cannot listen"):
                await b.listener.start("no.such.host.invalid", 0)
        await b.close()

    run(main())


def test_dialling_what_is_no_peer_port(run: Run) -> None:
    """Goal: another protocol, a closed port and a bad name each give an error that names the address."""

    async def main() -> None:
        async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        a = Peer(1)
        async with await asyncio.start_server(http, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ProtocolError, match="is it the peer port"):
                await a.peers.call_address("127.0.0.1", port, ("echo",), 5)
        with pytest.raises(Unavailable, match="cannot reach the peer at 127"):
            await a.peers.call_address("127.0.0.1", port, ("echo",), 5)
        with pytest.raises(Unavailable, match="cannot resolve the peer address no"):
            await a.peers.call_address("no.such.host.invalid", port, ("echo",), 5)
        silent = socket.create_server(("127.0.0.1", 0))
        with silent, pytest.raises(Unavailable, match=r"did not answer within 0\.1 s"):
            await a.peers.call_address("127.0.0.1", silent.getsockname()[1], ("echo",), 0.1)
        await a.close()

    run(main())


def test_ipv6_addresses(run: Run) -> None:
    """Goal: [::1] works, and addresses are shown as people type them."""
    assert (shown("::1", 7402), shown("h", 1)) == ("[::1]:7402", "h:1")
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(b):
            try:
                a.address = ("::1", await a.listener.start("::1", 0))
            except StartupError:
                return  # no loopback of that family on this machine
            finally:
                b.knows(a)
            assert await b.call(a.id, "echo", 1) == [1]
            await a.close()

    run(main())


def hostile(peer: Peer, plain: bytes, kind: str, *, sealed: bool) -> Coroutine[Any, Any, None]:
    """Send one (un)sealed frame after a proper hello and wait for the connection's end or a short answer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock, session = await open_as(Peer(9), kind, peer)
        with sock:
            data = frames.seal(session.send, plain) if sealed else plain
            await loop.sock_sendall(sock, data)
            async with asyncio.timeout(10):
                try:
                    sock.shutdown(socket.SHUT_WR)
                    while await loop.sock_recv(sock, 65536):
                        pass
                except OSError:
                    pass  # it hung up before

    return main()


MESSAGES = st.lists(
    st.lists(
        st.integers(-1, 5)
        | st.none()
        | st.text(max_size=5)
        | st.lists(st.sampled_from(["echo", "refuse", 1]), min_size=2, max_size=3),
        max_size=4,
    ),
    max_size=4,
).map(frames.pack)


@given(st.lists(st.tuples(st.binary(max_size=100) | MESSAGES, st.booleans()), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_a_hostile_member_harms_nobody(frames_sent: list[tuple[bytes, bool]]) -> None:
    """Goal: whatever a holder of the key sends on any kind of connection, the peer goes on serving."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):
            for plain, sealed in frames_sent:
                for kind in ("calls", "bulk", "gossip"):
                    await hostile(a, plain, kind, sealed=sealed)
            assert await b.call(a.id, "echo", 1) == [1]
            assert (await b.transfer(a.id, "put", payload=b"x"))[0] == [b.id, 1]
            assert await b.exchange(a.address, b"abc", 5) == b"cba"

    uvloop.run(main())


def test_exchanges(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: one request, one answer, of any size up to the limit; errors name the address."""
    monkeypatch.setattr(exchange_module, "MAX_EXCHANGE_BYTES", 1 << 20)

    async def main() -> None:
        a, b = Peer(1), Peer(2, cluster="", power=0, stranger=True)
        async with peers(a, b):
            for size in (0, 1, 1000, 1 << 20):
                payload = os.urandom(size)
                assert await b.exchange(a.address, payload, 5) == payload[::-1]
            with pytest.raises(Invalid, match="the limit is"):
                await b.exchange(a.address, bytes((1 << 20) + 1), 5)
            await until(lambda: a.stats.exchanges_served == 4)
            with pytest.raises(Refused):
                await a.exchange(a.address, b"x", 5)
            other = Peer(3, key=KEY[::-1])
            with pytest.raises(Refused, match="rejected our cluster key"):
                await other.exchange(a.address, b"x", 5)
            await other.close()

    run(main())


def test_exchanges_that_fail(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a handler that hangs costs the deadline, one that fails a hang-up; both are Unavailable."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        async with peers(a, b):

            async def hang(payload: bytes) -> bytes:
                await asyncio.Event().wait()
                return payload

            async def fail(payload: bytes) -> bytes:
                raise RuntimeError("a bug in the gossip handler")

            a.exchange._handler = hang
            with pytest.raises(Unavailable, match=r"did not answer within 0\.1 s"):
                await b.exchange(a.address, b"x", 0.1)
            a.exchange._handler = fail
            with pytest.raises(Unavailable, match="hung up"):
                await b.exchange(a.address, b"x", 5)
            await a.listener.close()
            with pytest.raises(Unavailable, match="cannot reach"):
                await b.exchange(a.address, b"x", 5)

    run(main())
    assert "a bug in the gossip handler" in caplog.text


def test_kinds_that_are_not_served(run: Run) -> None:
    """Goal: a listener without a service refuses its kind with a reason."""

    async def main() -> None:
        a, b = Peer(1), Peer(2)
        del a.services["gossip"]
        async with peers(a, b):
            with pytest.raises(Refused) as refused:
                await b.exchange(a.address, b"x", 5)
            assert refused.value.code == "NoSuchKind"
            assert a.stats.refused == {"NoSuchKind": 1}
            assert a.stats.snapshot()["refused"] == {"NoSuchKind": 1}
            assert member(1) == a.id

    run(main())
