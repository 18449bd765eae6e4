"""Which peers have fallen silent, found out in about a second. No I/O here; the clock comes from outside.

A peer that dies says so: its connections break. One that is frozen, or whose packets vanish, says nothing, and neither does
one that is only busy with a long request. So a request that waits for SILENT_S at a peer of which nothing else is heard
either has the peer asked for its health, on a connection of its own: the **probe**. If that stays without an answer, too,
the peer is **silent**: whatever waits there is given up and goes on elsewhere, nothing new is sent there, and it is probed
again now and then, as long as there are requests, until it answers.

    L1  Nothing is given up while there is no other peer that is believed to answer: where all are slow, the network or this
        client is, and repeating would only add to it.
    L2  What cannot be repeated (a condition, a body that is gone) is never given up here; and nothing more than
        `attempts.MOST_GIVEN_UP` times. It then waits as long as its request says.
    L3  One probe at a time for each peer, and none without a request that waits or a silent peer that was passed over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from peer.client.peers import PeerBook
from peer.client.wire import Repeat, Request

SILENT_S = 0.4
"""A request that waits for longer makes us look whether its peer lives. Most answers take a tenth of that."""
PROBE_S = 0.6
"""How long a probe may take: a hundred times what it takes a busy peer."""
AGAIN_S = 1.0
"""The next look at a peer that answered, while a request still waits there."""
SILENT_AGAIN_S, SILENT_MOST_S = 0.5, 5.0
"""The next look at a peer that did not: at first, and at most."""
TICK_S = 0.1
"""How often to look at what waits."""
PROBE = Request("GET", "/health", "probe", Repeat.FREELY, silence_s=PROBE_S)


class Waiting:
    """One request at one peer. All calls are made by whoever runs the request, but for `give_up`."""

    __slots__ = ("_can_give_up", "_pulse", "_since_s", "give_up", "url")

    def __init__(self, pulse: Pulse, url: str, can_give_up: Callable[[], bool]) -> None:
        self._pulse = pulse
        self._can_give_up = can_give_up
        self._since_s: float | None = None
        self.url = url
        self.give_up: Callable[[], None] = lambda: None
        """Break off what the request waits for. Called at most once for each wait, by whoever looks after the pulse."""

    def expect(self) -> None:
        """From now on it is the peer's turn."""
        self._pulse.note(self, waits=True, heard=False)

    def moved(self) -> None:
        """The peer did something, and it is its turn still."""
        self._pulse.note(self, waits=True, heard=True)

    def rest(self) -> None:
        """The peer did its part; nothing is expected of it."""
        self._pulse.note(self, waits=False, heard=True)

    def waited_s(self, now: float) -> float:
        """For how long it has been the peer's turn."""
        return 0.0 if self._since_s is None else now - self._since_s

    def end(self) -> None:
        """The request is over, however it ended. Idempotent."""
        self._pulse.forget(self)


@dataclass(slots=True)
class _Peer:
    """What is known of one peer. `misses` are probes without an answer, in a row."""

    heard_s: float
    look_s: float = 0.0  # no probe before
    probing: bool = False
    misses: int = 0
    waiting: dict[Waiting, None] = field(default_factory=dict)


class Pulse:
    """Thread-safe. `look` says whom to probe; the caller does, and says with `probed` what came of it."""

    def __init__(self, book: PeerBook, clock: Callable[[], float]) -> None:
        self._book = book
        self._clock = clock
        self._lock = threading.Lock()
        self._peers: dict[str, _Peer] = {}
        self.on_wait: Callable[[], None] = lambda: None
        """Called when something waits or is passed over, and nobody may be looking."""

    def begin(self, url: str, can_give_up: Callable[[], bool]) -> Waiting:
        """A request goes to this peer."""
        waiting = Waiting(self, url, can_give_up)
        with self._lock:
            self._of(url).waiting[waiting] = None
        waiting.expect()
        self.on_wait()
        return waiting

    def note(self, waiting: Waiting, *, waits: bool, heard: bool) -> None:
        now = self._clock()
        waiting._since_s = now if waits else None
        if heard:
            peer = self._peers.get(waiting.url)
            if peer is not None:
                peer.heard_s = now
                if peer.misses:
                    self.probed(waiting.url, alive=True)

    def forget(self, waiting: Waiting) -> None:
        with self._lock:
            waiting.give_up = lambda: None
            waiting._since_s = None
            peer = self._peers.get(waiting.url)
            if peer is not None:
                peer.waiting.pop(waiting, None)
                if not peer.waiting and not peer.misses and not peer.probing:
                    del self._peers[waiting.url]

    @property
    def idle(self) -> bool:
        """Whether no request is under way, so that there is nothing to look at."""
        with self._lock:
            return not any(peer.waiting for peer in self._peers.values())

    def look(self) -> list[str]:
        """Give up what waits at silent peers. Returns the peers to probe now; `probed` must follow for each."""
        now = self._clock()
        known = self._book.urls()
        with self._lock:
            due = []
            for url in [url for url, peer in self._peers.items() if not peer.waiting and url not in known]:
                if not self._peers[url].probing:
                    del self._peers[url]  # it left the cluster while it was silent
            for url, peer in self._peers.items():
                late = [one for one in peer.waiting if one.waited_s(now) >= SILENT_S]
                if peer.misses and self._book.others_answer(url):
                    for one in late:
                        if one._can_give_up():  # L2
                            one._since_s = None
                            one.give_up()
                doubtful = bool(peer.misses) or (bool(late) and now - peer.heard_s >= SILENT_S)
                if doubtful and not peer.probing and now >= peer.look_s:
                    peer.probing = True
                    due.append(url)
            return due

    def probed(self, url: str, *, alive: bool) -> None:
        """A probe has ended. Also called when a silent peer is heard of otherwise."""
        now = self._clock()
        with self._lock:
            peer = self._of(url)
            peer.probing = False
            if alive:
                peer.heard_s, peer.misses, peer.look_s = now, 0, now + AGAIN_S
            else:
                peer.look_s = now + min(SILENT_AGAIN_S * 2**peer.misses, SILENT_MOST_S)
                peer.misses = min(peer.misses + 1, 10)
            if not peer.waiting and not peer.misses:
                del self._peers[url]
        self._book.silent(url, not alive)

    def _of(self, url: str) -> _Peer:
        return self._peers.setdefault(url, _Peer(self._clock()))
