"""Blocking HTTP/1.1 connections to several peers, kept open and reused; thread-safe.

http.client does the talking: it is in the standard library, imports in a fifth of aiohttp's time
(the command line answers in under 500 ms) and sends a path exactly as it is given, so that keys
survive. What it lacks is here: reuse, an answer noticed while the body is still on its way, and
errors that say whether the peer may have seen the request.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

from peer.client.attempts import AttemptError, Fate
from peer.client.bodies import Bytes, Source, body_errors
from peer.client.pulse import Waiting
from peer.client.trust import refusal, trust
from peer.client.wire import STREAM_SILENCE_S, Request

IDLE_S = 10.0
"""A connection unused for longer is not trusted: servers close idle ones, and a race loses the answer."""
IDLE_PER_PEER = 32
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The longest answer that is read whole (a ring of 65,536 partitions has some 2 MB)."""

_BROKEN = (OSError, http.client.HTTPException)


class Answer:
    """The head of an answer, and its body as a stream. Read it to its end, or `close` it."""

    def __init__(
        self, response: http.client.HTTPResponse, waiting: Waiting, release: Callable[[bool], None]
    ) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self._response = response
        self._waiting = waiting
        self._release: Callable[[bool], None] | None = release

    def read(self, limit: int = MAX_ANSWER_BYTES) -> bytes:
        """The whole body; AttemptError if it is cut off or longer than `limit` bytes."""
        self._waiting.expect()
        try:
            body = self._response.read(limit)
            cut = bool(self._response.length) and len(body) < limit
        except _BROKEN as problem:
            self.close()
            raise AttemptError(Fate.LOST, problem) from problem
        if cut or len(body) == limit:
            self.close()
            raise AttemptError(Fate.LOST, ConnectionError("the answer was cut off"))
        self._end()
        return body

    def read_into(self, room: memoryview) -> int:
        """The next bytes of the body, 0 at its end; AttemptError if the connection breaks."""
        self._waiting.expect()
        try:
            got = self._response.readinto(room)
            if not got and self._response.length:
                raise ConnectionError(f"the answer ended {self._response.length} bytes early")
        except _BROKEN as problem:
            self.close()
            raise AttemptError(Fate.LOST, problem) from problem
        self._waiting.rest()
        if not got or self._response.isclosed():
            self._end()
        return got

    def _end(self) -> None:
        if self._release is not None:
            release, self._release = self._release, None
            release(self._response.isclosed() and not self._response.will_close)

    def close(self) -> None:
        """Give up what is left of the body; the connection cannot be used again. Idempotent."""
        if self._release is not None:
            release, self._release = self._release, None
            release(False)
        self._response.close()


class Connections:
    """The open connections of one client."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._idle: dict[str, deque[tuple[http.client.HTTPConnection, float]]] = {}
        self._busy: set[http.client.HTTPConnection] = set()
        self._closed = False

    def send(
        self, url: str, request: Request, headers: dict[str, str], body: Source | None, waiting: Waiting,
        connect_s: float,
    ) -> Answer:  # fmt: skip
        """Send one request and wait for the head of its answer. `waiting` is told of what the peer does, and breaks it off.

        Raises AttemptError saying whether the peer may have seen it, or BodyError with the error of
        the caller's own body (the peer then sees a body cut short, which it discards).
        """
        connection = self._take(url)
        waiting.give_up = lambda: _shut(connection)
        try:
            if connection.sock is None:
                self._connect(url, connection, connect_s)
            response = self._exchange(connection, request, headers, body, waiting)
        except BaseException:
            self._give(url, connection, reusable=False)
            raise
        return Answer(response, waiting, lambda reusable: self._give(url, connection, reusable=reusable))

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        request: Request,
        headers: dict[str, str],
        body: Source | None,
        waiting: Waiting,
    ) -> http.client.HTTPResponse:
        try:
            connection.sock.settimeout(request.silence_s)
            connection.putrequest(request.method, request.path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None:
                self._send_body(connection, body, waiting)
            else:
                if request.method in ("PUT", "POST"):
                    connection.putheader("Content-Length", str(len(request.body or b"")))
                connection.endheaders(request.body)
            waiting.expect()
            response = connection.getresponse()
            waiting.rest()
            if connection.sock is not None:
                connection.sock.settimeout(STREAM_SILENCE_S)
            return response
        except _BROKEN as problem:
            # A peer that refuses early, then closes: its answer may be here although sending failed.
            early = _early_answer(connection) if isinstance(problem, ConnectionError) else None
            if early is not None:
                return early
            raise AttemptError(Fate.LOST, problem) from problem

    def _connect(self, url: str, connection: http.client.HTTPConnection, timeout_s: float) -> None:
        try:
            connection.timeout = timeout_s
            connection.connect()
        except _BROKEN as problem:
            raise AttemptError(Fate.NOT_SENT, refusal(problem, url, self._tls) or problem) from problem

    def _send_body(self, connection: http.client.HTTPConnection, body: Source, waiting: Waiting) -> None:
        """Send the rest of the head, then the body; stops early if an answer is already there."""
        chunked = body.size is None
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        else:
            connection.putheader("Content-Length", str(body.size))
        connection.endheaders()
        # Over TLS a readable socket means nothing: the protocol sends records of its own.
        watched = not isinstance(connection, http.client.HTTPSConnection)
        blocks = body.blocks()
        while True:
            with body_errors():
                block: Bytes | None = next(blocks, None)
            if block is None:
                break
            if watched and _readable(connection):
                connection.auto_open = 0  # half a body was sent: never reuse it
                return
            waiting.expect()
            if chunked:
                connection.sock.sendall(b"%x\r\n" % len(block))
                connection.sock.sendall(block)
                connection.sock.sendall(b"\r\n")
            else:
                connection.sock.sendall(block)
            waiting.rest()
        if chunked:
            connection.sock.sendall(b"0\r\n\r\n")

    def _take(self, url: str) -> http.client.HTTPConnection:
        with self._lock:
            if self._closed:
                raise RuntimeError("this client is closed")
            idle = self._idle.get(url)
            while idle:
                connection, since = idle.pop()
                if time.monotonic() - since < IDLE_S and not _readable(connection):
                    self._busy.add(connection)
                    return connection
                connection.close()
            connection = self._new(url)
            self._busy.add(connection)
            return connection

    def _new(self, url: str) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        assert parts.hostname is not None
        if parts.scheme == "https":
            if self._tls is None:
                self._tls = trust()
            return http.client.HTTPSConnection(parts.hostname, parts.port, context=self._tls)
        return http.client.HTTPConnection(parts.hostname, parts.port)

    def _give(self, url: str, connection: http.client.HTTPConnection, *, reusable: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            idle = self._idle.setdefault(url, deque())
            if reusable and connection.auto_open and not self._closed and len(idle) < IDLE_PER_PEER:
                idle.append((connection, time.monotonic()))
                return
        connection.close()

    def close(self) -> None:
        """Close all connections; requests under way in other threads fail."""
        with self._lock:
            self._closed = True
            idle = [connection for kept in self._idle.values() for connection, _ in kept]
            busy = list(self._busy)
            self._idle.clear()
        for connection in idle:
            connection.close()
        for connection in busy:
            _shut(connection)


def _shut(connection: http.client.HTTPConnection) -> None:
    """Wake whoever waits on the connection; its own thread closes it."""
    sock = connection.sock
    if sock is not None:
        try:
            # Below TLS: its own shutdown would leave the other thread with the bare socket, to read records as if they were
            # the bytes of an object.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            pass  # closed meanwhile, which is what was wanted


def _readable(connection: http.client.HTTPConnection) -> bool:
    """Whether an idle connection has something to say: only that it was closed."""
    if connection.sock is None:
        return True
    watch = select.poll()
    watch.register(connection.sock, select.POLLIN)
    return bool(watch.poll(0))


def _early_answer(connection: http.client.HTTPConnection) -> http.client.HTTPResponse | None:
    """The answer of a peer that stopped reading our body, if it came through."""
    if connection.sock is None or not _readable(connection):
        return None
    try:
        connection.auto_open = 0
        return connection.getresponse()
    except (*_BROKEN, ValueError):
        return None
