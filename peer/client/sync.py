"""The blocking client."""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

from peer.client import calls
from peer.client.attempts import PATIENCE_S, AttemptError, Attempts
from peer.client.bodies import BodyError, Data, MemorySource, Progress, source_of
from peer.client.calls import Call
from peer.client.connections import Answer, Connections
from peer.client.core import PROGRESS_BYTES, SIDE_PATIENCE_S, Core, Metered, retryable
from peer.client.model import BucketInfo, ClusterInfo, NodeInfo, ObjectInfo, Page, Prefix, Stored
from peer.client.profile import Profile, load_profile
from peer.client.transfer import Incoming, changed_meanwhile, check_put
from peer.client.wire import MAX_ERROR_BYTES, error_of
from peer.errors import AtollError, Conflict

T = TypeVar("T")

BLOCK_BYTES = 256 * 1024
"""Received at a time: large enough for few calls, small enough to stay in the processor's cache."""


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
        self._sleep = sleep
        self._learning = threading.Lock()

    @classmethod
    def from_profile(cls, name: str | None = None, **options: Any) -> Self:
        """A client for a profile of ~/.config/atoll/config.toml, by default the default one."""
        profile: Profile = load_profile(name)
        return cls(
            profile.endpoints,
            access_key=profile.access_key,
            secret_key=profile.secret_key,
            tls=profile.tls_context(),
            **options,
        )

    def close(self) -> None:
        """Close all connections. Requests under way in other threads end with an error."""
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
        return self._run(calls.buckets())

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
        read only once is not repeated. `prefer_owner` None: ask for the owners when it pays.
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

    def nodes(self) -> Sequence[NodeInfo]:
        """Every peer."""
        return self._run(calls.nodes())

    def node(self, name: str) -> NodeInfo:
        """One peer by id, name or "self", with what its process is doing; NotFound."""
        return self._run(calls.node(name))

    def ring(self) -> dict[str, Any]:
        """The ring's table as the API gives it: epoch, members, owners of every partition."""
        return self._run(calls.ring())

    def lookup(self, bucket: str, key: str | None = None) -> dict[str, Any]:
        """Where a key lives: its partition and owners, as the API gives them."""
        return self._run(calls.lookup(bucket, key))

    def epochs(self) -> dict[str, Any]:
        """The decided epochs, as the API gives them."""
        return self._run(calls.epochs())

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
            try:
                answer = self._connections.send(url, call.request, headers, body)
                content = answer.read()
                result = self._core.judge(
                    call, answer.status, answer.headers, content, in_doubt=attempts.in_doubt
                )
            except AttemptError as failure:
                failure.moved = body is not None and body.hasher.size >= PROGRESS_BYTES
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
            self._sleep(pause_s)


class Download:
    """The bytes of one object: iterate over blocks, or `read`, `save` or `write_to`; then it is closed.

    `info` describes the object, `length` is what will come, in bytes. Errors of the bytes (Corrupt, or
    Unavailable when no peer has the rest) are raised while reading; blocks handed out before are then
    not to be trusted. `save` leaves nothing behind in that case.
    """

    def __init__(
        self,
        core: Core,
        connections: Connections,
        sleep: Callable[[float], None],
        incoming: Incoming,
        attempts: Attempts,
        progress: Progress | None,
    ) -> None:
        self._core = core
        self._connections = connections
        self._sleep = sleep
        self._incoming = incoming
        self._attempts = attempts
        self._progress = progress
        self._answer: Answer | None = None
        self._moved = 0  # by the present attempt
        self._closed = False
        self._open()

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

    def on_progress(self, progress: Progress) -> None:
        """Call `progress` from now on with the bytes that come, for who must know `length` first."""
        self._progress = progress

    def __iter__(self) -> Iterator[bytes]:
        room = memoryview(bytearray(min(BLOCK_BYTES, max(1, self.length))))
        try:
            while got := self._read_into(room):
                yield bytes(room[:got])
        finally:
            self.close()

    def read(self) -> bytes:
        """All (remaining) bytes. Needs as much memory."""
        return b"".join(self)

    def write_to(self, file: BinaryIO) -> int:
        """Write all (remaining) bytes to an open binary file; how many there were."""
        room = memoryview(bytearray(min(BLOCK_BYTES, max(1, self.length))))
        total = 0
        try:
            while got := self._read_into(room):
                rest = room[:got]
                while rest:  # an unbuffered file may take less
                    rest = rest[file.write(rest) :]
                total += got
        finally:
            self.close()
        return total

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write to a temporary file beside `path` and rename it there once all bytes are verified."""
        target = Path(path)
        handle, part = tempfile.mkstemp(prefix=".atoll-", suffix=".part", dir=target.parent)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                total = self.write_to(file)
                os.fchmod(file.fileno(), 0o666 & ~umask())
            Path(part).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(part).unlink()
            raise
        finally:
            self.close()
        return total

    def close(self) -> None:
        """Give up what was not read. Idempotent."""
        self._closed = True
        if self._answer is not None:
            self._answer.close()
            self._answer = None
            self._attempts.abandoned()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Get an answer that delivers the next byte wanted."""
        while self._answer is None:
            url = self._attempts.pick()
            self._moved = 0
            request = self._incoming.request()
            try:
                answer = self._connections.send(url, request, self._core.headers(request), None)
                self._accept(answer)
            except AttemptError as failure:
                self._sleep(self._attempts.failed(failure))
            except AtollError:
                self._attempts.answered()
                raise
            except BaseException:
                self._attempts.abandoned()
                raise

    def _accept(self, answer: Answer) -> None:
        if answer.status in (200, 206):
            try:
                self._incoming.accept(answer.status, answer.headers)
            except AtollError:
                answer.close()
                raise
            self._answer = answer
            return
        error = error_of(answer.status, answer.headers, answer.read(MAX_ERROR_BYTES), self._incoming.what)
        if isinstance(error, Conflict) and self._incoming.info is not None:
            raise changed_meanwhile(self._incoming.what)
        raise retryable(error, answer.headers) or error

    def _read_into(self, room: memoryview) -> int:
        """The next bytes, 0 after the last one."""
        while not self._incoming.complete:
            if self._closed:
                raise ValueError("this download is closed")
            assert self._answer is not None
            try:
                got = self._answer.read_into(room)
                if not got:
                    raise AssertionError("an answer of known length ended early without an error")
            except AttemptError as failure:
                self._answer = None
                failure.moved = self._moved >= PROGRESS_BYTES
                self._sleep(self._attempts.failed(failure))
                self._open()
                continue
            self._moved += got
            self._incoming.take(room[:got])
            if self._progress is not None:
                self._progress(got)
            if self._incoming.complete:
                self._finish()
            return got
        if self._answer is not None:
            self._finish()
        return 0

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.read_into(memoryview(bytearray(1)))  # lets the connection be used again
            self._attempts.answered()
        self._incoming.finish()


def umask() -> int:
    """The process's umask, which can only be read by setting it (Linux tells it elsewhere)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
