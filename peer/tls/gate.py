"""The listening sockets of a port with TLS: a connection comes to its protocol once its handshake is done.

Handshakes have a deadline, and there are never more than MOST_HALF_OPEN under way: the oldest one makes room, as honest
ones take milliseconds. Whoever speaks plain HTTP is told so, in plain HTTP, and then the connection ends.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from functools import partial

from peer.tls.certificates import Certificates

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
MOST_HALF_OPEN = 512
EXHAUSTED_PAUSE_S = 0.2
"""Out of file descriptors, most likely: let some go before accepting again."""
LINGER_S = 1.0
LINGER_BYTES = 1 << 20
"""So long, and so much, of a request that is refused is still read: a connection that is reset loses the answer."""
TLS_HANDSHAKE = 0x16
"""The first byte of a TLS connection: the type of its first record (RFC 8446, 5.1)."""


class Gate:
    """One port, on all addresses of a host. `factory` makes a connection's protocol, `refusal` the answer to plain HTTP."""

    def __init__(
        self,
        factory: Callable[[], asyncio.Protocol],
        certificates: Certificates,
        refusal: Callable[[], bytes],
    ) -> None:
        self._factory = factory
        self._certificates = certificates
        self._refusal = refusal
        self.sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._half_open: dict[asyncio.Task[bool], None] = {}  # the oldest first

    async def open(self, host: str, port: int, backlog: int) -> None:
        """Listen. Raises OSError; nothing listens then."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in dict.fromkeys((one[0], one[4][:2]) for one in found):
                sock = socket.create_server(
                    (str(address[0]), int(address[1])), family=family, backlog=backlog
                )
                sock.setblocking(False)
                self.sockets.append(sock)
        except OSError:
            self.close()
            raise
        self._accepting = [asyncio.create_task(self._accept(sock), name="tls port") for sock in self.sockets]

    def close(self) -> None:
        """Stop listening, and drop handshakes that are not done. Idempotent; what is through lives on."""
        for task in (*self._accepting, *self._half_open):
            task.cancel()
        for sock in self.sockets:
            sock.close()
        self.sockets, self._accepting = [], []

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # that one went away before it was accepted
                    log.error("cannot accept on %s: %s", listening.getsockname(), error.strerror)
                    await asyncio.sleep(EXHAUSTED_PAUSE_S)
                continue
            if len(self._half_open) >= MOST_HALF_OPEN:
                self._certificates.counts["crowded_out"] += 1
                oldest = next(iter(self._half_open))
                del self._half_open[oldest]
                oldest.cancel()
            task = loop.create_task(self._greet(sock), name="tls handshake")
            self._half_open[task] = None
            task.add_done_callback(partial(self._greeted, sock))

    def _greeted(self, sock: socket.socket, task: asyncio.Task[bool]) -> None:
        self._half_open.pop(task, None)
        if task.cancelled():  # perhaps before it began
            sock.close()
        elif (error := task.exception()) is not None:
            log.error("a handshake ended with an error", exc_info=error)
            sock.close()
        elif not task.result():
            sock.close()

    async def _greet(self, sock: socket.socket) -> bool:
        """One connection until it is handed over (True), or has come to nothing."""
        counts = self._certificates.counts
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                first = await _first_byte(sock)
                if first == TLS_HANDSHAKE:
                    await asyncio.get_running_loop().connect_accepted_socket(
                        self._factory, sock, ssl=self._certificates.context, ssl_handshake_timeout=HANDSHAKE_S
                    )
                    counts["handshakes"] += 1
                    return True
            counts["plain"] += 1
            await self._refuse(sock)
        except OSError as error:  # a deadline and TLS's own errors are OSErrors, too
            counts["failed"] += 1
            log.debug("no TLS connection: %s", error or type(error).__name__)
        return False

    async def _refuse(self, sock: socket.socket) -> None:
        """Answer plain HTTP, and read a little of what is still on its way."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LINGER_S):
                await loop.sock_sendall(sock, self._refusal())
                sock.shutdown(socket.SHUT_WR)
                read = 0
                while read < LINGER_BYTES and (piece := await loop.sock_recv(sock, 65536)):
                    read += len(piece)
        except OSError:
            pass  # it has been told, or is gone


async def _first_byte(sock: socket.socket) -> int:
    """The first byte that comes, left where it is. Raises ConnectionError if none does."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            peeked = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            readable = loop.create_future()
            loop.add_reader(sock, _wake, readable)
            try:
                await readable
            finally:
                loop.remove_reader(sock)
            continue
        if not peeked:
            raise ConnectionError("closed before a byte came")
        return peeked[0]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
