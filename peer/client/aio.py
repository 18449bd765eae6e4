"""The asynchronous client: the same methods as `Client`, awaited, over aiohttp."""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from yarl import URL

from peer.client import calls
from peer.client.attempts import PATIENCE_S, AttemptError, Attempts, Fate
from peer.client.bodies import (
    AsyncData,
    AsyncSource,
    Bytes,
    IterableSource,
    MemorySource,
    Progress,
    Source,
    source_of,
)
from peer.client.calls import Call
from peer.client.core import PROGRESS_BYTES, SIDE_PATIENCE_S, Core, Metered, retryable
from peer.client.model import BucketInfo, ClusterInfo, NodeInfo, ObjectInfo, Page, Prefix, Stored
from peer.client.profile import load_profile
from peer.client.sync import umask
from peer.client.transfer import Incoming, changed_meanwhile, check_put
from peer.client.wire import Request, error_of
from peer.errors import AtollError, Conflict

T = TypeVar("T")

CONNECT_TIMEOUT_S = 3.0
SILENCE_S = 30.0
"""A peer that moves no byte for this long is given up; it promises an answer within 5 s."""
IDLE_S = 10.0
CONNECTIONS = 256
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


class AsyncClient:
    """An Atoll cluster, from an asyncio program. See `Client`, whose every promise holds here too.

        async with AsyncClient("http://127.0.0.1:7401", access_key="...", secret_key="...") as client:
            await client.put("photos", "a.jpg", Path("a.jpg"))
            async with await client.get("photos", "a.jpg") as download:
                async for block in download: ...

    Belongs to the loop it is first used on. A cancelled put may or may not have been done.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        access_key: str | None = None,
        secret_key: str | None = None,
        pin: bool = False,
        patience_s: float = PATIENCE_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`endpoints`: API addresses (port + 1). `tls`: for certificates the machine does not trust."""
        self._core = Core(endpoints, access_key, secret_key, pin=pin, patience_s=patience_s)
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._learning: asyncio.Lock | None = None

    @classmethod
    def from_profile(cls, name: str | None = None, **options: Any) -> Self:
        """A client for a profile of ~/.config/atoll/config.toml, by default the default one."""
        profile = load_profile(name)
        return cls(
            profile.endpoints,
            access_key=profile.access_key,
            secret_key=profile.secret_key,
            tls=profile.tls_context(),
            **options,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # buckets

    async def buckets(self) -> list[BucketInfo]:
        """All buckets the caller may see, by name."""
        return await self._run(calls.buckets())

    async def bucket(self, name: str) -> BucketInfo:
        """One bucket; NotFound if there is none of that name."""
        return await self._run(calls.bucket(name))

    async def create_bucket(self, name: str, *, shards: int | None = None) -> bool:
        """Make a bucket: True if it is new, False if it was yours already. Conflict if someone else's."""
        return await self._run(calls.create_bucket(name, shards))

    async def delete_bucket(self, name: str) -> None:
        """Remove an empty bucket. NotFound, or Conflict if it holds objects."""
        await self._run(calls.delete_bucket(name))

    # objects

    async def put(
        self,
        bucket: str,
        key: str,
        data: AsyncData,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        progress: Progress | None = None,
        prefer_owner: bool | None = None,
    ) -> Stored:
        """Store an object; as `Client.put`, and `data` may be an asynchronous iterable of blocks.

        Files are read in threads; a plain iterable is iterated on the loop.
        """
        call = calls.put(bucket, key, content_type, metadata, if_match, if_none_match)
        source = AsyncSource(data) if isinstance(data, AsyncIterable) else source_of(data)
        small = isinstance(source, MemorySource) and (source.size or 0) < PROGRESS_BYTES
        await self._learn(transfer=not small)
        body = AsyncMetered(source, self._core.chunk_bytes, progress)
        preferred = await self._owners(bucket, key, body.size, prefer_owner)
        stored = await self._run(call, body, preferred, learn=False)
        check_put(body.hasher, stored.etag, stored.size if stored.size >= 0 else None, call.request.what)
        return stored

    async def get(
        self,
        bucket: str,
        key: str,
        *,
        span: tuple[int, int | None] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        progress: Progress | None = None,
        prefer_owner: bool | None = None,
        size_hint: int | None = None,
    ) -> AsyncDownload:
        """Open an object for reading; as `Client.get`."""
        await self._learn(transfer=True)
        incoming = Incoming(
            bucket,
            key,
            span=span,
            if_match=if_match,
            if_none_match=if_none_match,
            chunk_bytes=self._core.chunk_bytes,
        )
        preferred = await self._owners(bucket, key, size_hint, prefer_owner)
        download = AsyncDownload(self, incoming, self._core.attempts(incoming.request(), preferred), progress)
        await download.open()
        return download

    async def stat(self, bucket: str, key: str) -> ObjectInfo:
        """What is known of an object without its bytes; NotFound."""
        return await self._run(calls.stat(bucket, key))

    async def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> None:
        """Remove an object. A key that is not there is no error, unless `if_match` is given (Conflict)."""
        await self._run(calls.delete(bucket, key, if_match))

    async def list_page(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Page:
        """One page of a listing, in the order of the keys' bytes; `after` is the last page's `next`."""
        return await self._run(calls.list_page(bucket, prefix, delimiter, after, limit))

    async def list(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        after: str | None = None,
        page_limit: int | None = None,
    ) -> AsyncIterator[ObjectInfo | Prefix]:
        """Every object whose key begins with `prefix`, fetched page by page; as `Client.list`."""
        while True:
            page = await self.list_page(bucket, prefix, delimiter=delimiter, after=after, limit=page_limit)
            for entry in page.entries():
                yield entry
            if page.next is None:
                return
            after = page.next

    # cluster

    async def cluster(self) -> ClusterInfo:
        """The cluster from the view of one peer."""
        info = await self._run(calls.cluster(), learn=False)
        self._core.learn(info)
        return info

    async def health(self) -> str:
        """healthy, degraded or unavailable; needs no credentials."""
        return await self._run(calls.health(), learn=False)

    async def nodes(self) -> Sequence[NodeInfo]:
        """Every peer."""
        return await self._run(calls.nodes())

    async def node(self, name: str) -> NodeInfo:
        """One peer by id, name or "self", with what its process is doing; NotFound."""
        return await self._run(calls.node(name))

    async def ring(self) -> dict[str, Any]:
        """The ring's table as the API gives it: epoch, members, owners of every partition."""
        return await self._run(calls.ring())

    async def lookup(self, bucket: str, key: str | None = None) -> dict[str, Any]:
        """Where a key lives: its partition and owners, as the API gives them."""
        return await self._run(calls.lookup(bucket, key))

    async def epochs(self) -> dict[str, Any]:
        """The decided epochs, as the API gives them."""
        return await self._run(calls.epochs())

    # inside

    async def _learn(self, *, transfer: bool) -> None:
        """Ask for the cluster if it is time; failing to is no error, the request itself will tell."""
        if not self._core.should_learn(transfer=transfer):
            return
        self._learning = self._learning or asyncio.Lock()
        if self._learning.locked() and (self._core.knows_cluster or not transfer):
            return
        async with self._learning:
            if not self._core.time_to_learn():
                return  # someone did while we waited
            try:
                self._core.learn(await self._run(calls.cluster(SIDE_PATIENCE_S), learn=False))
            except AtollError:
                self._core.learned_nothing()

    async def _owners(
        self, bucket: str, key: str, size: int | None, prefer_owner: bool | None
    ) -> Sequence[str]:
        if not self._core.wants_owners(size, prefer_owner):
            return ()
        try:
            return Core.owners_in(await self._run(calls.lookup(bucket, key, SIDE_PATIENCE_S), learn=False))
        except AtollError:
            return ()  # any peer will do

    async def send(self, url: str, request: Request, body: AsyncMetered | None) -> aiohttp.ClientResponse:
        """One request to one peer, up to the head of its answer; AttemptError says how far it came."""
        headers = self._core.headers(request)
        data: Any = request.body
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SILENCE_S) as silence:
                if body is not None:
                    if body.size is not None:
                        headers["Content-Length"] = str(body.size)
                    data = body.stream(lambda: silence.reschedule(loop.time() + SILENCE_S))
                return await self._opened().request(
                    request.method,
                    URL(url + request.path, encoded=True),
                    headers=headers,
                    data=data,
                    allow_redirects=False,
                    skip_auto_headers=("Content-Type",),
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as problem:
            raise AttemptError(Fate.NOT_SENT, problem) from problem
        except _BROKEN as problem:
            if body is not None and body.error is not None:
                raise body.error from None
            raise AttemptError(Fate.LOST, problem) from problem

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS, keepalive_timeout=IDLE_S, ssl=self._tls or True
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_S
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            # aiohttp repeats a PUT or DELETE by itself when a kept connection breaks, conditions or not.
            # Whether a request may be repeated is ours to decide (attempts.py); a test counts arrivals.
            self._session._retry_connection = False
        return self._session

    async def _run(
        self,
        call: Call[T],
        body: AsyncMetered | None = None,
        preferred: Sequence[str] = (),
        *,
        learn: bool = True,
    ) -> T:
        """Run one call to its end, over as many peers as it takes."""
        if learn:
            await self._learn(transfer=False)
        attempts = self._core.attempts(call.request, preferred)
        while True:
            url = attempts.pick()
            try:
                response = await self.send(url, call.request, body)
                content = await read_whole(response)
                result = self._core.judge(
                    call, response.status, lower(response.headers), content, in_doubt=attempts.in_doubt
                )
            except AttemptError as failure:
                failure.moved = body is not None and body.hasher.size >= PROGRESS_BYTES
                pause_s = attempts.failed(failure, can_repeat=body is None or body.can_repeat())
            except AtollError:
                attempts.answered()
                raise
            except BaseException:
                attempts.abandoned()
                raise
            else:
                attempts.answered()
                return result
            await asyncio.sleep(pause_s)

    @property
    def core(self) -> Core:
        """For AsyncDownload."""
        return self._core


class AsyncDownload:
    """The bytes of one object: iterate over blocks, or `read` or `save`; see `Download`."""

    def __init__(
        self, client: AsyncClient, incoming: Incoming, attempts: Attempts, progress: Progress | None
    ) -> None:
        self._client = client
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

    async def save(self, path: str | os.PathLike[str]) -> int:
        """Write to a temporary file beside `path` and rename it there once all bytes are verified."""
        target = Path(path)
        handle, part = tempfile.mkstemp(prefix=".atoll-", suffix=".part", dir=target.parent)
        total = 0
        try:
            with os.fdopen(handle, "wb") as file:
                async for block in self:
                    total += await asyncio.to_thread(file.write, block)
                os.fchmod(file.fileno(), 0o666 & ~umask())
            Path(part).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(part).unlink()
            raise
        return total

    def close(self) -> None:
        """Give up what was not read. Idempotent."""
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
            try:
                await self._accept(await self._client.send(url, self._incoming.request(), None))
            except AttemptError as failure:
                await asyncio.sleep(self._attempts.failed(failure))
            except AtollError:
                self._attempts.answered()
                raise
            except BaseException:
                self._attempts.abandoned()
                raise

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
            if self._response is None:
                raise ValueError("this download is closed")
            try:
                block = await self._response.content.readany()
                if not block:
                    raise ConnectionError("the answer ended early")
            except _BROKEN as problem:
                self._response.close()
                self._response = None
                failure = AttemptError(Fate.LOST, problem, moved=self._moved >= PROGRESS_BYTES)
                await asyncio.sleep(self._attempts.failed(failure))
                await self.open()
                continue
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
    except _BROKEN as problem:
        response.close()
        raise AttemptError(Fate.LOST, problem) from problem
