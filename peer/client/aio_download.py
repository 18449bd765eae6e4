"""An asynchronous download, and an asynchronous body: what aio.py streams in either direction."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from peer.client.attempts import AttemptError, Attempts, Fate
from peer.client.bodies import AsyncSource, Bytes, IterableSource, MemorySource, Progress, Source
from peer.client.core import PROGRESS_BYTES, Metered, retryable
from peer.client.download import publish, umask
from peer.client.model import ObjectInfo
from peer.client.pulse import Waiting
from peer.client.transfer import Incoming, changed_meanwhile
from peer.client.wire import Request, error_of
from peer.errors import AtollError, Conflict

BROKEN = (aiohttp.ClientError, OSError, TimeoutError)
"""What aiohttp raises when a connection, not the request, is at fault."""
Send = Callable[[str, Request, Waiting], Awaitable[aiohttp.ClientResponse]]
Wait = Callable[[str, Attempts], Waiting]


class AsyncDownload:
    """The bytes of one object: iterate over blocks, or `read` or `save`; see `Download`."""

    def __init__(
        self, send: Send, wait: Wait, incoming: Incoming, attempts: Attempts, progress: Progress | None
    ) -> None:
        """`send` is AsyncClient's: one request to one peer, up to the head of its answer; `wait` is `Core.waiting`."""
        self._send = send
        self._wait = wait
        self._waiting: Waiting | None = None
        self._incoming = incoming
        self._attempts = attempts
        self._progress = progress
        self._response: aiohttp.ClientResponse | None = None
        self._moved = 0  # by the present attempt

    @property
    def info(self) -> ObjectInfo:
        """The object's head; its size is that of the whole object, also when only part is read."""
        assert self._incoming.info is not None
        return self._incoming.info

    @property
    def length(self) -> int:
        """The number of bytes this download delivers."""
        return self._incoming.length

    @property
    def verified(self) -> bool:
        """Whether the end of the bytes includes a comparison with the ETag."""
        return self._incoming.verified

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while block := await self._next():
                yield block
        finally:
            self.close()

    async def read(self) -> bytes:
        """All (remaining) bytes. Needs as much memory."""
        return b"".join([block async for block in self])

    async def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> int:
        """Write to a temporary file beside `path` and rename it there once all bytes are verified. With `overwrite` False
        FileExistsError, and nothing changed, if something is there by then."""
        target = Path(path)
        handle, part = tempfile.mkstemp(prefix=".atoll-", suffix=".part", dir=target.parent)
        total = 0
        try:
            with os.fdopen(handle, "wb") as file:
                async for block in self:
                    total += await asyncio.to_thread(file.write, block)
                os.fchmod(file.fileno(), 0o666 & ~umask())
            publish(Path(part), target, overwrite=overwrite)
        except BaseException:
            with suppress(OSError):
                Path(part).unlink()
            raise
        return total

    def close(self) -> None:
        """Give up what was not read. Idempotent."""
        self._end_wait()
        if self._response is not None:
            self._response.close()
            self._response = None
            self._attempts.abandoned()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def open(self) -> None:
        """Get an answer that delivers the next byte wanted."""
        while self._response is None:
            url = self._attempts.pick()
            self._moved = 0
            waiting = self._waiting = self._wait(url, self._attempts)
            try:
                await self._accept(await self._send(url, self._incoming.request(), waiting))
            except AttemptError as failure:
                self._end_wait()
                await asyncio.sleep(self._attempts.failed(failure))
            except AtollError:
                self._end_wait()
                self._attempts.answered()
                raise
            except BaseException:
                self._end_wait()
                self._attempts.abandoned()
                raise

    def _end_wait(self) -> None:
        if self._waiting is not None:
            self._waiting.end()
            self._waiting = None

    async def _accept(self, response: aiohttp.ClientResponse) -> None:
        headers = lower(response.headers)
        if response.status in (200, 206):
            try:
                self._incoming.accept(response.status, headers)
            except AtollError:
                response.close()
                raise
            self._response = response
            return
        error = error_of(response.status, headers, await read_whole(response), self._incoming.what)
        if isinstance(error, Conflict) and self._incoming.info is not None:
            raise changed_meanwhile(self._incoming.what)
        raise retryable(error, headers) or error

    async def _next(self) -> bytes:
        """The next bytes, b"" after the last one."""
        while not self._incoming.complete:
            if self._response is None or self._waiting is None:
                raise ValueError("this download is closed")
            self._waiting.expect()
            try:
                block = await self._response.content.readany()
                if not block:
                    raise ConnectionError("the answer ended early")
            except BROKEN as problem:
                self._response.close()
                self._response = None
                self._end_wait()
                failure = AttemptError(Fate.LOST, problem, moved=self._moved >= PROGRESS_BYTES)
                await asyncio.sleep(self._attempts.failed(failure))
                await self.open()
                continue
            self._waiting.rest()
            self._moved += len(block)
            self._incoming.take(block)
            if self._progress is not None:
                self._progress(len(block))
            if self._incoming.complete:
                self._finish()
            return block
        if self._response is not None:
            self._finish()
        return b""

    def _finish(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.release()
            self._attempts.answered()
        self._end_wait()
        self._incoming.finish()


class AsyncMetered(Metered):
    """A source whose passing bytes are counted and hashed, handed to aiohttp as an asynchronous iterator."""

    def __init__(self, source: Source | AsyncSource, chunk_bytes: int, progress: Progress | None) -> None:
        super().__init__(_Never() if isinstance(source, AsyncSource) else source, chunk_bytes, progress)
        self._any = source
        self.error: Exception | None = None
        """What the caller's own body raised, which aiohttp would hide behind one of its errors."""

    def can_repeat(self) -> bool:
        return self._any.can_repeat()

    async def stream(self, alive: Any) -> AsyncIterator[Bytes]:
        """The blocks, calling `alive` for each that the connection has taken."""
        self.restart()
        try:
            async for block in self._blocks():
                self.passed(block)
                # A copy: aiohttp may still hold the block when the source fills its buffer again.
                yield bytes(block)
                alive()
        except Exception as problem:
            self.error = problem
            raise

    async def _blocks(self) -> AsyncIterator[Bytes]:
        if isinstance(self._any, AsyncSource):
            async for block in self._any.blocks():
                yield block
            return
        blocks = self._any.blocks()
        inline = isinstance(self._any, MemorySource | IterableSource)  # no disk to wait for
        while (block := next(blocks, b"") if inline else await asyncio.to_thread(next, blocks, b"")) != b"":
            yield block


class _Never:
    """Stands where a blocking source would."""

    size: int | None = None

    def can_repeat(self) -> bool:
        return False

    def blocks(self) -> Any:
        raise AssertionError("an asynchronous body was read as a blocking one")


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Header names in lower case."""
    return {name.lower(): value for name, value in headers.items()}


async def read_whole(response: aiohttp.ClientResponse) -> bytes:
    """The body of an answer that fits in memory; AttemptError if it is cut off."""
    try:
        return await response.read()
    except BROKEN as problem:
        response.close()
        raise AttemptError(Fate.LOST, problem) from problem
