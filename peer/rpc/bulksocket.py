"""One bulk connection: a blocking socket, used by one thread at a time, one transfer after another.

    transfer = u32 length | sealed [payload bytes, body, client's request id | nothing]
               and, if there is a payload, its seal as one message

A chunk costs a handful of Python calls, and none of those that take long hold the interpreter: one
seal into a pooled buffer, one sendmsg; on the other side one recv_into with MSG_WAITALL into the buffer
the chunk will be written from, and one decryption in place.

Time is bounded by SO_RCVTIMEO and SO_SNDTIMEO, because `settimeout` would make the socket non-blocking and
end MSG_WAITALL early; and any thread may `shut` the connection, which wakes whoever is blocked in it. How far a
transfer has come any thread may ask the kernel (`moved`): the calls themselves return when it is over.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import Any, Final

import msgpack

from peer.buffers import Buffer, BufferPool
from peer.errors import Invalid, ProtocolError
from peer.requestid import told
from peer.rpc import frames
from peer.rpc.hello import Session
from peer.rpc.noise import TAG_BYTES

MAX_HEADER_BYTES: Final = 64 << 10
SEAL_WAIT_S: Final = 60.0
_TIMEVAL: Final = struct.Struct("ll")
_MOVED: Final = struct.Struct("=120x2Q")
"""Of Linux' struct tcp_info: tcpi_bytes_acked and tcpi_bytes_received (since Linux 4.1)."""


def limit_io(sock: socket.socket, timeout_s: float) -> None:
    """Bound every single blocking call on the socket; BlockingIOError when the time is over."""
    timeval = _TIMEVAL.pack(int(timeout_s), int(timeout_s % 1 * 1e6) + 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


class BulkSocket:
    """Raises OSError (BlockingIOError: too slow), EOFError or ProtocolError, and is useless afterwards."""

    __slots__ = (
        "_limit_s",
        "_lock",
        "_session",
        "_sock",
        "_whole_s",
        "peer_id",
        "received",
        "request_id",
        "sent",
        "used",
        "where",
    )

    def __init__(self, sock: socket.socket, session: Session) -> None:
        self._sock = sock
        self._session = session
        self._limit_s = self._whole_s = 0.0
        self._lock = threading.Lock()
        self.peer_id = session.theirs.member_id
        self.where = session.where
        self.request_id = ""  # of the client's request that the last transfer received is for
        self.used = 0.0  # loop time of the last transfer; kept by the client
        self.sent = 0
        self.received = 0

    def limit(self, timeout_s: float, whole_s: float = 0.0) -> None:
        """Bound the time in which nothing moves, rounded up to whole seconds so that it seldom changes, and that of a whole
        payload or answer: if it is not given, by as much again."""
        limit_s = float(int(timeout_s) + 1)
        self._whole_s = whole_s or 2 * limit_s
        if limit_s != self._limit_s:
            limit_io(self._sock, limit_s)
            self._limit_s = limit_s

    def moved(self) -> int:
        """From any thread: bytes that this connection has sent, and the other machine has acknowledged, or received."""
        with self._lock:
            try:
                told = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MOVED.size)
            except OSError:  # it was closed
                return 0
        return sum(_MOVED.unpack(told)) if len(told) == _MOVED.size else 0

    def shut(self) -> None:
        """From any thread: end what is going on, both ways."""
        # The lock: between reading the descriptor and using it, it must not become another connection's.
        with self._lock, contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._sock.close()

    def stale(self) -> bool:
        """Whether an idle connection has ended meanwhile, or has bytes nobody asked for."""
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def send(self, body: object, payload: memoryview | None, seals: BufferPool, request_id: str = "") -> None:
        """One transfer. `seals` lends the memory for the sealed payload while it is being sent."""
        size = 0 if payload is None else len(payload)
        try:
            carries = request_id and self._session.takes_request_ids
            packed = msgpack.packb((size, body, request_id) if carries else (size, body))
        except (TypeError, ValueError, OverflowError) as e:
            raise Invalid(f"a bulk header cannot be packed: {e}") from None
        if len(packed) + TAG_BYTES > MAX_HEADER_BYTES or size > seals.chunk_bytes:
            raise Invalid(f"a bulk transfer of {len(packed)} + {size} bytes is too large")
        head = frames.seal(self._session.send, packed)
        self.sent += len(head)
        if payload is None or not size:
            self._sock.sendall(head)
            return
        seal = seals.take_blocking(min(self._limit_s, SEAL_WAIT_S))
        try:
            n = self._session.send.seal_into(payload, seal.record)
            with seal.record[:n] as sealed:
                until_s = time.monotonic() + self._whole_s
                gone = self._sock.sendmsg((head, sealed))
                if gone < len(head) + n:  # a signal came in between, or the other side reads slowly
                    self._send_rest(memoryview(head)[gone:], until_s)
                    self._send_rest(sealed[max(0, gone - len(head)) :], until_s)
            self.sent += n
        finally:
            seals.give(seal)

    def _send_rest(self, view: memoryview, until_s: float) -> None:
        """A reader that takes a little in each call's time must not keep the seal for ever."""
        while view:
            if time.monotonic() > until_s:
                raise BlockingIOError("too slow")
            view = view[self._sock.send(view) :]

    def receive(self) -> tuple[Any, int] | None:
        """The next transfer's body and the size of the payload that follows; None at a clean end."""
        prefix = self._sock.recv(frames.LENGTH_BYTES, socket.MSG_WAITALL)
        if not prefix:
            return None
        if len(prefix) < frames.LENGTH_BYTES:
            raise EOFError
        size: int = frames.LENGTH.unpack(prefix)[0]
        if not TAG_BYTES <= size <= MAX_HEADER_BYTES:
            raise ProtocolError(f"a bulk header claims {size} bytes; the limit is {MAX_HEADER_BYTES}")
        head = bytearray(size)
        with memoryview(head) as view:
            self._fill(view)
        self.received += frames.LENGTH_BYTES + size
        header = frames.unpack(self._session.receive.open(head))
        if (
            type(header) is not list
            or not 2 <= len(header) <= 3
            or type(header[0]) is not int
            or header[0] < 0
        ):
            raise ProtocolError("a bulk header is not [payload bytes, body]")
        self.request_id = told(header[2]) if len(header) == 3 else ""
        return header[1], header[0]

    def receive_payload(self, into: Buffer, size: int) -> None:
        """The payload of `size` bytes into `into.payload(size)`; the seal lands in the slack behind it."""
        if size > into.capacity:
            raise ProtocolError(f"a payload of {size} bytes; the buffer holds {into.capacity}")
        with into.payload(size + TAG_BYTES) as view:
            self._fill(view)
            self._session.receive.open_in_place(view)
        self.received += size + TAG_BYTES

    def _fill(self, view: memoryview) -> None:
        """Read exactly len(view) bytes: one system call, more only if a signal interrupts it."""
        until_s = time.monotonic() + self._whole_s
        got = self._sock.recv_into(view, 0, socket.MSG_WAITALL)
        if got == len(view):
            return
        while got < len(view):
            more = self._sock.recv_into(view[got:], 0, socket.MSG_WAITALL)
            if not more:
                raise EOFError
            got += more
            if got < len(view) and time.monotonic() > until_s:
                raise BlockingIOError("too slow")
