"""One HTTP/1.1 connection as a client that costs next to nothing: requests prebuilt, answers counted.

A load generator shares the machine with what it measures, so every microsecond here is taken from the peers.
Hence no general client: one request in flight, kept alive, the status and length read from the head, the body
counted and dropped unless it is wanted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

MAX_HEAD_BYTES = 64 << 10
MAX_KEPT_BYTES = 64 << 20  # of an answer whose body is wanted

Part = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer's API listens."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def of(url: str, tls: ssl.SSLContext | None = None) -> Endpoint:
        """From `http://host:port`, or with `tls` from `https://host:port`. Raises ValueError for anything else."""
        parts = urlsplit(url)
        scheme = "https" if tls is not None else "http"
        if parts.scheme != scheme or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"not an API address of the form {scheme}://host:port: {url}")
        return Endpoint(parts.hostname, parts.port or (443 if tls is not None else 80), tls)

    @property
    def header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Connection(asyncio.Protocol):
    """Calls `answered(status, length, body)` once a request, or `lost(reason)` once a connection.

    `body` is b"" unless the request asked to keep it. After `lost` the object is spent.
    """

    __slots__ = ("_answered", "_body", "_chunks", "_head_only", "_keep", "_left", "_length", "_lost", "_pending",
                 "_status", "_transport", "busy", "closing")  # fmt: skip

    def __init__(self, answered: Callable[[int, int, bytes], None], lost: Callable[[str], None]) -> None:
        self._answered = answered
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._pending = b""
        self._left = 0
        self._length = 0
        self._status = 0
        self._keep = False
        self._head_only = False
        self._body: list[bytes] = []
        self._chunks: _Chunks | None = None
        self.busy = False
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.closing:
            self.closing = True
            self._lost(str(error) if error else "closed by the peer")

    def request(self, parts: Sequence[Part], *, keep: bool = False, head_only: bool = False) -> None:
        """Send one request; the previous one must have been answered. `head_only`: an answer to HEAD."""
        assert not self.busy
        self.busy, self._keep, self._head_only = True, keep, head_only
        if self._transport is None:
            return  # lost a moment ago: `lost` has told, or will
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    def close(self, reason: str = "") -> None:
        """Drop the connection; with a reason, `lost` is told it."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if not self.closing:
            self.closing = True
            if reason:
                self._lost(reason)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
            if self._keep:
                self._body.append(data)
            if self._left <= 0:
                self._finish() if self._left == 0 else self.close(
                    "more bytes than the answer's Content-Length"
                )
            return
        if self._chunks is not None:
            self._take_chunks(data)
            return
        if self._pending:
            data, self._pending = self._pending + data, b""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._pending = data
            if len(data) > MAX_HEAD_BYTES:
                self.close("an endless answer head")
            return
        self._take_head(data, end)

    def _take_head(self, data: bytes, end: int) -> None:
        if not self.busy:
            self.close("an answer to no request")
            return
        head = data[:end].lower()
        status = head[9:12]
        if not head.startswith(b"http/1.") or not status.isdigit():
            self.close("not HTTP")
            return
        self._status = int(status)
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            self._no_length(head, data[end + 4 :])
            return
        stop = head.find(b"\r\n", at + 17)
        self._length = int(head[at + 17 : stop if stop >= 0 else end])
        if self._head_only or self._status in (204, 304):
            self._finish()
            return
        have = len(data) - end - 4
        self._left = self._length - have
        if self._keep:
            if self._length > MAX_KEPT_BYTES:
                self.close("an answer too long to keep")
                return
            self._body.append(data[end + 4 :])
        if self._left == 0:
            self._finish()
        elif self._left < 0:
            self.close("more bytes than the answer's Content-Length")

    def _no_length(self, head: bytes, rest: bytes) -> None:
        self._length = 0
        if self._head_only or self._status in (204, 304):
            self._finish()
        elif b"\r\ntransfer-encoding: chunked" in head:
            self._chunks = _Chunks()
            self._take_chunks(rest)
        else:
            self.close("an answer without a length")

    def _take_chunks(self, data: bytes) -> None:
        assert self._chunks is not None
        try:
            done = self._chunks.feed(data)
        except ValueError:
            self.close("a malformed chunked answer")
            return
        if done:
            body, self._chunks = bytes(self._chunks.body), None
            self._length = len(body)
            if self._keep:
                self._body.append(body)
            self._finish()

    def _finish(self) -> None:
        body = b"".join(self._body) if self._keep else b""
        self._body.clear()
        self.busy = False
        self._answered(self._status, self._length, body)


class _Chunks:
    """Decodes a chunked body; rare, so it gathers it all (bounded) and takes its time."""

    def __init__(self) -> None:
        self.body = bytearray()
        self._raw = bytearray()

    def feed(self, data: bytes) -> bool:
        """True once the last chunk is there. Raises ValueError if it is malformed or too long."""
        self._raw += data
        while True:
            line = self._raw.find(b"\r\n")
            if line < 0:
                return False
            size = int(bytes(self._raw[:line]).split(b";")[0], 16)
            if size == 0:
                return self._raw.find(b"\r\n\r\n", line) >= 0
            if len(self._raw) < line + 2 + size + 2:
                return False
            self.body += self._raw[line + 2 : line + 2 + size]
            if len(self.body) > MAX_KEPT_BYTES:
                raise ValueError("too long")
            del self._raw[: line + 2 + size + 2]


async def connect(
    endpoint: Endpoint,
    answered: Callable[[int, int, bytes], None],
    lost: Callable[[str], None],
    deadline_s: float,
) -> Connection:
    """An open connection. Raises OSError (TimeoutError included)."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(deadline_s):
        _, connection = await loop.create_connection(
            lambda: Connection(answered, lost), endpoint.host, endpoint.port, ssl=endpoint.tls
        )
    return connection


async def ask(
    endpoint: Endpoint, parts: Sequence[Part], deadline_s: float, *, head_only: bool = False
) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body. Raises OSError."""
    outcome: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def answered(status: int, length: int, body: bytes) -> None:
        if not outcome.done():
            outcome.set_result((status, body))

    def lost(reason: str) -> None:
        if not outcome.done():
            outcome.set_exception(ConnectionError(reason))

    async with asyncio.timeout(deadline_s):
        connection = await connect(endpoint, answered, lost, deadline_s)
        try:
            connection.request(parts, keep=True, head_only=head_only)
            return await outcome
        finally:
            connection.close()
