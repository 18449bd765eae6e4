"""What both clients decide alike, without I/O: credentials, peers, when to learn, how to judge an answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from peer.client.attempts import PATIENCE_S, AttemptError, Attempts, Fate
from peer.client.bodies import Bytes, Progress, Source
from peer.client.calls import Call
from peer.client.model import ClusterInfo
from peer.client.peers import PeerBook, normal_url
from peer.client.pulse import Pulse, Waiting
from peer.client.wire import Request, error_of, retry_after_s
from peer.errors import AtollError, Invalid, NotFound, Unavailable
from peer.etag import DEFAULT_CHUNK_BYTES, EtagHasher

T = TypeVar("T")

OWNER_LOOKUP_BYTES = 1024 * 1024
"""From this size on, sending bytes straight to an owner saves more than asking for the owners costs."""
LEARN_EVERY_S = 30.0
LEARN_AGAIN_S = 5.0
"""After a failure to learn; the peers already known serve meanwhile."""
LOOK_AGAIN_S = 1.0
TELL_EVERY_S = 2.0
SIDE_PATIENCE_S = 0.1
"""For requests that only make others faster: once around the peers is enough."""
CONNECT_S, LONE_CONNECT_S = 1.0, 3.0
"""For a connection, with other peers to ask and without."""
PROGRESS_BYTES = 1024 * 1024
"""An attempt that moved this much before it broke was worth its while, so trying on is no endless loop."""


class Core:
    """State and decisions of one client."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        access_key: str | None,
        secret_key: str | None,
        *,
        pin: bool,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        urls = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        if not patience_s >= 0:  # nan is refused, too: it would never end
            raise Invalid(f"patience_s is {patience_s}; give seconds, 0 or more")
        if bool(access_key) != bool(secret_key):
            raise Invalid("an access key and its secret key belong together; give both or neither")
        self._authorization = f"Bearer {access_key}:{secret_key}" if access_key else None
        if self._authorization and not (self._authorization.isascii() and self._authorization.isprintable()):
            raise Invalid("the keys contain characters that cannot be sent; keys are printable ASCII")
        self._rng = rng or random.Random()
        self.book = PeerBook(urls, pinned=pin, clock=clock, rng=self._rng)
        self.pulse = Pulse(self.book, clock)
        self.chunk_bytes = DEFAULT_CHUNK_BYTES
        self.replicas = 0
        self._patience_s = patience_s
        self._clock = clock
        self._requests = 0
        self.on_trouble: Callable[[str], None] = lambda _: None
        self._told_at = -TELL_EVERY_S
        self._learned = False
        self._learn_at = 0.0

    # peers

    def should_learn(self, *, transfer: bool) -> bool:
        """Whether to ask for the cluster first: before bytes move, and from the second request on.

        The single request of a short command is not made two.
        """
        self._requests += 1
        if not transfer and (self._requests < 2 or self.book.pinned):
            return False
        return self.time_to_learn()

    def time_to_learn(self) -> bool:
        """Whether what is known is old."""
        return self._clock() >= self._learn_at

    def look_again(self, request: Request) -> bool:
        """A request met trouble: who lives may be known better now. False if that was asked just now, or is what it asks."""
        if (
            self.book.pinned
            or request.patience_s is not None
            or self._clock() < self._learn_at - LEARN_EVERY_S + LOOK_AGAIN_S
        ):
            return False
        self._learn_at = 0.0
        return True

    def tell(self, request: Request, attempts: Attempts, pause_s: float) -> None:
        """Say why a request takes longer, unless it just goes on with the next peer, or it was said a moment ago."""
        now = self._clock()
        if (
            request.patience_s is None
            and (pause_s or attempts.in_doubt)
            and now - self._told_at >= TELL_EVERY_S
        ):
            self._told_at = now
            problem = attempts.last_problem.replace(f"{request.what}: ", "")
            self.on_trouble(f"{request.what}: {problem}; trying again")

    @property
    def knows_cluster(self) -> bool:
        return self._learned

    def learn(self, cluster: ClusterInfo) -> None:
        """Take over what the cluster says of itself."""
        self.book.learn(cluster.nodes)
        self.chunk_bytes = cluster.chunk_bytes or self.chunk_bytes
        self.replicas = cluster.replicas
        self._learned = True
        self._learn_at = self._clock() + LEARN_EVERY_S

    def learned_nothing(self) -> None:
        """The question was not answered; ask again later."""
        self._learn_at = self._clock() + LEARN_AGAIN_S

    def wants_owners(self, size: int | None, prefer_owner: bool | None) -> bool:
        """Whether asking who owns a key pays: for big objects, and when not every peer owns every key."""
        if self.book.pinned or not self._learned or len(self.book.urls()) <= max(self.replicas, 1):
            return False
        return prefer_owner if prefer_owner is not None else (size or 0) > OWNER_LOOKUP_BYTES

    @staticmethod
    def owners_in(lookup: dict[str, Any]) -> list[str]:
        """The API addresses in an answer of ring/lookup."""
        found = []
        for owner in lookup.get("owners", ()):
            try:
                found.append(normal_url(str(owner.get("api_url") or "")))
            except Invalid:
                continue  # an owner whose address is not known (yet)
        return found

    # requests

    def attempts(self, request: Request, preferred: Collection[str] = ()) -> Attempts:
        return Attempts(
            self.book,
            request,
            clock=self._clock,
            rng=self._rng,
            patience_s=self._patience_s,
            preferred=preferred,
        )

    def waiting(self, url: str, attempts: Attempts, body: Metered | None = None) -> Waiting:
        """The present attempt, to be told of what its peer does (`pulse`)."""
        return self.pulse.begin(url, lambda: attempts.may_give_up and (body is None or body.can_repeat()))

    def connect_s(self) -> float:
        """How long to wait for a connection: not for long where there is another peer to ask."""
        return CONNECT_S if len(self.book.urls()) > 1 else LONE_CONNECT_S

    def headers(self, request: Request) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "atoll", **request.headers}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        return headers

    def judge(
        self, call: Call[T], status: int, headers: Mapping[str, str], body: bytes, *, in_doubt: bool = False
    ) -> T:
        """The result; raises AttemptError when a repetition may help, another AtollError otherwise."""
        if status in call.ok:
            return call.parse(status, headers, body)
        error = error_of(status, headers, body, call.request.what)
        if in_doubt and call.gone_is_done and isinstance(error, NotFound):
            return call.parse(status, headers, body)
        raise retryable(error, headers) or error


def retryable(error: AtollError, headers: Mapping[str, str]) -> AttemptError | None:
    """The failed attempt an error answer stands for, or None if it is final."""
    if (
        error.code == "TlsRequired"
    ):  # plain HTTP to a port with TLS: nothing was looked at; other peers may still be plain
        return AttemptError(Fate.NOT_SENT, error)
    if error.status < 500 and not isinstance(error, Unavailable):
        return None
    return AttemptError(Fate.TOLD, error, pause_s=retry_after_s(headers)) if error.retry else None


class Metered:
    """A source whose passing bytes are counted and hashed, anew in every attempt."""

    def __init__(self, source: Source, chunk_bytes: int, progress: Progress | None) -> None:
        self._source = source
        self._chunk_bytes = chunk_bytes
        self._progress = progress or (lambda moved: None)
        self.size = source.size
        self.hasher = EtagHasher(chunk_bytes)

    def can_repeat(self) -> bool:
        return self._source.can_repeat()

    def restart(self) -> None:
        """Forget the last attempt."""
        if self.hasher.size:
            self._progress(-self.hasher.size)
        self.hasher = EtagHasher(self._chunk_bytes)

    def passed(self, block: Bytes) -> None:
        self.hasher.update(block)
        self._progress(len(block))

    def blocks(self) -> Iterator[Bytes]:
        self.restart()
        for block in self._source.blocks():
            self.passed(block)
            yield block
