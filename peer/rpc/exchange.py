"""Gossip over TCP: one sealed request, one sealed answer, and the connection is closed.

For push/pull state exchanges and the TCP fallback probe, which are rare and too large for a datagram.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from peer.errors import AtollError, Invalid, ProtocolError, Refused, Unavailable
from peer.rpc import frames
from peer.rpc.hello import Hello, Session
from peer.rpc.noise import TAG_BYTES
from peer.rpc.sockets import connect, shown, unreachable
from peer.rpc.stats import Stats

MAX_EXCHANGE_BYTES: Final = 4 << 20  # the state of some ten thousand members
SERVE_TIMEOUT_S: Final = 10.0
MAX_SERVED: Final = 64  # at once

log = logging.getLogger(__name__)


class Exchange:
    """Both ends. `handler(payload) -> answer` serves inbound exchanges on the loop."""

    def __init__(
        self,
        hello: Callable[[], Hello],
        key: bytes,
        handler: Callable[[bytes], Awaitable[bytes]],
        *,
        stats: Stats | None = None,
    ) -> None:
        self.stats = stats or Stats()
        self._hello = hello
        self._key = key
        self._handler = handler
        self._serving: set[asyncio.Task[None]] = set()
        self._closing = False

    async def __call__(self, address: tuple[str, int], payload: bytes, deadline_s: float) -> bytes:
        """Ask whoever answers at `address`. Raises Refused, ProtocolError or Unavailable."""
        if len(payload) > MAX_EXCHANGE_BYTES:
            raise Invalid(f"an exchange of {len(payload)} bytes; the limit is {MAX_EXCHANGE_BYTES}")
        self.stats.exchanges += 1
        where = shown(*address)
        try:
            async with asyncio.timeout(deadline_s):
                sock, session = await connect(
                    address, key=self._key, hello=self._hello, kind="gossip", wanted="", timeout_s=deadline_s
                )
                with sock:
                    await _write(sock, session, payload)
                    return await _read(sock, session)
        except TimeoutError:
            raise Unavailable(f"the peer at {where} did not answer within {deadline_s:g} s") from None
        except EOFError:
            raise Unavailable(f"the peer at {where} hung up instead of answering") from None
        except OSError as e:
            raise unreachable(where, e) from None

    def room(self) -> AtollError | None:
        """For the listener: why no further exchange is served now."""
        if self._closing or len(self._serving) >= MAX_SERVED:
            return Refused("this peer serves no more exchanges now", code="Busy")
        return None

    async def accept(self, sock: socket.socket, session: Session) -> None:
        """Serve one inbound exchange in a task of its own; the connection ends with it."""
        task = asyncio.create_task(self._serve(sock, session), name="gossip exchange")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, sock: socket.socket, session: Session) -> None:
        with sock:
            try:
                async with asyncio.timeout(SERVE_TIMEOUT_S):
                    payload = await _read(sock, session)
                    await _write(sock, session, await self._handler(payload))
                    self.stats.exchanges_served += 1
                    await asyncio.get_running_loop().sock_recv(sock, 1)  # the asker closes first
            except ProtocolError as e:
                self.stats.malformed += 1
                log.warning("a gossip exchange with %s failed: %s", session.where, e)
            except (AtollError, TimeoutError, EOFError, OSError) as e:
                log.info("a gossip exchange with %s failed: %s", session.where, e or type(e).__name__)
            except Exception:
                log.exception("a gossip exchange with %s failed", session.where)

    async def close(self) -> None:
        """Drop the exchanges being served. Idempotent."""
        self._closing = True
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _write(sock: socket.socket, session: Session, payload: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, frames.seal(session.send, payload))


async def _read(sock: socket.socket, session: Session) -> bytes:
    size: int = frames.LENGTH.unpack(await _exactly(sock, frames.LENGTH_BYTES))[0]
    if not TAG_BYTES <= size <= MAX_EXCHANGE_BYTES + TAG_BYTES:
        raise ProtocolError(f"an exchange claims {size} bytes; the limit is {MAX_EXCHANGE_BYTES}")
    return session.receive.open(await _exactly(sock, size))


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    parts = bytearray()
    while len(parts) < size:
        part = await loop.sock_recv(sock, min(size - len(parts), 256 << 10))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
