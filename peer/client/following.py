"""Following what happens in a cluster: GET /v1/events of one peer, and of the next one when it falls silent.

A peer says something at least once a second, so silence for `SILENCE_S` means that it is dead, frozen or out of reach.
What was told before stands until the next peer has told its states anew, which it does first.

Besides the events of the API (docs/protocols.md) two are made here, so that whoever follows can say whose view it is:
`connected` {"url", "before", "why"} before the first event of another peer (`before` and `why` are None the first time), and
`unreachable` {"failures": [[url, why], ...]} when nobody answered; then all are asked again, for ever.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from peer.client.model import NodeInfo
from peer.client.peers import normal_url
from peer.client.wire import Repeat, Request
from peer.errors import AtollError, Corrupt, Denied, Invalid

SILENCE_S = 1.6
"""A heartbeat comes every second; a little more than half of one is for a busy peer and the way."""
FIRST_S = 1.6
"""So long may the head of the answer take."""
AGAIN_S = 0.5
"""Between two rounds in which nobody answered."""
WHY_MOST = 500
"""Characters of a reason: one that ends with what to do has about 300."""
EVENT_BYTES_MOST = 32 << 20
CONNECTED, UNREACHABLE = "connected", "unreachable"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was told: `kind` as in docs/protocols.md, `data` its JSON."""

    kind: str
    data: Mapping[str, Any]


class Silent(Exception):  # never seen by users
    """A peer could not be followed (any longer); `str()` says why in a few words."""


Stream = Callable[[str], AsyncIterator[Event]]
"""The events of one peer, by its address; raises Silent, or an AtollError that is an answer (Denied)."""


class Parser:
    """Bytes of an event stream in, events out (WHATWG HTML 9.2.6, of which a peer uses `event`, `data` and comments)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that `piece` completes. Raises Corrupt for one that is no JSON, or too long."""
        self._buffer += piece
        while (end := self._buffer.find(b"\n\n")) >= 0:
            block = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            if (event := self._event(block)) is not None:
                yield event
        if len(self._buffer) > EVENT_BYTES_MOST:
            raise Corrupt(f"an event of more than {EVENT_BYTES_MOST} bytes; is this an Atoll peer?")

    @staticmethod
    def _event(block: bytes) -> Event | None:
        kind, data = "message", b""
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            if name == b"event":
                kind = value.strip().decode("utf-8", "replace")
            elif name == b"data":
                data += value.removeprefix(b" ")
        if not data:
            return None  # a comment, or how soon to try again
        try:
            told = json.loads(data)
        except ValueError:
            raise Corrupt(f"the event {kind[:40]!r} is not JSON") from None
        return Event(kind, told if isinstance(told, dict) else {"value": told})


class Following:
    """Whom to follow next. `stream` opens one peer's events; the clockwork (`pause`) comes from outside."""

    def __init__(
        self,
        urls: Collection[str],
        stream: Stream,
        *,
        pinned: bool = False,
        pause: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._urls = [normal_url(url) for url in urls]
        self._only_tls = all(url.startswith("https:") for url in self._urls)
        self._stream = stream
        self._pinned = pinned
        self._pause = pause
        self._doubtful: frozenset[str] = frozenset()
        self._last: str | None = None

    async def events(self) -> AsyncIterator[Event]:
        """All events, for ever. Raises Denied or Invalid when a peer refuses and no other one does better."""
        why: str | None = None
        short = 0  # streams in a row that broke as soon as they had begun
        clock = asyncio.get_running_loop().time
        while True:
            failures: list[tuple[str, str]] = []
            refusal: AtollError | None = None
            for url in self._order():
                begun, began_s = False, clock()
                try:
                    async with aclosing(self._stream(url)) as events:  # type: ignore[type-var]
                        async for event in events:
                            if not begun:
                                begun = True
                                reason = why if self._last is not None else None
                                yield Event(CONNECTED, {"url": url, "before": self._last, "why": reason})
                                self._last = url
                            self._learn(event)
                            yield event
                    why = "it ended the stream"
                except Silent as silent:
                    why = str(silent)
                except (Denied, Invalid) as error:
                    refusal, why = error, str(error)
                except AtollError as error:
                    why = str(error)
                if begun:  # it was alive a moment ago: look who is, and begin anew
                    short = short + 1 if clock() - began_s < AGAIN_S else 0
                    if short > len(self._urls):
                        await self._pause(AGAIN_S)
                    break
                failures.append((url, why))
            else:
                if refusal is not None:
                    raise refusal  # whoever is away would say the same
                yield Event(UNREACHABLE, {"failures": [list(failure) for failure in failures]})
                await self._pause(AGAIN_S)

    def _order(self) -> list[str]:
        """Those that live first; the one that was lost just now last."""
        return sorted(self._urls, key=lambda url: (url == self._last, url in self._doubtful))

    def _learn(self, event: Event) -> None:
        if event.kind != "cluster" or self._pinned:
            return
        known = {}
        for node in map(NodeInfo.from_json, _mappings(event.data.get("nodes"))):
            with suppress(Invalid):  # an address that is not known (yet)
                known[normal_url(node.api_url)] = node.usable
        if (
            self._only_tls
        ):  # credentials that were meant for TLS must not travel in the clear because a peer says so
            known = {url: usable for url, usable in known.items() if url.startswith("https:")}
        self._doubtful = frozenset(url for url, usable in known.items() if not usable)
        self._urls += [url for url in known if url not in self._urls]
        if len(self._urls) > 2 * len(known) + 8:  # addresses of members that are long gone
            self._urls = list(known)  # (of those that were given, too)


def events_request(types: Iterable[str]) -> Request:
    """GET /v1/events. Raises Invalid for a type that cannot be one."""
    types = list(types)
    if bad := [kind for kind in types if not kind.isidentifier()]:
        raise Invalid(f"{bad[0][:40]!r} is no type of events")
    query = f"?{urlencode({'types': ','.join(types)})}" if types else ""
    return Request("GET", f"/v1/events{query}", "events", Repeat.FREELY)


def in_short(problem: Exception) -> str:
    """Why a connection failed or ended, in a few words."""
    cause = getattr(problem, "os_error", problem)
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, TimeoutError):
        return f"no answer within {FIRST_S:g} s"
    if isinstance(cause, ConnectionError | EOFError) or "payload is not completed" in str(cause):
        return "the connection broke"
    return str(getattr(cause, "strerror", None) or cause)[:WHY_MOST] or type(cause).__name__


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
