"""When to send a request again, to whom, and when to give up. A state machine: no I/O, no sleeping.

    pick() -> peer   send there, then one of
        answered()                 done
        failed(failure, ...)       -> seconds to wait before the next pick(), or raises the final error

The rules:

* A request that never left (nobody listens, no connection) may always go to the next peer at once.
* An answer that says "try again" (503) is obeyed after a jittered pause that doubles.
* A lost answer leaves a write in doubt. Unconditional writes are sent again, as writing the same
  bytes twice is writing them once. A condition would be judged against our own first attempt and
  be answered wrongly, so it is not: UnknownOutcome, and the caller looks.
* Every peer is tried once before any pause, but for those that the others hold for dead or suspect.
* Trouble lasts at most `patience_s` from its first failure; moving bytes ends it, at most
  MAX_RESTARTS times. When nobody listens anywhere, waiting rarely helps: QUIET_PATIENCE_S.
* A peer that says "try again" has often tried itself, for up to 5 s, before it says so. That time counts, and no
  repetition begins that would outlast the patience if it takes as long again.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from random import Random

from peer.client.peers import PeerBook
from peer.client.wire import Repeat, Request
from peer.errors import AtollError, Unavailable, UnknownOutcome

PATIENCE_S = 5.0
"""As long as a peer tries before it says 503, and longer than one takes to start again; a person waits no longer for
"there is no majority" than the API itself needs to say so."""
PEER_PATIENCE_S = 5.0
"""The longest a peer looks for a majority: what its answer took beyond that was the body on its way."""
QUIET_PATIENCE_S = 1.0
SHORTEST_LIMIT_S = 2.0
"""With less patience than this, too, every peer is asked, for up to three times as long."""
MAX_RESTARTS = 8
MOST_GIVEN_UP = 2
"""A request that lost so many answers waits out the next one: then it is not for want of a peer that lives."""
SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


class Fate(enum.Enum):
    """How far an attempt came before it failed."""

    NOT_SENT = "no connection: the peer saw nothing"
    LOST = "sent, but the answer did not come or was cut off"
    TOLD = "the peer answered with an error that a repetition may cure"


class AttemptError(Exception):
    """An attempt that failed, with what is known about it; raised by transports, never seen by users."""

    def __init__(self, fate: Fate, cause: Exception, *, moved: bool = False, pause_s: float = 0.0) -> None:
        super().__init__(str(cause) or type(cause).__name__)
        self.fate = fate
        self.cause = cause
        self.moved = moved
        """Whether the attempt moved bytes of an object, so that trying on is progress."""
        self.pause_s = pause_s
        """The pause the peer asked for."""


class Attempts:
    """The attempts of one request."""

    def __init__(
        self,
        book: PeerBook,
        request: Request,
        *,
        clock: Callable[[], float],
        rng: Random,
        patience_s: float = PATIENCE_S,
        preferred: Collection[str] = (),
    ) -> None:
        self._book = book
        self._request = request
        self._clock = clock
        self._rng = rng
        self._patience_s = request.patience_s if request.patience_s is not None else patience_s
        self._preferred = preferred
        self._peer: str | None = None
        self._began = 0.0  # when the present attempt did
        self._told_s = 0.0  # how long a peer took to say "try again", the last time
        self._tried: set[str] = set()  # in this round
        self._since: float | None = None  # when the present trouble began
        self._rounds = 0
        self._restarts = 0
        self._fates: dict[str, Fate] = {}  # how the last attempt at each peer ended
        self._lost = 0  # answers
        self._doubt = False  # an earlier attempt may have been applied
        self.last_problem = ""

    @property
    def in_doubt(self) -> bool:
        """Whether an earlier attempt's answer was lost, so that it may have been applied."""
        return self._doubt

    @property
    def may_give_up(self) -> bool:
        """Whether the present attempt may be broken off because its peer is silent (`pulse`, L2)."""
        return self._request.repeat is not Repeat.NEVER and self._lost < MOST_GIVEN_UP

    def pick(self) -> str:
        """The peer for the next attempt."""
        assert self._peer is None, "the last attempt is not over"
        hopeless = set(self._book.urls()) - self._book.promising()
        self._peer = self._book.pick(self._preferred, self._tried | hopeless)
        self._began = self._clock()
        return self._peer

    def answered(self) -> None:
        """The attempt brought an answer that stands, be it an error."""
        self._over(worked=True)

    def abandoned(self) -> None:
        """The caller gave up (cancelled, or its own error): nothing is held against the peer."""
        if self._peer is not None:
            self._over(worked=None)

    def failed(self, failure: AttemptError, *, can_repeat: bool = True) -> float:
        """Seconds to wait before the next `pick`, or raises the error that ends the request.

        `can_repeat` is False when the request's body cannot be produced a second time.
        """
        peer = self._peer
        assert peer is not None
        overloaded = failure.fate is Fate.TOLD
        self._over(worked=None if overloaded else False)
        self.last_problem = f"{peer}: {failure}"
        self._fates[peer] = failure.fate
        self._lost += failure.fate is Fate.LOST
        told_unknown = isinstance(failure.cause, UnknownOutcome)
        if failure.fate is Fate.LOST or told_unknown:
            if self._request.repeat is Repeat.NEVER:
                raise self._unknown(failure) from failure.cause
            self._doubt = self._doubt or self._request.repeat is Repeat.SAME_RESULT
        self._tried.add(peer)
        if not can_repeat or self._exhausted(failure):
            raise self._final(failure) from failure.cause
        return self._pause_s(failure)

    def _over(self, *, worked: bool | None) -> None:
        assert self._peer is not None
        self._book.done(self._peer, worked=worked, cost_s=self._clock() - self._began)
        self._peer = None

    def _quiet(self) -> bool:
        """Whether nobody listens at any peer that was asked."""
        return all(fate is Fate.NOT_SENT for fate in self._fates.values())

    def _exhausted(self, failure: AttemptError) -> bool:
        now = self._clock()
        if failure.moved and self._restarts < MAX_RESTARTS:
            self._restarts += 1
            self._since = now
            return False
        if failure.fate is Fate.TOLD:
            self._told_s = min(now - self._began, PEER_PATIENCE_S)
        if self._since is None:
            self._since = now - self._told_s
        patience = min(self._patience_s, QUIET_PATIENCE_S) if self._quiet() else self._patience_s
        if failure.fate is Fate.NOT_SENT and isinstance(failure.cause, AtollError):
            patience = 0.0  # no TLS connection comes about between the two, which no waiting changes
        spent = now - self._since
        # Every peer that may live gets its chance, unless there are so many silent ones that none is left to wait.
        return spent + self._told_s >= patience and (
            self._fates.keys() >= self._book.promising()
            or spent >= 3 * max(self._patience_s, SHORTEST_LIMIT_S)
        )

    def _pause_s(self, failure: AttemptError) -> float:
        if not self._tried.issuperset(self._book.promising()):
            return 0.0
        self._tried.clear()
        top = min(SHORTEST_PAUSE_S * 2.0**self._rounds, LONGEST_PAUSE_S)
        self._rounds = min(self._rounds + 1, 10)
        pause_s = max(failure.pause_s, top * (0.5 + self._rng.random() / 2))
        left_s = (self._since or 0.0) + self._patience_s - self._clock()
        return min(pause_s, left_s) if left_s > 0 else pause_s  # one last attempt when patience ends

    def _unknown(self, failure: AttemptError) -> AtollError:
        return UnknownOutcome(
            f"{self._request.what}: the answer of {self.last_problem.split(': ')[0]} was lost ({failure}), "
            "so it is not known whether the condition held and the write was done; look before trying again"
        )

    def _final(self, failure: AttemptError) -> AtollError:
        what = self._request.what
        if self._doubt:
            return UnknownOutcome(
                f"{what}: no answer, and it may or may not have been done ({self.last_problem})"
            )
        if isinstance(failure.cause, AtollError):
            return failure.cause
        peers = self._book.urls()
        if self._quiet():
            return Unavailable(
                f"{what}: no peer answers at {', '.join(peers[:4])}"
                + (f" or {len(peers) - 4} others" if len(peers) > 4 else "")
                + f" ({failure}); start a peer or give the endpoint of one that runs"
            )
        return Unavailable(f"{what}: no peer could do it now ({self.last_problem}); a retry may help")
