"""The peer port: accepts, tells strangers from peers, and hands the connection to its service.

Everybody is a stranger until handshake and hello are through: they get STRANGER_TIMEOUT_S and there
are at most MAX_STRANGERS of them; more are closed at once (and counted). All of it is done on the loop
with exact reads, so the socket handed over holds every byte that belongs to its next owner.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from peer.errors import AtollError, Refused, StartupError
from peer.rpc.hello import Hello, Session, WrongKeyError, answer
from peer.rpc.sockets import run_steps, shown, tune
from peer.rpc.stats import Stats

STRANGER_TIMEOUT_S: Final = 5.0
MAX_STRANGERS: Final = 64
BACKLOG: Final = 256
EXHAUSTED_PAUSE_S: Final = 0.2  # out of file descriptors, most likely: let some go before accepting again

log = logging.getLogger(__name__)


class Service(Protocol):
    """What a kind of connection is handed to."""

    def room(self) -> AtollError | None:
        """Why a further connection is refused, or None."""

    async def accept(self, sock: socket.socket, session: Session) -> None:
        """Take the (non-blocking) socket over; it is this service's from the call on."""


class Listener:
    """One per process. `services` by kind ("calls", "bulk", "gossip"); `refuse` may know further reasons."""

    def __init__(
        self,
        hello: Callable[[], Hello],
        key: bytes,
        services: Mapping[str, Service],
        *,
        stats: Stats | None = None,
        refuse: Callable[[Hello], AtollError | None] = lambda _: None,
    ) -> None:
        self.stats = stats or Stats()
        self._hello = hello
        self._key = key
        self._services = services
        self._refuse = refuse
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (port 0 picks one). Raises StartupError with the remedy.

        `host` is an address, or a name of which the first address is taken: gossip's datagrams must come
        to the same one.
        """
        where = shown(host, port)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, address = found[0]
            sock = socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=False)
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                raise StartupError(
                    f"the peer port {where} is in use: stop the other process or choose another --port"
                ) from None
            raise StartupError(f"cannot listen on the peer port {where}: {e.strerror or e}") from None
        sock.setblocking(False)
        self._socket = sock
        self._accepting = asyncio.create_task(self._accept(sock), name="peer port")
        return int(sock.getsockname()[1])

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as e:
                if e.errno != errno.ECONNABORTED:  # that one went away before it was accepted
                    log.error("cannot accept on the peer port: %s", e.strerror)
                    await asyncio.sleep(EXHAUSTED_PAUSE_S)
                continue
            if self._strangers >= MAX_STRANGERS:
                self.stats.strangers_dropped += 1
                sock.close()
                continue
            sock.setblocking(False)
            task = loop.create_task(self._greet(sock, shown(*address[:2])), name="peer port stranger")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _greet(self, sock: socket.socket, where: str) -> None:
        """One stranger's life: until it is refused, or known and handed over."""
        self._strangers += 1
        self.stats.strangers = self._strangers
        try:
            session = await self._recognise(sock, where)
        except BaseException:
            sock.close()
            raise
        finally:
            self._strangers -= 1
            self.stats.strangers = self._strangers
        if session is None:
            sock.close()
            return
        self.stats.accepted += 1
        try:
            await self._services[session.kind].accept(sock, session)
        except AtollError as e:
            log.info("a connection from %s ended at once: %s", where, e)

    async def _recognise(self, sock: socket.socket, where: str) -> Session | None:
        try:
            async with asyncio.timeout(STRANGER_TIMEOUT_S):
                tune(sock)
                return await run_steps(sock, answer(self._key, self._hello, self._judge, where))
        except TimeoutError:
            self.stats.strangers_timed_out += 1
        except WrongKeyError as e:
            self.stats.wrong_key += 1
            log.warning("refused on the peer port: %s", e)
        except Refused as e:
            self.stats.refuse(e.code)
            log.warning("refused %s on the peer port: %s", where, e)
        except AtollError as e:
            self.stats.malformed += 1
            log.warning("dropped on the peer port: %s", e)
        except (EOFError, OSError):
            pass  # it went away by itself; a port scan looks like this
        return None

    def _judge(self, kind: str, theirs: Hello) -> AtollError | None:
        service = self._services.get(kind)
        if service is None:
            return Refused(f"this peer serves no connections of kind {kind}", code="NoSuchKind")
        return self._refuse(theirs) or service.room()

    async def close(self) -> None:
        """Stop accepting and drop whoever is still being greeted. Idempotent; handed-over ones live on."""
        tasks = [*self._tasks] + ([self._accepting] if self._accepting else [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._accepting = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
