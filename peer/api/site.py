"""Where a server listens: plain, or behind TLS (`peer.tls`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from peer.tls.certificates import Certificates
from peer.tls.gate import Gate


class TlsSite(web.BaseSite):
    """A site of aiohttp's whose connections come through a gate."""

    def __init__(self, runner: web.ServerRunner, host: str, port: int, gate: Gate, backlog: int) -> None:
        super().__init__(runner, backlog=backlog)
        self._where = host, port
        self._gate = gate

    @property
    def name(self) -> str:
        return "https://{}:{}".format(*self._where)

    async def start(self) -> None:
        await super().start()
        await self._gate.open(*self._where, self._backlog)
        self._server = self._gate  # type: ignore[assignment]  # aiohttp closes it, and looks at its sockets


async def listen(
    runner: web.ServerRunner,
    host: str,
    port: int,
    certificates: Certificates | None,
    refusal: Callable[[], bytes],
    backlog: int = 1024,
) -> int:
    """Listen, with TLS if there are certificates; the port in use. `refusal` is the whole answer to plain HTTP where TLS is
    spoken. Raises OSError; nothing listens then."""
    server: Any = runner.server
    site: web.BaseSite
    if certificates is None:
        site = web.TCPSite(runner, host, port, backlog=backlog)
    else:
        site = TlsSite(runner, host, port, Gate(server, certificates, refusal), backlog)
    await site.start()
    return int(runner.addresses[0][1])


def plain_answer(content_type: str, body: bytes, more: str = "") -> bytes:
    """A 400 to whoever speaks plain HTTP to a port with TLS, as bytes: no HTTP server ever sees such a connection."""
    head = (
        f"HTTP/1.1 400 Bad Request\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n{more}\r\n"
    )
    return head.encode("ascii") + body
