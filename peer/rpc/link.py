"""One call connection between two peers: many requests in flight, both ways, few system calls.

Everything sent in one turn of the loop goes out as one write, sealed once. A request is a callback, not
a task: `handle(sender, body, reply)` on one side, `done(result)` on the other. Deadlines are swept
together by `Peers`, not timed one by one.

    L1  `done` is called exactly once for every call, on the loop thread, never before `call` returned.
    L2  losing the connection fails every call in flight at once.
    L3  a request received is answered at most once, and only over the connection it came on.
    L4  a link is closed early only when both sides have said GOODBYE (no more requests from me) and no
        request is open either way: replacing one link by another loses no call.
    L5  calls in flight, requests owed and bytes queued are bounded; beyond that calls fail at once
        (Unavailable), and a peer that reads nothing while demanding more is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Protocol, cast

from peer.errors import AtollError, Invalid, ProtocolError, Unavailable
from peer.requestid import CURRENT, told
from peer.rpc import frames
from peer.rpc.frames import FAILED, GOODBYE, REPLY, REQUEST
from peer.rpc.hello import Session
from peer.rpc.stats import Stats

Message = tuple[Any, ...]
Done = Callable[["list[Any] | AtollError"], None]
Reply = Callable[["Message | AtollError"], None]
Handle = Callable[[str, "list[Any]", Reply], None]
Waiter = tuple[Done, str]
"""Who waits for a reply, and for which request of a client."""

MAX_IN_FLIGHT: Final = 4096  # calls without a reply, per link
MAX_OWED: Final = 4096  # requests not answered yet, per link
HIGH_WATER_BYTES: Final = 4 << 20  # queued for a slow reader: beyond it our calls fail at once
LOW_WATER_BYTES: Final = 1 << 20
HARD_LIMIT_BYTES: Final = 32 << 20  # replies included: beyond it the connection is cut
RETIRED_MOST_S: Final = 60.0  # a replaced link whose last replies never come is closed all the same

log = logging.getLogger(__name__)


class Owner(Protocol):
    """What a link needs from `Peers`."""

    stats: Stats
    handle: Handle

    def opened(self, link: Link) -> None: ...
    def lost(self, link: Link) -> None: ...
    def watch(self) -> None:
        """A call is pending: keep sweeping deadlines."""


class Link(asyncio.Protocol):
    """See the module's text. Created by `Peers` once the hellos are exchanged."""

    def __init__(
        self, session: Session, owner: Owner, loop: asyncio.AbstractEventLoop, address: tuple[str, int] | None
    ) -> None:
        self.session = session
        self.peer_id = session.theirs.member_id
        self.address = address  # as dialled; None for inbound
        self.closed: asyncio.Future[None] = loop.create_future()
        self.dead = False
        self.pending: dict[int, tuple[float, Done, str]] = {}  # by id: deadline (loop time), and the waiter
        self._owner = owner
        self._stats = owner.stats
        self._loop = loop
        self._send_cipher = session.send
        self._reader = frames.Reader(session.receive)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._queued_bytes = 0
        self._paused = False
        self._next_id = 0
        self._unanswered = 0  # requests sent minus replies received, late ones included
        self._owed: set[int] = set()
        self._we_said_goodbye = False
        self._they_said_goodbye = False
        self._overdue: asyncio.TimerHandle | None = None
        self._takes_ids = session.takes_request_ids

    # -- calls

    def call(self, body: Message, deadline: float, done: Done, request_id: str = "") -> None:
        """Send a request; `deadline` in loop time. See L1. Invalid for what no frame can carry. `request_id`: for which
        request of a client."""
        if (
            self.dead
            or self._paused
            or self._queued_bytes > HIGH_WATER_BYTES
            or len(self.pending) >= MAX_IN_FLIGHT
        ):
            return self._reject(done, request_id)
        try:
            if request_id and self._takes_ids:
                packed = pack_message((REQUEST, self._next_id, body, request_id))
            else:
                packed = pack_message((REQUEST, self._next_id, body))
        except Invalid as e:
            self._loop.call_soon(finish, done, e, request_id)
            return None
        self.pending[self._next_id] = (deadline, done, request_id)
        self._next_id += 1
        self._unanswered += 1
        self._stats.calls += 1
        self._owner.watch()
        self._send(packed)
        return None

    def _reject(self, done: Done, request_id: str) -> None:
        if self.dead:
            error = Unavailable(f"the connection to peer {self.peer_id} was lost")
        else:
            self._stats.calls_overloaded += 1
            error = Unavailable(f"peer {self.peer_id} has too many calls waiting")
        self._loop.call_soon(finish, done, error, request_id)

    def expire(self, now: float) -> None:
        """Fail the calls whose deadline has passed."""
        late = [i for i, (deadline, _, _) in self.pending.items() if deadline <= now]
        for call_id in late:
            _, done, request_id = self.pending.pop(call_id)
            self._stats.calls_timed_out += 1
            finish(done, Unavailable(f"peer {self.peer_id} did not answer in time"), request_id)
        if late:
            self._close_if_idle()

    # -- out

    def _send(self, packed: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        self._queued_bytes += len(packed)

    def _flush(self) -> None:
        out = self._out
        transport = self._transport
        if not out or transport is None:
            return
        size = self._queued_bytes
        self._out = []
        self._queued_bytes = 0
        if self.dead:
            return
        if transport.get_write_buffer_size() + size > HARD_LIMIT_BYTES:
            self.abort(Unavailable(f"peer {self.peer_id} does not read what it is sent"))
            return
        if size <= frames.FRAME_TARGET_BYTES and len(out) < frames.MAX_ITEMS:
            data = frames.seal(self._send_cipher, frames.join(out))
        else:
            data = b"".join(frames.seal(self._send_cipher, frames.join(b)) for b in frames.batches(out))
        self._stats.bytes_out += len(data)
        self._stats.writes += 1
        transport.write(data)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    # -- in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        self._stats.bytes_in += len(data)
        try:
            for plain in self._reader.feed(data):
                for message in frames.split(plain):
                    self._receive(message)
                    if self.dead:
                        return
        except AtollError as e:
            self._stats.malformed += 1
            CURRENT.set("")
            log.warning("closing the connection with %s: %s", self.session.where, e)
            self.abort(Unavailable(f"peer {self.peer_id} broke the protocol: {e}"))

    def _receive(self, message: Any) -> None:
        request_id = ""
        if type(message) is list and len(message) == 3:
            kind, call_id, body = message
        elif type(message) is list and len(message) == 4 and message[0] == REQUEST:
            kind, call_id, body, request_id = message
            request_id = told(request_id)
        else:
            raise ProtocolError("a message is not [kind, id, body]")
        if type(call_id) is not int:
            raise ProtocolError("a message's id is no number")
        if kind == REPLY:
            if type(body) is not list:
                raise ProtocolError("a reply is not a list")
            self._answered(call_id, body)
        elif kind == REQUEST:
            self._request(call_id, body, request_id)
        elif kind == FAILED:
            self._answered(call_id, frames.restore(body))
        elif kind == GOODBYE:
            self._they_said_goodbye = True
            self._close_if_idle()
        else:
            raise ProtocolError(f"a message of unknown kind {kind!r}"[:80])

    def _answered(self, call_id: int, result: list[Any] | AtollError) -> None:
        if not 0 <= call_id < self._next_id:
            raise ProtocolError("a reply to a request never sent")
        self._unanswered -= 1
        waiting = self.pending.pop(call_id, None)
        if waiting is not None:  # else it comes after its deadline
            finish(waiting[1], result, waiting[2])
        if self._we_said_goodbye:
            self._close_if_idle()

    def _request(self, call_id: int, body: Any, request_id: str) -> None:
        if type(body) is not list or call_id in self._owed:
            raise ProtocolError("a request is not a list, or reuses the id of an open one")
        self._stats.requests += 1
        if len(self._owed) >= MAX_OWED:
            error = Unavailable("this peer has too many requests waiting")
            self._send(frames.pack((FAILED, call_id, frames.describe(error))))
            return
        self._owed.add(call_id)
        CURRENT.set(request_id)  # until the next message: whatever comes in by a link sets its own
        try:
            self._owner.handle(self.peer_id, body, partial(self._reply, call_id))
        except AtollError as e:
            self._reply(call_id, e)
        except Exception:
            log.exception("a request from peer %s failed", self.peer_id)
            self._reply(call_id, Unavailable("the peer failed while handling the request"))

    def _reply(self, call_id: int, body: Message | AtollError) -> None:
        """Answer a request (L3); a no-op when the connection is gone or an answer was given."""
        if self.dead or call_id not in self._owed:
            return
        self._owed.discard(call_id)
        if isinstance(body, AtollError):
            packed = frames.pack((FAILED, call_id, frames.describe(body)))
        else:
            try:
                packed = pack_message((REPLY, call_id, body))
            except Invalid as e:
                log.error("a reply to peer %s was not sent: %s", self.peer_id, e)
                error = ProtocolError(f"the reply cannot be sent: {e}")
                packed = frames.pack((FAILED, call_id, frames.describe(error)))
        self._send(packed)
        if self._we_said_goodbye:
            self._close_if_idle()

    # -- the end

    @property
    def dialler(self) -> str:
        """The member id of the side that dialled."""
        return self.session.mine.member_id if self.session.dialled else self.peer_id

    @property
    def retired(self) -> bool:
        """Whether we have promised to send no more requests over it."""
        return self._we_said_goodbye

    def retire(self) -> None:
        """Another link has taken over: say GOODBYE, serve what is open, close when idle (L4)."""
        if not self._we_said_goodbye and not self.dead:
            self._we_said_goodbye = True
            self._send(frames.pack((GOODBYE, 0, None)))
            self._overdue = self._loop.call_later(RETIRED_MOST_S, self._retired_for_long)
            self._close_if_idle()

    def _retired_for_long(self) -> None:
        """Neither side has used the link for long, but some reply never came: close it all the same."""
        if self._they_said_goodbye:
            self.close(None)
        else:  # they still use it, having no other
            self._overdue = self._loop.call_later(RETIRED_MOST_S, self._retired_for_long)

    def _close_if_idle(self) -> None:
        if (
            self._we_said_goodbye
            and self._they_said_goodbye
            and not self.pending
            and not self._owed
            and not self._unanswered
        ):
            self.close(None)

    def close(self, why: AtollError | None) -> None:
        """Write what is queued, then close; calls in flight fail with `why`."""
        if self.dead:
            return
        self._flush()
        self._die(why)
        if self._transport is not None:
            self._transport.close()

    def abort(self, why: AtollError) -> None:
        """Close without writing what is queued."""
        self._die(why)
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._die(None)
        if self._overdue is not None:
            self._overdue.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        self._owner.lost(self)

    def _die(self, why: AtollError | None) -> None:
        if self.dead:
            return
        self.dead = True
        self._out.clear()
        self._owed.clear()
        pending, self.pending = self.pending, {}
        if not pending:
            return
        self._stats.calls_lost += len(pending)
        error = why or Unavailable(f"the connection to peer {self.peer_id} was lost")
        fail(((done, request_id) for _, done, request_id in pending.values()), error, self._loop)


def pack_message(message: Message) -> bytes:
    """One message of a frame. Raises Invalid for a body too large, or of a type that msgpack lacks."""
    try:
        packed = frames.pack(message)
    except (TypeError, ValueError, OverflowError) as e:
        raise Invalid(f"a message cannot be packed: {e}") from None
    if len(packed) > frames.MAX_MESSAGE_BYTES:
        raise Invalid(f"a message of {len(packed)} bytes; peers take up to {frames.MAX_MESSAGE_BYTES}")
    return packed


def finish(done: Done, result: list[Any] | AtollError, request_id: str) -> None:
    """Hand a result to its waiter; one that raises is logged and harms no other. What it does now is for the request that it
    called for, too."""
    CURRENT.set(request_id)
    try:
        done(result)
    except Exception:
        log.exception("a call's completion failed")


def fail(waiters: Iterable[Waiter], error: AtollError, loop: asyncio.AbstractEventLoop) -> None:
    """Tell every waiter, each its own copy, once the current callback is done (L1)."""
    for done, request_id in waiters:
        loop.call_soon(finish, done, frames.again(error), request_id)
