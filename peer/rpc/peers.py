"""All call links of this process: one connection per pair of peers, dialled on demand.

P1  Of several links with a peer the one dialled by the lower member id carries new calls; among those
    the newest. Both sides decide alike, the others say GOODBYE and close when idle, so two peers
    that dial each other at the same moment end with one connection and lose no call.
P2  Calls made while a dial is under way wait for it, up to a bound and to their deadlines. After a failed
    dial calls fail at once, with its reason, until the backoff is over.
P3  A link from another boot of the same peer means that the process we knew is gone: its calls fail.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from peer.errors import AtollError, ProtocolError, Refused, Unavailable
from peer.requestid import CURRENT
from peer.rpc.frames import again
from peer.rpc.hello import Hello, Session
from peer.rpc.link import Done, Handle, Link, Message, Waiter, fail, finish
from peer.rpc.sockets import NobodyThere, connect
from peer.rpc.stats import Stats

SWEEP_INTERVAL_S: Final = 0.05  # how coarse deadlines are
DIAL_TIMEOUT_S: Final = 3.0
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 3.0
MAX_WAITING: Final = 512  # calls waiting for one peer's dial
MAX_LINKS: Final = 1024  # of all peers together
CLOSE_TIMEOUT_S: Final = 2.0  # for what is still queued when the process ends

log = logging.getLogger(__name__)


class _Route:
    """What is known about reaching one peer."""

    __slots__ = ("dialling", "error", "failures", "link", "links", "retry_at", "waiting")

    def __init__(self) -> None:
        self.link: Link | None = None  # carries new calls (P1)
        self.links: list[Link] = []  # every live one, oldest first
        self.waiting: deque[tuple[Message, float, Done, str]] = deque()
        self.dialling: asyncio.Task[None] | None = None
        self.failures = 0
        self.retry_at = 0.0
        self.error: AtollError | None = None


class Peers:
    """Calls to peers, and requests from them. Everything happens on the loop it was made on.

    `handle(sender_id, body, reply)` gets inbound requests; `reply(tuple or AtollError)` may be called
    then or later, once. `address_of(member_id)` says where to dial, None if nobody knows.
    """

    def __init__(
        self,
        hello: Callable[[], Hello],
        key: bytes,
        handle: Handle,
        address_of: Callable[[str], tuple[str, int] | None],
        *,
        stats: Stats | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.handle = handle
        self.stats = stats or Stats()
        self._hello = hello
        self._key = key
        self._address_of = address_of
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._routes: dict[str, _Route] = {}
        self._links: set[Link] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_due = 0.0
        self._closing = False

    # -- calls

    def call(self, member_id: str, message: Message, deadline_s: float, done: Done) -> None:
        """Send `message`; `done` gets the reply, or an AtollError within about `deadline_s` from now.

        Unavailable (no connection, reset, deadline, overload) says nothing about whether the peer acted on
        the request. `done` is called exactly once, on the loop thread, after this returned, and for the same request of a
        client (`requestid`) as the call was made: what it sends then is caused by it, too.
        """
        request_id = CURRENT.get()
        route = self._routes.get(member_id)
        if route is not None and (link := route.link) is not None and not link.dead:
            link.call(message, self._loop.time() + deadline_s, done, request_id)
        else:
            self._wait(member_id, message, self._loop.time() + deadline_s, done, request_id)

    def _wait(self, member_id: str, message: Message, deadline: float, done: Done, request_id: str) -> None:
        """Queue a call behind a dial (P2)."""
        error: AtollError | None = None
        route = self._routes.get(member_id)
        if route is None:
            route = self._routes[member_id] = _Route()
        if self._closing:
            error = Unavailable("this peer is shutting down")
        elif route.dialling is None and route.error is not None and self._loop.time() < route.retry_at:
            error = again(route.error)
        elif len(route.waiting) >= MAX_WAITING:
            self.stats.calls_overloaded += 1
            error = Unavailable(f"peer {member_id} has too many calls waiting for a connection")
        if error is not None:
            self._loop.call_soon(finish, done, error, request_id)
            return
        route.waiting.append((message, deadline, done, request_id))
        self.watch()
        if route.dialling is None:
            # A link outlives the request that needed it first, and hands its context on to all that comes in by it.
            dial = self._dial(member_id, route)
            route.dialling = self._loop.create_task(
                dial, name=f"dial {member_id}", context=contextvars.Context()
            )

    async def call_address(self, host: str, port: int, message: Message, deadline_s: float) -> list[Any]:
        """One call to whoever answers at an address, for joining; who does not even greet is given up after DIAL_TIMEOUT_S.
        Raises AtollError as `done` gets it.

        Refused with code Self means that the address is this peer's own.
        """
        deadline = self._loop.time() + deadline_s
        found = (n for n in self._links if n.address == (host, port) and not n.dead)
        link = next(found, None) or await self._open_to((host, port), "", min(DIAL_TIMEOUT_S, deadline_s))
        answer: asyncio.Future[list[Any] | AtollError] = self._loop.create_future()
        link.call(message, deadline, lambda result: None if answer.done() else answer.set_result(result))
        try:
            result = await answer
        finally:
            if self._is_anonymous(link) and not link.pending:
                link.close(None)
        if isinstance(result, AtollError):
            raise result
        return result

    async def answers(self, host: str, port: int, member_id: str, timeout_s: float) -> bool | None:
        """Whether this member is the one that answers at an address; None if nobody says anything there: it may be frozen,
        or cut off."""
        try:
            await self._open_to((host, port), member_id, timeout_s)
        except Refused as error:
            return error.code == "Busy"  # said only to whom it would talk to otherwise
        except (NobodyThere, ProtocolError):
            return False
        except AtollError:
            return None
        return True

    # -- links

    async def _dial(self, member_id: str, route: _Route) -> None:
        try:
            address = self._address_of(member_id)
            if address is None:
                raise Unavailable(f"no address is known for peer {member_id}")
            await self._open_to(address, member_id, DIAL_TIMEOUT_S)
        except Exception as e:  # whatever it is, who waits is told
            if not isinstance(e, AtollError):
                log.exception("dialling peer %s failed", member_id)
                e = Unavailable(f"dialling peer {member_id} failed inside this peer; its log says why")
            route.failures += 1
            route.error = e
            pause = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(route.failures - 1, 10))
            route.retry_at = self._loop.time() + pause * (0.5 + self._jitter() / 2)
            if route.link is None:  # else the peer dialled us meanwhile, and took the waiting calls
                self._fail_waiting(route, e)
        finally:
            route.dialling = None

    async def _open_to(self, address: tuple[str, int], wanted: str, timeout_s: float) -> Link:
        self.stats.dials += 1
        try:
            sock, session = await connect(
                address, key=self._key, hello=self._hello, kind="calls", wanted=wanted, timeout_s=timeout_s
            )
            return await self._adopt(sock, session, address)
        except AtollError:
            self.stats.dial_failures += 1
            raise

    def room(self) -> AtollError | None:
        """For the listener: why no further call link is taken now."""
        if self._closing or len(self._links) >= MAX_LINKS:
            return Refused("this peer takes no more connections now", code="Busy")
        return None

    async def accept(self, sock: socket.socket, session: Session) -> None:
        """An inbound connection of kind calls; takes the socket over."""
        await self._adopt(sock, session, None)

    async def _adopt(self, sock: socket.socket, session: Session, address: tuple[str, int] | None) -> Link:
        link = Link(session, self, self._loop, address)
        try:
            await self._loop.connect_accepted_socket(lambda: link, sock)
        except BaseException as e:
            sock.close()
            if isinstance(e, OSError):
                raise Unavailable(f"the connection with {session.where} broke: {e}") from None
            raise
        if self._closing:
            link.abort(Unavailable("this peer is shutting down"))
        return link

    @staticmethod
    def _is_anonymous(link: Link) -> bool:
        return not link.peer_id or not link.session.mine.member_id

    def opened(self, link: Link) -> None:
        """A link is up: choose which one carries new calls, and send what waited."""
        self._links.add(link)
        self.stats.links = len(self._links)
        if self._is_anonymous(link):
            return
        route = self._routes.setdefault(link.peer_id, _Route())
        for old in list(route.links):
            if old.session.theirs.boot != link.session.theirs.boot:  # P3
                route.links.remove(old)
                old.abort(Unavailable(f"peer {link.peer_id} restarted"))
        route.links.append(link)
        route.failures = 0
        route.error = None
        self._choose(route)
        waiting, route.waiting = route.waiting, deque()
        for message, deadline, done, request_id in waiting:
            (route.link or link).call(message, deadline, done, request_id)

    def _choose(self, route: _Route) -> None:
        """P1. Links are kept in the order in which they opened."""
        live = [n for n in route.links if not n.dead and not n.retired]
        preferred = [n for n in live if n.dialler == min(n.peer_id, n.session.mine.member_id)] or live
        route.link = preferred[-1] if preferred else None
        for link in live:
            if link is not route.link:
                link.retire()

    def lost(self, link: Link) -> None:
        """A link is gone; its calls have failed."""
        self._links.discard(link)
        self.stats.links = len(self._links)
        route = self._routes.get(link.peer_id)
        if route is None or link not in route.links:
            return
        route.links.remove(link)
        if route.link is link:
            self._choose(route)
        if not route.links and not route.waiting and route.dialling is None:
            self._routes.pop(link.peer_id)

    def connected(self, member_id: str) -> bool:
        """Whether a link is up now."""
        route = self._routes.get(member_id)
        return route is not None and route.link is not None and not route.link.dead

    def heard_of(self, member_id: str) -> None:
        """Gossip says that the peer is back: the next call dials at once, whatever the backoff says."""
        route = self._routes.get(member_id)
        if route is not None:
            route.retry_at = 0.0
            route.failures = 0

    def forget(self, member_id: str) -> None:
        """The peer is no longer a member: close its links; calls in flight fail."""
        route = self._routes.pop(member_id, None)
        if route is None:
            return
        error = Unavailable(f"peer {member_id} is no longer a member")
        if route.dialling is not None:
            route.dialling.cancel()
        self._fail_waiting(route, error)
        for link in list(route.links):
            link.close(error)

    # -- deadlines

    def watch(self) -> None:
        """Keep sweeping while anything is pending."""
        if self._sweeper is None:
            self._sweep_due = self._loop.time() + SWEEP_INTERVAL_S
            self._sweeper = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._loop.time()
        if now - self._sweep_due > SWEEP_INTERVAL_S:
            # The loop was late. Replies may be waiting in the sockets: let them in before judging anyone.
            self.watch()
            return
        busy = False
        for link in list(self._links):
            if link.pending:
                link.expire(now)
                busy = busy or bool(link.pending)
        for member_id, route in list(self._routes.items()):
            if route.waiting:
                self._expire_waiting(member_id, route, now)
                busy = busy or bool(route.waiting)
        if busy:
            self.watch()

    def _expire_waiting(self, member_id: str, route: _Route, now: float) -> None:
        kept: deque[tuple[Message, float, Done, str]] = deque()
        late: list[Waiter] = []
        for waiting in route.waiting:
            if waiting[1] <= now:
                late.append(waiting[2:])
            else:
                kept.append(waiting)
        route.waiting = kept
        self.stats.calls_timed_out += len(late)
        fail(late, Unavailable(f"no connection to peer {member_id} in time"), self._loop)

    def _fail_waiting(self, route: _Route, error: AtollError) -> None:
        waiting, route.waiting = route.waiting, deque()
        fail((one[2:] for one in waiting), error, self._loop)

    # -- the end

    def in_flight(self) -> int:
        """Calls without an answer now, those waiting for a dial included."""
        return sum(len(n.pending) for n in self._links) + sum(len(r.waiting) for r in self._routes.values())

    async def close(self) -> None:
        """Write what is queued, close every link, fail what is in flight. Idempotent."""
        self._closing = True
        error = Unavailable("this peer is shutting down")
        tasks = [r.dialling for r in self._routes.values() if r.dialling is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for route in self._routes.values():
            self._fail_waiting(route, error)
        links = list(self._links)
        for link in links:
            link.close(error)
        if links:
            await asyncio.wait([n.closed for n in links], timeout=CLOSE_TIMEOUT_S)
        left = list(self._links)
        for link in left:
            link.abort(error)
        if left:
            await asyncio.wait([link.closed for link in left], timeout=CLOSE_TIMEOUT_S)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await asyncio.sleep(0)  # let the failed calls' `done` run
