"""Where the screens' events come from: a cluster, or a recording of one.

A source also has the client for what the user does: looking up keys, draining peers, browsing objects. It is the public
client, which goes on at another peer by itself.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # loading it takes as long as the first picture, which does not wait for it
    from peer.client import AsyncClient, Event

Keys = tuple[str, str]
WAIT_S = 0.1


class Source(Protocol):
    """Events, for ever, and the client."""

    def events(self) -> AsyncIterator[Event]: ...

    def client(self) -> AsyncClient | None:
        """None while there are no credentials yet, and for recordings."""
        ...

    async def close(self) -> None: ...


class Live:
    """A running cluster. `keys()` gives access and secret key, None while they do not exist yet (`atoll dev` founds)."""

    def __init__(
        self,
        endpoints: Sequence[str],
        keys: Callable[[], Keys | None],
        *,
        pinned: bool = False,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
    ) -> None:
        self._endpoints = list(endpoints)
        self._keys = keys
        self._pinned = pinned
        self._tls = tls
        self._client: AsyncClient | None = None

    async def events(self) -> AsyncIterator[Event]:
        """Raises Denied when the credentials are refused."""
        while (client := self.client()) is None:  # noqa: ASYNC110 (a file that another process writes)
            await asyncio.sleep(WAIT_S)
        async with aclosing(client.events()) as events:  # type: ignore[type-var]
            async for event in events:
                yield event

    def client(self) -> AsyncClient | None:
        if self._client is None and (keys := self._keys()) is not None:
            from peer.client import AsyncClient

            self._client = AsyncClient(
                self._endpoints, access_key=keys[0], secret_key=keys[1], pin=self._pinned, tls=self._tls()
            )
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


class Recorded:
    """A recording (`atoll events --record FILE`), played at `speed` times its pace; with 0 all at once."""

    def __init__(self, path: Path, *, speed: float = 1.0) -> None:
        self._path = path
        self._speed = speed

    async def events(self) -> AsyncIterator[Event]:
        before_s = 0.0
        for at_s, event in recorded(self._path):
            if self._speed:
                await asyncio.sleep(max(0.0, at_s - before_s) / self._speed)
            before_s = at_s
            yield event
        await asyncio.Event().wait()  # what was shown last stays, and grows old

    def client(self) -> None:
        return None

    async def close(self) -> None:
        return None


def recorded(path: Path) -> Iterator[tuple[float, Event]]:
    """Seconds since the recording began, and what was told then. Raises ValueError naming the line that makes no sense."""
    from peer.client import Event

    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                told = json.loads(line)
                yield float(told["at"]), Event(str(told["event"]), dict(told["data"]))
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}, line {number}: this is no recorded event") from None
