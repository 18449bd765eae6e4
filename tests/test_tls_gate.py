"""Goal: a port with TLS lets in who completes a handshake, in time, and tells who speaks plain HTTP; on real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peer.api.context import Context
from peer.api.server import ApiServer
from peer.client.trust import trust
from peer.tls import gate as gates
from peer.tls.certificates import Certificates, Files
from peer.tls.gate import Gate
from tests.certificates import TestAuthority, new_authority, put_pair

DEADLINE_S = 30.0
REFUSAL = b"HTTP/1.1 400 Bad Request\r\n\r\n"


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport  # uvloop's are no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.fixture
def authority() -> TestAuthority:
    return new_authority()


@pytest.fixture
def certificates(tmp_path: Path, authority: TestAuthority) -> Certificates:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    return Certificates(Files(*put_pair(tmp_path, authority.issue("127.0.0.1"))))


def with_gate(certificates: Certificates, play: Callable[[Gate, int], Awaitable[None]]) -> None:
    async def run() -> None:
        gate = Gate(Echo, certificates, lambda: REFUSAL)
        await gate.open("127.0.0.1", 0, 100)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await play(gate, gate.sockets[0].getsockname()[1])
        finally:
            gate.close()

    import uvloop

    uvloop.run(run())


async def echo(port: int, tls: ssl.SSLContext) -> str:
    """The serial number of the certificate that was shown, once an echo has come back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    shown = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    writer.close()
    return str(shown)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_new_connections_get_the_new_certificate(
    tmp_path: Path, authority: TestAuthority, certificates: Certificates
) -> None:
    """Goal: a replaced certificate is shown from then on; a connection that is open goes on with its own."""

    async def play(gate: Gate, port: int) -> None:
        tls = trust(str(tmp_path / "ca.pem"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        first = await echo(port, tls)
        put_pair(tmp_path, authority.issue("127.0.0.1"))
        certificates.look()
        assert await echo(port, tls) != first
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"
        writer.close()
        assert certificates.counts["handshakes"] == 3

    with_gate(certificates, play)


def test_plain_http_is_told(certificates: Certificates) -> None:
    """Goal: plain HTTP, with or without a body, gets its answer and the end of the connection at once."""

    async def play(gate: Gate, port: int) -> None:
        for sent in (b"G", b"GET / HTTP/1.1\r\n\r\n", b"PUT / HTTP/1.1\r\n\r\n" + b"x" * 300_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            assert await reader.read() == REFUSAL
            writer.close()
        assert certificates.counts["plain"] == 3

    with_gate(certificates, play)


def test_the_api_counts_whom_it_refuses(tmp_path: Path, certificates: Certificates) -> None:
    """Goal: plain HTTP, and what is no HTTP over TLS, are answered requests that failed, both in the same counter."""

    async def refused(port: int, tls: ssl.SSLContext | None) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        writer.write(b"what is this\r\n\r\n")
        status = await reader.readline()
        writer.close()
        return status

    async def run() -> dict[str, int]:
        replica: Any = SimpleNamespace(me="ab" * 8, epochs=SimpleNamespace(current=None))
        nobody: Any = SimpleNamespace()
        context = Context(replica, nobody, nobody, nobody)
        server = ApiServer(context)
        port = await server.start("127.0.0.1", 0, certificates)
        try:
            async with asyncio.timeout(DEADLINE_S):
                for tls in (None, trust(str(tmp_path / "ca.pem")), None):
                    assert b" 400 " in await refused(port, tls)
        finally:
            await server.stop()
        assert context.requests.in_flight == 0
        return context.counts | context.requests.summary()

    assert asyncio.run(run()) == {"status 400": 3}


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=repr)
def test_handshakes_have_a_deadline(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Goal: who sends nothing, or half a handshake, is dropped when the deadline has passed."""
    monkeypatch.setattr(gates, "HANDSHAKE_S", 0.2)

    async def play(gate: Gate, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        writer.close()
        await until(lambda: certificates.counts["failed"] == 1)

    with_gate(certificates, play)


def test_half_open_ones_have_a_bound(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: of too many unfinished handshakes the oldest is dropped, and an honest client still gets through."""
    monkeypatch.setattr(gates, "MOST_HALF_OPEN", 5)

    async def play(gate: Gate, port: int) -> None:
        lame = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        await until(lambda: certificates.counts["crowded_out"] == 15)
        assert await echo(port, trust(str(tmp_path / "ca.pem")))
        assert await lame[0][0].read() == b""
        for _, writer in lame:
            writer.close()

    with_gate(certificates, play)


def test_who_is_refused(tmp_path: Path, certificates: Certificates) -> None:
    """Goal: old protocols, garbage and clients that trust another authority end alone: the next one is served."""
    (tmp_path / "other.pem").write_bytes(new_authority().pem)

    async def play(gate: Gate, port: int) -> None:
        old = trust(str(tmp_path / "ca.pem"))
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        for tls in (old, trust(str(tmp_path / "other.pem"))):
            with pytest.raises(ssl.SSLError):
                await echo(port, tls)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16" + b"\xff" * 100)
        await reader.read()
        writer.close()
        assert await echo(port, trust(str(tmp_path / "ca.pem")))

    with_gate(certificates, play)


def test_a_port_in_use(certificates: Certificates) -> None:
    """Goal: that is an OSError, and nothing is left listening."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            gate = Gate(Echo, certificates, lambda: REFUSAL)
            with pytest.raises(OSError, match="in use"):
                await gate.open("127.0.0.1", taken.getsockname()[1], 10)
            assert gate.sockets == []

    asyncio.run(run())
