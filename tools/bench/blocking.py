"""Clients for large bodies: blocking sockets on threads, a handful of Python calls a megabyte.

A put sends views of one shared block; a get receives into one small buffer again and again, as a client that
reads the body and drops it would. Each thread holds the interpreter for microseconds a megabyte.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from tools.bench.bodies import Bodies
from tools.bench.sources import Heads
from tools.bench.stats import Round
from tools.bench.wire import MAX_HEAD_BYTES, Endpoint

RECEIVE_BYTES = 1 << 20
CONNECT_S = 5.0


class LargeClient:
    """One connection to one peer, one request at a time. Raises OSError; the connection is dropped then."""

    def __init__(self, endpoint: Endpoint, heads: Heads, bodies: Bodies, deadline_s: float) -> None:
        self._endpoint = endpoint
        self._heads = heads
        self._bodies = bodies
        self._deadline_s = deadline_s
        self._socket: socket.socket | None = None
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))

    def put(self, name: str, size: int) -> str:
        """Store one object: "" or what was wrong."""
        link = self._link()
        try:
            link.sendall(
                self._heads.before_key("PUT") + name.encode() + self._heads.after_key(self._endpoint, size)
            )
            more = socket.MSG_MORE if self._endpoint.tls is None else 0
            for stamp, rest in self._bodies.pieces(name, size):
                link.sendall(stamp, more)
                link.sendall(rest)
            status, length, have = self._head(link)
            self._drop_body(link, length - have)
        except OSError:
            self.close()
            raise
        return "" if status == 200 else f"status {status}"

    def get(self, name: str, size: int, *, verify: bool = False) -> str:
        """Read one object: "" or what was wrong. `verify` gathers the body and compares it."""
        link = self._link()
        try:
            link.sendall(
                self._heads.before_key("GET") + name.encode() + self._heads.after_key(self._endpoint)
            )
            status, length, have = self._head(link)
            if status == 200 and length == size and verify:
                return self._compare(link, name, size, have)
            self._drop_body(link, length - have)
        except OSError:
            self.close()
            raise
        if status != 200:
            return f"status {status}"
        return "" if length == size else "wrong length"

    def close(self) -> None:
        """From any thread: a call under way fails."""
        link, self._socket = self._socket, None
        if link is not None:
            try:
                socket.socket.shutdown(link, socket.SHUT_RDWR)  # below TLS
            except OSError:
                pass
            link.close()

    def _link(self) -> socket.socket:
        if self._socket is None:
            link = socket.create_connection((self._endpoint.host, self._endpoint.port), CONNECT_S)
            link.settimeout(None)
            # Deadlines in the kernel: a timeout of Python's would make every call a poll and a call.
            # One microsecond more, as zero would mean none.
            limit = struct.pack("ll", int(self._deadline_s), int(self._deadline_s % 1 * 1e6) + 1)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._endpoint.tls is not None:
                link = self._endpoint.tls.wrap_socket(link, server_hostname=self._endpoint.host)
            self._socket = link
        return self._socket

    def _head(self, link: socket.socket) -> tuple[int, int, int]:
        """Status, Content-Length, and how much of the body lies in the buffer already (at its beginning)."""
        got = b""
        while (end := got.find(b"\r\n\r\n")) < 0:
            data = link.recv(MAX_HEAD_BYTES)
            if not data:
                raise ConnectionError("closed by the peer")
            got += data
            if len(got) > 2 * MAX_HEAD_BYTES:
                raise ConnectionError("an endless answer head")
        head, rest = got[:end].lower(), got[end + 4 :]
        at = head.find(b"\r\ncontent-length:")
        if not head.startswith(b"http/1.") or at < 0:
            raise ConnectionError("an answer without a length")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        self._buffer[: len(rest)] = rest
        return int(head[9:12]), length, len(rest)

    def _drop_body(self, link: socket.socket, left: int) -> None:
        buffer, receive = self._buffer, link.recv_into
        while left > 0:
            got = receive(buffer, min(left, RECEIVE_BYTES))
            if not got:
                raise ConnectionError("closed in the middle of a body")
            left -= got

    def _compare(self, link: socket.socket, name: str, size: int, have: int) -> str:
        body = memoryview(bytearray(size))
        body[:have] = self._buffer[:have]
        while have < size:
            got = link.recv_into(body[have:])
            if not got:
                raise ConnectionError("closed in the middle of a body")
            have += got
        return "" if self._bodies.matches(name, size, body) else "wrong bytes"


Act = Callable[[LargeClient, str], str]


class LargeLoad:
    """Threads that each do their own list of names. `run` blocks: call it on a thread; `stop` from anywhere."""

    def __init__(self, clients: Sequence[LargeClient]) -> None:
        self._clients = clients
        self._stopped = threading.Event()

    def run(self, act: Act, names: Sequence[Sequence[str]], size: int) -> Round:
        """`act` on every name, `names[i]` by client i; all begin together, the time ends with the last."""
        start = threading.Barrier(len(self._clients) + 1)
        with ThreadPoolExecutor(len(self._clients), "bench-large") as pool:
            works = [
                pool.submit(self._one, client, act, mine, size, start)
                for client, mine in zip(self._clients, names, strict=True)
            ]
            own = time.process_time()
            start.wait()
            began = time.perf_counter()
            wait(works)
            total = Round(elapsed_s=time.perf_counter() - began, own_cpu_s=time.process_time() - own)
        for work in works:
            total.add(work.result())
        return total

    def stop(self) -> None:
        self._stopped.set()
        for client in self._clients:
            client.close()

    def _one(
        self, client: LargeClient, act: Act, names: Sequence[str], size: int, start: threading.Barrier
    ) -> Round:
        mine = Round()
        start.wait()
        for name in names:
            if self._stopped.is_set():
                break
            began = time.perf_counter()
            try:
                wrong = act(client, name)
            except OSError as error:
                wrong = f"connection: {'deadline' if isinstance(error, (BlockingIOError, TimeoutError)) else error}"
            if wrong:
                mine.errors[wrong] += 1
            else:
                mine.latencies_s.append(time.perf_counter() - began)
                mine.moved_bytes += size
        return mine
