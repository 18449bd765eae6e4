"""An object's bytes on their way to a client, so that slow clients do not keep buffers from others.

S1  What the socket has not taken of a buffer is never sent after the buffer was given back (P5).
S2  While others wait for buffers, a client that stalls keeps none: it is either fed from copies, between which its
    buffer can be given back and the chunk fetched again, or, if a buffer itself is in the socket's hands, cut.

A client starts out fast: slices of the buffer go to the socket as they are, and the next chunk is fetched meanwhile.
Once a slice takes `SLOW_S` it is slow for the rest of the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from peer.objects.store import Found

from .context import Call, Transfer

SLICE_BYTES = 256 * 1024
COPIED_BYTES = 512 * 1024
SMALL_BYTES = 256 * 1024
SLOW_S = 0.5

Pieces = AsyncIterator[tuple[memoryview, Callable[[], None]]]


async def send_object(
    call: Call, found: Found, start: int, stop: int, status: int, headers: dict[str, str]
) -> web.StreamResponse:
    """Chunks, each verified whole before its first byte leaves. The status goes out with the first chunk, so that a
    failure on it is an honest error; a later one can only end the connection."""
    pieces = call.context.objects.read(found, start, stop)
    sender = _Sender(call, found, stop)
    try:
        try:
            first, release = await anext(pieces, (None, _nothing))
            if first is None or (stop - start <= SMALL_BYTES and len(first) == stop - start):
                body = b"" if first is None else bytes(first)
                release()
                return web.Response(status=status, body=body, headers=headers)
            await sender.begin(start, status, headers, first, release)
            await sender.fast(pieces)
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        await sender.slowly()
        return await sender.end()
    finally:
        sender.transfer.done()


class _Sender:
    """One answer: what was sent of it, and to whom."""

    def __init__(self, call: Call, found: Found, stop: int) -> None:
        self._call = call
        self._found = found
        self._stop = stop
        self._at = 0
        self._slow = False
        self._response: web.StreamResponse
        self.transfer = Transfer(call.request, call.context)

    async def begin(
        self, start: int, status: int, headers: dict[str, str], view: memoryview, release: Callable[[], None]
    ) -> None:
        """Send the head, and the first piece."""
        self._at = start
        self._response = web.StreamResponse(status=status, headers=headers | {"x-request-id": self._call.id})
        self._response.content_length = self._stop - start
        transport = self._call.request.transport
        if transport is not None:
            # Any write waits until the socket has taken all: only then may the buffer be used again (S1). TLS encrypts at
            # once, into memory of its own; there the limit is that a write waits while the one before lies in it. (With 0
            # it would wait for ever: what the socket takes at once makes no room, by the way TLS counts.)
            encrypted = transport.get_extra_info("sslcontext") is not None
            transport.set_write_buffer_limits(high=1 if encrypted else 0, low=0)
        try:
            await self._response.prepare(self._call.request)
        except BaseException:
            self._abort()
            release()
            raise
        await self._lend(view, release)

    async def fast(self, pieces: Pieces) -> None:
        """Send pieces as they come until the end, or until the client turns out to be slow."""
        try:
            while not self._slow and self._at < self._stop:
                await self._lend(*await anext(pieces))
        except BaseException:
            self._abort()
            raise

    async def _lend(self, view: memoryview, release: Callable[[], None]) -> None:
        """Give the socket the buffer itself, slice by slice; stop early if it takes its time."""
        transfer = self.transfer
        transfer.lent = True
        try:
            for at in range(0, len(view), SLICE_BYTES):
                part = view[at : at + SLICE_BYTES]
                transfer.waits()
                await self._response.write(part if len(part) > 65536 else bytes(part))
                self._moved(len(part))
                if transfer.waited_s() > SLOW_S:
                    self._slow = True
                    return
        except BaseException:
            self._abort()  # before the buffer is given back (S1)
            raise
        finally:
            transfer.moved()
            transfer.lent = False
            release()

    async def slowly(self) -> None:
        """Send the rest in copies. The chunk's buffer may be taken away between any two (S2)."""
        objects = self._call.context.objects
        chunk_bytes = objects.chunk_bytes
        try:
            while self._at < self._stop:
                end = min(self._stop, (self._at // chunk_bytes + 1) * chunk_bytes)
                async with contextlib.aclosing(objects.read(self._found, self._at, end)) as pieces:  # type: ignore[type-var]
                    async for view, release in pieces:
                        await self._copy(view, release)
        except BaseException:
            self._abort()
            raise

    async def _copy(self, view: memoryview, release: Callable[[], None]) -> None:
        transfer = self.transfer
        transfer.lease = release
        try:
            at = 0
            while at < len(view) and transfer.lease is not None:
                part = bytes(view[at : at + COPIED_BYTES])
                transfer.waits()
                await self._response.write(part)
                transfer.moved()
                at += len(part)
                self._moved(len(part))
        finally:
            transfer.moved()
            transfer.give_back()

    def _moved(self, count: int) -> None:
        """The socket, or the copy behind it, has taken so many more bytes."""
        self._at += count
        self._call.context.requests.body_bytes_out += count

    async def end(self) -> web.StreamResponse:
        await self._response.write_eof()
        return self._response

    def _abort(self) -> None:
        """The answer has begun and cannot be finished: only the connection's end says so."""
        if self._call.request.transport is not None:
            self._call.request.transport.abort()


def _nothing() -> None:
    """There was nothing to give back."""
