"""The asynchronous client: the same methods as `Client`, awaited, over aiohttp."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from yarl import URL

from peer.client import calls
from peer.client.aio_download import BROKEN, AsyncDownload, AsyncMetered, lower, read_whole
from peer.client.aio_events import stream
from peer.client.aio_watching import AsyncWatcher
from peer.client.attempts import PATIENCE_S, AttemptError, Fate
from peer.client.bodies import AsyncData, AsyncSource, MemorySource, Progress, source_of
from peer.client.calls import Call
from peer.client.core import PROGRESS_BYTES, SIDE_PATIENCE_S, Core
from peer.client.following import Event, Following, events_request
from peer.client.model import BucketInfo, ClusterInfo, NodeInfo, ObjectInfo, Page, Prefix, Stored
from peer.client.profile import load_profile
from peer.client.pulse import Waiting
from peer.client.transfer import Incoming, check_put
from peer.client.trust import for_aiohttp, refusal
from peer.client.wire import STREAM_SILENCE_S, Request
from peer.errors import AtollError

T = TypeVar("T")

IDLE_S = 10.0
CONNECTIONS = 256


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
        self._watcher = AsyncWatcher(self._core.pulse, tls)
        self._core.pulse.on_wait = self._watcher.wake

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
        await self._watcher.close()
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
        found, after = await self._run(calls.buckets(None))
        while after is not None:
            more, after = await self._run(calls.buckets(after))
            found += more
        return found

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
        attempts = self._core.attempts(incoming.request(), preferred)
        download = AsyncDownload(self.send, self._core.waiting, incoming, attempts, progress)
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

    async def ready(self) -> Sequence[str]:
        """Why the one peer that is asked is not ready for clients, [] if it is; needs no credentials."""
        return await self._run(calls.ready(), learn=False)

    async def nodes(self) -> Sequence[NodeInfo]:
        """Every peer."""
        return await self._run(calls.nodes())

    async def node(self, name: str) -> NodeInfo:
        """One peer by id, name or "self", with what its process is doing; NotFound."""
        return await self._run(calls.node(name))

    async def ring(self) -> dict[str, Any]:
        """The ring's table as the API gives it: epoch, members, owners of every partition."""
        return await self._run(calls.ring())

    async def lookup(
        self, bucket: str, key: str | None = None, *, chunks: bool = False, after: int = 0
    ) -> dict[str, Any]:
        """Where a key lives: its partition and owners, as the API gives them; with `chunks` those of its bytes, too, from
        number `after` on."""
        return await self._run(calls.lookup(bucket, key, chunks_from=after if chunks else None))

    async def epochs(self) -> dict[str, Any]:
        """The decided epochs, as the API gives them."""
        return await self._run(calls.epochs())

    async def workers(self) -> dict[str, Any]:
        """The background workers of all peers, as the API gives them."""
        return await self._run(calls.workers())

    async def views(self) -> dict[str, Any]:
        """Who believes whom to be alive, as the API gives it."""
        return await self._run(calls.views())

    async def log(self, limit: int = 1000) -> dict[str, Any]:
        """The newest events of all peers' journals, oldest first, as the API gives them."""
        return await self._run(calls.log(limit))

    async def command_workers(
        self, verb: str, worker: str = "all", *, node: str | None = None, per_second: float | None = None
    ) -> dict[str, Any]:
        """pause, resume, start or throttle workers, on every peer or on one. `failed` of the answer names the peers that
        did not answer, where nothing changed. NotFound."""
        return await self._run(calls.command_workers(verb, worker, node, per_second))

    async def change_node(
        self, name: str, action: str, body: Mapping[str, Any] | None = None, *, plan: bool = False
    ) -> dict[str, Any]:
        """drain, undrain, remove or set a peer, or plan it: partitions and bytes to move. NotFound, Conflict."""
        return await self._run(calls.change_node(name, action, body, plan))

    async def set_replicas(self, replicas: int, *, plan: bool = False) -> dict[str, Any]:
        """Keep so many copies of everything from now on, or plan it. Conflict."""
        body = {"replicas": replicas}
        return await self._run(calls.change_ring("ring/replicas", "set replicas", body, plan))

    async def abort_change(self) -> dict[str, Any]:
        """Give up the change of the ring that is under way. Conflict if there is none."""
        return await self._run(calls.change_ring("ring/abort", "abort the change of the ring", None, False))

    def events(self, types: Collection[str] = ()) -> AsyncIterator[Event]:
        """What happens in the cluster, as it happens, for ever; goes on at another peer within two seconds when one dies
        (following.py). `types`: only these; all by default. Denied when the credentials are refused."""
        book, request = self._core.book, events_request(types)
        return Following(
            book.urls(),
            lambda url: stream(self._opened(), url, request, self._core.headers(request)),
            pinned=book.pinned,
        ).events()

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

    async def send(
        self, url: str, request: Request, waiting: Waiting, body: AsyncMetered | None = None
    ) -> aiohttp.ClientResponse:
        """One request to one peer, up to the head of its answer; AttemptError says how far it came. `waiting` is told of
        what the peer does, and breaks it off, also while the body of the answer is read."""
        headers = self._core.headers(request)
        data: Any = request.body
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(request.silence_s) as silence:
                waiting.give_up = lambda: silence.reschedule(loop.time())
                if body is not None:
                    if body.size is not None:
                        headers["Content-Length"] = str(body.size)

                    def moved() -> None:
                        waiting.moved()
                        silence.reschedule(loop.time() + request.silence_s)

                    data = body.stream(moved)
                response = await self._opened().request(
                    request.method,
                    URL(url + request.path, encoded=True),
                    headers=headers,
                    data=data,
                    allow_redirects=False,
                    skip_auto_headers=("Content-Type",),
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        sock_connect=self._core.connect_s(),
                        sock_read=max(STREAM_SILENCE_S, request.silence_s),
                    ),
                )
                waiting.give_up = response.close
                waiting.moved()
                return response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as problem:
            waiting.end()  # before anything else is awaited: there is nothing left to break off
            raise AttemptError(Fate.NOT_SENT, refusal(problem, url, self._tls) or problem) from problem
        except BROKEN as problem:
            waiting.end()
            if body is not None and body.error is not None:
                raise body.error from None
            raise AttemptError(Fate.LOST, problem) from problem

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS, keepalive_timeout=IDLE_S, ssl=for_aiohttp(self._tls)
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
            waiting = self._core.waiting(url, attempts, body)
            try:
                response = await self.send(url, call.request, waiting, body)
                content = await read_whole(response)
                result = self._core.judge(
                    call, response.status, lower(response.headers), content, in_doubt=attempts.in_doubt
                )
            except AttemptError as failure:
                lost = failure.fate is Fate.LOST
                failure.moved = lost and body is not None and body.hasher.size >= PROGRESS_BYTES
                if (lost or body is not None) and self._core.look_again(call.request):
                    await self._learn(transfer=True)
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
            finally:
                waiting.end()
            self._core.tell(call.request, attempts, pause_s)
            await asyncio.sleep(pause_s)
