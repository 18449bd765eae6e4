"""The peers a client knows, and which of them to ask next. No I/O; the clock comes from outside.

Configured endpoints are never forgotten. Others are learned from GET /v1/cluster and replaced by
what a later answer says. A peer that failed is left alone for a while that doubles (0.5 to 30 s),
but is still asked when nobody better is left, so a client never locks itself out.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from urllib.parse import urlsplit

from peer.client.model import NodeInfo
from peer.errors import Invalid

MAX_PEERS = 1000
"""More than a client needs for spreading; bounds what a strange answer can make it keep."""
FIRST_PAUSE_S = 0.5
COSTLY = 5.0
"""A peer that took so long to be of no use is left alone for this many times as long, if there are others."""
LONGEST_PAUSE_S = 30.0
HOST_CHARACTERS = 253
_LABEL = re.compile(r"\w([\w-]{0,61}\w)?")


def _is_host(text: str) -> bool:
    """Whether this can be a host's name or address. Letters of any script: resolvers encode them."""
    if ":" in text:
        with suppress(ValueError):
            return bool(ip_address(text))
        return False
    labels = text.removesuffix(".").split(".")
    return len(text) <= HOST_CHARACTERS and all(_LABEL.fullmatch(label) for label in labels)


def normal_url(url: str) -> str:
    """`http://host:port` of an endpoint, or Invalid with what is wrong about it."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError as problem:
        raise Invalid(f"{url!r} is not an endpoint: {problem}", code="InvalidEndpoint") from None
    if parts.scheme not in ("http", "https") or not _is_host(host) or port == 0:
        raise Invalid(
            f"{url!r} is not an endpoint; it looks like http://127.0.0.1:7401", code="InvalidEndpoint"
        )
    if parts.username or parts.password or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Invalid(
            f"{url!r}: an endpoint is only scheme, host and port, as in http://127.0.0.1:7401",
            code="InvalidEndpoint",
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port or (443 if parts.scheme == 'https' else 80)}"


@dataclass(slots=True)
class _Peer:
    url: str
    configured: bool
    usable: bool = True
    silent: bool = False
    failures: int = 0
    not_before: float = 0.0
    in_flight: int = 0
    turn: int = 0


class PeerBook:
    """Thread-safe. `pick` and `done` come in pairs, so that the least busy peer is known."""

    def __init__(
        self, endpoints: Sequence[str], *, pinned: bool, clock: Callable[[], float], rng: Random
    ) -> None:
        if not endpoints:
            raise Invalid("a client needs at least one endpoint", code="InvalidEndpoint")
        self._clock = clock
        self._lock = threading.Lock()
        self._turns = 0
        self.pinned = pinned
        self._peers = {url: _Peer(url, configured=True) for url in map(normal_url, endpoints)}
        # Every short-lived program starts elsewhere, or the first peer of a profile would serve them all.
        order = list(self._peers.values())
        rng.shuffle(order)
        for turn, peer in enumerate(order, 1 - len(order)):
            peer.turn = turn
        # Secrets that were meant for TLS must not travel in the clear because a peer says so.
        self._only_tls = all(url.startswith("https:") for url in self._peers)

    def urls(self) -> list[str]:
        """All known peers, configured ones first."""
        with self._lock:
            return [peer.url for peer in self._peers.values()]

    def promising(self) -> set[str]:
        """Peers that are not known to be dead, suspected, leaving or silent; all of them when there is no such peer."""
        with self._lock:
            usable = {peer.url for peer in self._peers.values() if peer.usable and not peer.silent}
            return usable or set(self._peers)

    def others_answer(self, url: str) -> bool:
        """Whether there is a peer besides this one that nothing is held against."""
        now = self._clock()
        with self._lock:
            return any(
                peer.usable and not peer.silent and peer.not_before <= now
                for peer in self._peers.values()
                if peer.url != url
            )

    def silent(self, url: str, is_silent: bool) -> None:
        """A peer answers nothing, not even a probe, or it does again (`pulse`)."""
        with self._lock:
            peer = self._peers.get(url)
            if peer is not None:
                peer.silent = is_silent
                if not is_silent:
                    peer.failures, peer.not_before = 0, 0.0

    def learn(self, nodes: Iterable[NodeInfo]) -> None:
        """Take over the addresses and liveness of an answer; a pinned client keeps to its endpoint."""
        if self.pinned:
            return
        told: dict[str, bool] = {}
        for node in nodes:
            try:
                url = normal_url(node.api_url)
            except Invalid:
                continue  # a peer whose API address is not known (yet)
            if url.startswith("https:") or not self._only_tls:
                told[url] = told.get(url, False) or node.usable
        with self._lock:
            for url in [u for u, p in self._peers.items() if not p.configured and u not in told]:
                del self._peers[url]
            for url, usable in told.items():
                if url in self._peers:
                    self._peers[url].usable = usable
                elif len(self._peers) < MAX_PEERS:
                    self._peers[url] = _Peer(url, configured=False, usable=usable)

    def pick(self, preferred: Collection[str] = (), tried: Collection[str] = ()) -> str:
        """The peer to ask next: untried, not silent, healthy, preferred, least busy, longest unused, in that order."""
        now = self._clock()

        def rank(peer: _Peer) -> tuple[bool, bool, bool, bool, int, int]:
            resting = not peer.usable or peer.not_before > now
            preferable = peer.url in preferred
            return (peer.url in tried, peer.silent, resting, not preferable, peer.in_flight, peer.turn)

        with self._lock:
            peer = min(self._peers.values(), key=rank)
            self._turns += 1
            peer.turn = self._turns
            peer.in_flight += 1
            return peer.url

    def done(self, url: str, *, worked: bool | None, cost_s: float = 0.0) -> None:
        """The request to `url` is over: it answered (True), was no use (False) and took `cost_s`, or was given up (None)."""
        with self._lock:
            peer = self._peers.get(url)
            if peer is None:
                return  # forgotten meanwhile
            peer.in_flight = max(0, peer.in_flight - 1)
            if worked:
                peer.failures, peer.not_before = 0, 0.0
            elif worked is False:
                pause = min(
                    max(FIRST_PAUSE_S, COSTLY * cost_s) * 2 ** min(peer.failures, 10), LONGEST_PAUSE_S
                )
                peer.failures += 1
                peer.not_before = self._clock() + pause
