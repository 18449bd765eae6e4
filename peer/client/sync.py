"""The blocking client."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from peer.client import calls
from peer.client.attempts import PATIENCE_S, AttemptError, Fate
from peer.client.bodies import BodyError, Data, MemorySource, Progress, source_of
from peer.client.calls import Call
from peer.client.connections import Connections
from peer.client.core import PROGRESS_BYTES, SIDE_PATIENCE_S, Core, Metered
from peer.client.download import Download
from peer.client.model import BucketInfo, ClusterInfo, NodeInfo, ObjectInfo, Page, Prefix, Stored
from peer.client.profile import load_profile
from peer.client.transfer import Incoming, check_put
from peer.client.watching import Watcher
from peer.errors import AtollError

T = TypeVar("T")


class Client:
    """An Atoll cluster, from a Python program. Thread-safe; use it as a context manager or `close` it.

        with Client("http://127.0.0.1:7401", access_key="...", secret_key="...") as client:
            client.create_bucket("photos")
            client.put("photos", "a.jpg", Path("a.jpg"))
            client.get("photos", "a.jpg").save("copy.jpg")

    Give one endpoint or several; further peers are learned from the cluster. Requests are spread over
    them (big objects go straight to an owner), and go on at another peer when one fails. `pin=True`
    keeps to the endpoints given.

    Errors are those of `peer.errors`: NotFound, Denied, Conflict (a condition does not hold, a name is
    taken, a bucket is not empty), Invalid (the request is wrong), Unavailable (no peer could do it
    within `patience_s` of trouble), UnknownOutcome (a write may or may not have been done), Full,
    Corrupt. Reads and unconditional writes are repeated after a lost answer; conditional writes never,
    as the repetition would be judged against the first: they raise UnknownOutcome.
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
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`endpoints`: API addresses (port + 1). `tls`: for certificates the machine does not trust."""
        self._core = Core(endpoints, access_key, secret_key, pin=pin, patience_s=patience_s)
        self._connections = Connections(tls)
        self._watcher = Watcher(self._core.pulse, tls)
        self._core.pulse.on_wait = self._watcher.wake
        self._sleep = sleep
        self._learning = threading.Lock()

    def on_trouble(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with a sentence when a request has to wait or to begin anew; from any thread, every 2 s at most."""
        self._core.on_trouble = tell

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

    def close(self) -> None:
        """Close all connections. Requests under way in other threads end with an error."""
        self._watcher.close()
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # buckets

    def buckets(self) -> list[BucketInfo]:
        """All buckets the caller may see, by name."""
        found, after = self._run(calls.buckets(None))
        while after is not None:
            more, after = self._run(calls.buckets(after))
            found += more
        return found

    def bucket(self, name: str) -> BucketInfo:
        """One bucket; NotFound if there is none of that name."""
        return self._run(calls.bucket(name))

    def create_bucket(self, name: str, *, shards: int | None = None) -> bool:
        """Make a bucket: True if it is new, False if it was yours already (it is then left as it is).

        Conflict if the name is someone else's; Invalid if it is no bucket name.
        """
        return self._run(calls.create_bucket(name, shards))

    def delete_bucket(self, name: str) -> None:
        """Remove an empty bucket. NotFound, or Conflict if it holds objects."""
        self._run(calls.delete_bucket(name))

    # objects

    def put(
        self,
        bucket: str,
        key: str,
        data: Data,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        progress: Progress | None = None,
        prefer_owner: bool | None = None,
    ) -> Stored:
        """Store an object: bytes, a path, a binary file, or an iterable of blocks of unknown total length.

        `if_none_match="*"` stores only if the key is free, `if_match=ETAG` only over that version;
        otherwise Conflict. What was stored is compared with what was sent (Corrupt if it differs).
        After an error other than UnknownOutcome and Corrupt nothing has changed. A body that can be
        read only once (an iterator, a pipe) is repeated while it is shorter than 4 MiB.
        `prefer_owner` None: ask for the owners when it pays.
        """
        call = calls.put(bucket, key, content_type, metadata, if_match, if_none_match)
        source = source_of(data)
        self._learn(transfer=not (isinstance(source, MemorySource) and (source.size or 0) < PROGRESS_BYTES))
        body = Metered(source, self._core.chunk_bytes, progress)
        stored = self._run(call, body, self._owners(bucket, key, body.size, prefer_owner), learn=False)
        check_put(body.hasher, stored.etag, stored.size if stored.size >= 0 else None, call.request.what)
        return stored

    def get(
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
    ) -> Download:
        """Open an object for reading; its bytes come through the Download.

        `span=(start, stop)` reads part of it, as a slice does; `(-n, None)` the last n bytes. When the
        peer fails midway the rest comes from another one, of the same version. A read of the whole is
        verified. NotFound; Conflict when a condition does not hold (code NotModified for `if_none_match`).
        """
        self._learn(transfer=True)
        incoming = Incoming(
            bucket,
            key,
            span=span,
            if_match=if_match,
            if_none_match=if_none_match,
            chunk_bytes=self._core.chunk_bytes,
        )
        attempts = self._core.attempts(incoming.request(), self._owners(bucket, key, size_hint, prefer_owner))
        return Download(self._core, self._connections, self._sleep, incoming, attempts, progress)

    def stat(self, bucket: str, key: str) -> ObjectInfo:
        """What is known of an object without its bytes; NotFound."""
        return self._run(calls.stat(bucket, key))

    def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> None:
        """Remove an object. A key that is not there is no error, unless `if_match` is given (Conflict)."""
        self._run(calls.delete(bucket, key, if_match))

    def list_page(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Page:
        """One page of a listing, in the order of the keys' bytes; `after` is the last page's `next`."""
        return self._run(calls.list_page(bucket, prefix, delimiter, after, limit))

    def list(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        after: str | None = None,
        page_limit: int | None = None,
    ) -> Iterator[ObjectInfo | Prefix]:
        """Every object whose key begins with `prefix`, fetched page by page.

        With a delimiter, what lies behind its next occurrence is folded into one Prefix.
        """
        while True:
            page = self.list_page(bucket, prefix, delimiter=delimiter, after=after, limit=page_limit)
            yield from page.entries()
            if page.next is None:
                return
            after = page.next

    # cluster

    def cluster(self) -> ClusterInfo:
        """The cluster from the view of one peer."""
        info = self._run(calls.cluster(), learn=False)
        self._core.learn(info)
        return info

    def health(self) -> str:
        """healthy, degraded or unavailable; needs no credentials."""
        return self._run(calls.health(), learn=False)

    def ready(self) -> Sequence[str]:
        """Why the one peer that is asked is not ready for clients, [] if it is; needs no credentials."""
        return self._run(calls.ready(), learn=False)

    def nodes(self) -> Sequence[NodeInfo]:
        """Every peer."""
        return self._run(calls.nodes())

    def node(self, name: str) -> NodeInfo:
        """One peer by id, name or "self", with what its process is doing; NotFound."""
        return self._run(calls.node(name))

    def ring(self) -> dict[str, Any]:
        """The ring's table as the API gives it: epoch, members, owners of every partition."""
        return self._run(calls.ring())

    def lookup(
        self, bucket: str, key: str | None = None, *, chunks: bool = False, after: int = 0
    ) -> dict[str, Any]:
        """Where a key lives: its partition and owners, as the API gives them; with `chunks` those of its bytes, too, from
        number `after` on."""
        return self._run(calls.lookup(bucket, key, chunks_from=after if chunks else None))

    def epochs(self) -> dict[str, Any]:
        """The decided epochs, as the API gives them."""
        return self._run(calls.epochs())

    def workers(self) -> dict[str, Any]:
        """The background workers of all peers, as the API gives them."""
        return self._run(calls.workers())

    def views(self) -> dict[str, Any]:
        """Who believes whom to be alive, as the API gives it."""
        return self._run(calls.views())

    def log(self, limit: int = 1000) -> dict[str, Any]:
        """The newest events of all peers' journals, oldest first, as the API gives them."""
        return self._run(calls.log(limit))

    def command_workers(
        self, verb: str, worker: str = "all", *, node: str | None = None, per_second: float | None = None
    ) -> dict[str, Any]:
        """pause, resume, start or throttle workers, on every peer or on one. `failed` of the answer names the peers that
        did not answer, where nothing changed. NotFound."""
        return self._run(calls.command_workers(verb, worker, node, per_second))

    def change_node(
        self, name: str, action: str, body: Mapping[str, Any] | None = None, *, plan: bool = False
    ) -> dict[str, Any]:
        """drain, undrain, remove or set a peer, or plan it: partitions and bytes to move. NotFound, Conflict."""
        return self._run(calls.change_node(name, action, body, plan))

    def set_replicas(self, replicas: int, *, plan: bool = False) -> dict[str, Any]:
        """Keep so many copies of everything from now on, or plan it. Conflict."""
        body = {"replicas": replicas}
        return self._run(calls.change_ring("ring/replicas", "set replicas", body, plan))

    def abort_change(self) -> dict[str, Any]:
        """Give up the change of the ring that is under way. Conflict if there is none."""
        return self._run(calls.change_ring("ring/abort", "abort the change of the ring", None, False))

    # inside

    def _learn(self, *, transfer: bool) -> None:
        """Ask for the cluster if it is time; failing to is no error, the request itself will tell."""
        if not self._core.should_learn(transfer=transfer):
            return
        first = not self._core.knows_cluster and transfer
        if not self._learning.acquire(blocking=first):
            return
        try:
            if not self._core.time_to_learn():
                return  # another thread did while we waited
            self._core.learn(self._run(calls.cluster(SIDE_PATIENCE_S), learn=False))
        except AtollError:
            self._core.learned_nothing()
        finally:
            self._learning.release()

    def _owners(self, bucket: str, key: str, size: int | None, prefer_owner: bool | None) -> Sequence[str]:
        if not self._core.wants_owners(size, prefer_owner):
            return ()
        try:
            return Core.owners_in(self._run(calls.lookup(bucket, key, SIDE_PATIENCE_S), learn=False))
        except AtollError:
            return ()  # any peer will do

    def _run(
        self, call: Call[T], body: Metered | None = None, preferred: Sequence[str] = (), *, learn: bool = True
    ) -> T:
        """Run one call to its end, over as many peers as it takes."""
        if learn:
            self._learn(transfer=False)
        attempts = self._core.attempts(call.request, preferred)
        headers = self._core.headers(call.request)
        while True:
            url = attempts.pick()
            waiting = self._core.waiting(url, attempts, body)
            try:
                answer = self._connections.send(
                    url, call.request, headers, body, waiting, self._core.connect_s()
                )
                content = answer.read()
                result = self._core.judge(
                    call, answer.status, answer.headers, content, in_doubt=attempts.in_doubt
                )
            except AttemptError as failure:
                lost = failure.fate is Fate.LOST
                failure.moved = lost and body is not None and body.hasher.size >= PROGRESS_BYTES
                if (lost or body is not None) and self._core.look_again(call.request):
                    self._learn(transfer=True)
                pause_s = attempts.failed(failure, can_repeat=body is None or body.can_repeat())
            except AtollError:
                attempts.answered()
                raise
            except BodyError as problem:
                attempts.abandoned()
                raise problem.cause from None
            except BaseException:
                attempts.abandoned()
                raise
            else:
                attempts.answered()
                return result
            finally:
                waiting.end()
            self._core.tell(call.request, attempts, pause_s)
            self._sleep(pause_s)
