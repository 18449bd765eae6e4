"""The receiving end of bulk transfers: one thread per inbound connection, a bounded number of them.

A payload is decrypted in a `replica` buffer, which is given back before the answer is sent: what receives
replica bytes never waits for a send, so peers that all push at each other cannot deadlock.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError, ProtocolError, Refused, Unavailable
from peer.requestid import CURRENT
from peer.rpc import frames
from peer.rpc.bulkjobs import LONGEST_S
from peer.rpc.bulksocket import BulkSocket
from peer.rpc.hello import Session
from peer.rpc.stats import Stats

Answer = tuple[tuple[Any, ...], "memoryview | None", "Callable[[], None] | None"]
Handler = Callable[[str, "list[Any]", "Buffer | None", int], Answer]

MAX_CONNECTIONS: Final = 64
IDLE_S: Final = 60.0  # longer than clients keep an idle connection
STALL_S: Final = 15.0  # without a byte of a payload or an answer
BUFFER_WAIT_S: Final = 5.0
SEALS: Final = 4  # sealed answers being sent at once
TRIM_S: Final = 5.0
JOIN_S: Final = 5.0

log = logging.getLogger(__name__)


class BulkServer:
    """Serves `handler(sender_id, header, buffer, length) -> (reply, payload, release)`, see `Handler`.

    The handler runs in the connection's thread and may block. The payload of the request is
    `buffer.payload(length)` and the handler's only until it returns. The reply's payload (another buffer's,
    at most a chunk) is sealed and sent, then `release` is called, also when sending failed. An AtollError
    that the handler raises reaches the caller as such.
    """

    def __init__(self, handler: Handler, buffers: BufferPool, *, stats: Stats | None = None) -> None:
        self.stats = stats or Stats()
        self.seals = BufferPool(SEALS, name="seal", chunk_bytes=buffers.chunk_bytes)
        self._handler = handler
        self._buffers = buffers
        self._lock = threading.Lock()  # over what the threads count, and over `_open`
        self._open: dict[BulkSocket, threading.Thread] = {}
        self._closing = False
        self._trimmer: asyncio.TimerHandle | None = None

    def room(self) -> AtollError | None:
        """For the listener: why no further connection is taken now."""
        if self._closing or len(self._open) >= MAX_CONNECTIONS:
            return Refused("this peer takes no more bulk connections now", code="Busy")
        return None

    async def accept(self, sock: socket.socket, session: Session) -> None:
        """Take over an inbound connection; the loop has nothing more to do with it."""
        if refused := self.room():  # several strangers may have been judged before one of them came here
            sock.close()
            raise refused
        sock.setblocking(True)
        connection = BulkSocket(sock, session)
        thread = threading.Thread(
            target=self._serve, args=(connection,), name=f"bulk from {connection.peer_id}", daemon=True
        )
        with self._lock:
            self._open[connection] = thread
            self.stats.bulk_connections = len(self._open)
        thread.start()
        if self._trimmer is None:
            self._trim()

    def _trim(self) -> None:
        """Now and then, while anyone is connected: give unused memory back to the system."""
        self.seals.trim()
        again = bool(self._open) and not self._closing
        self._trimmer = asyncio.get_running_loop().call_later(TRIM_S, self._trim) if again else None

    def _serve(self, connection: BulkSocket) -> None:
        """One connection's thread."""
        try:
            while self._serve_one(connection):
                pass
        except ProtocolError as e:
            with self._lock:
                self.stats.malformed += 1
            log.warning("closing the bulk connection with %s: %s", connection.where, e)
        except (OSError, EOFError, AtollError) as e:
            if not self._closing:
                log.info("a bulk connection with %s ended: %s", connection.where, e or type(e).__name__)
        except Exception:
            log.exception("a bulk connection with %s failed", connection.where)
        finally:
            connection.close()
            with self._lock:
                self._open.pop(connection, None)
                self.stats.bulk_connections = len(self._open)

    def _serve_one(self, connection: BulkSocket) -> bool:
        """Wait for a transfer and answer it; False when the other side is done with the connection."""
        connection.limit(IDLE_S)
        told = connection.receive()
        if told is None:
            return False
        header, size = told
        if type(header) is not list:
            raise ProtocolError("a bulk request is not a list")
        CURRENT.set(connection.request_id)  # this thread's own, until the next transfer
        connection.limit(STALL_S, LONGEST_S)
        buffer: Buffer | None = None
        try:
            if size:
                buffer = self._buffers.take_blocking(BUFFER_WAIT_S)
                connection.receive_payload(buffer, size)
            reply, payload, release = self._answer(connection.peer_id, header, buffer, size)
        finally:
            if buffer is not None:
                self._buffers.give(buffer)
        try:
            connection.send(reply, payload, self.seals)
        finally:
            if release is not None:
                release()
        with self._lock:
            self.stats.bulk_served += 1
            self.stats.bulk_served_in += connection.received
            self.stats.bulk_served_out += connection.sent
        connection.received = connection.sent = 0
        return not self._closing

    def _answer(self, sender: str, header: list[Any], buffer: Buffer | None, size: int) -> Answer:
        try:
            reply, payload, release = self._handler(sender, header, buffer, size)
            return (True, reply), payload, release
        except AtollError as e:
            return (False, frames.describe(e)), None, None
        except Exception:
            log.exception("a bulk request from peer %s failed", sender)
            error = Unavailable("the peer failed while handling the transfer")
            return (False, frames.describe(error)), None, None

    async def close(self) -> None:
        """End every connection and wait for the threads. Idempotent."""
        self._closing = True
        if self._trimmer is not None:
            self._trimmer.cancel()
            self._trimmer = None
        with self._lock:
            threads = list(self._open.items())
        for connection, _ in threads:
            connection.shut()
        for _, thread in threads:
            await asyncio.to_thread(thread.join, JOIN_S)
