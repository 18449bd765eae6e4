"""The feed's requests, through the public client: one pinned client a peer, short patience."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from types import TracebackType

from peer.client import AsyncClient, AtollError, Denied
from tui.feed import FeedError, Json, within

DEADLINE_S = 2.0
Credentials = Callable[[], tuple[str, str] | None]  # access key and secret; None while there are none


class Requests:
    """Asks one named peer at a time; an async context manager.

    Failing over is the feed's business and not the client's, because a view must say whose it is.
    """

    def __init__(
        self, credentials: Credentials, *, tls: ssl.SSLContext | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self._credentials = credentials
        self._tls = tls
        self._deadline_s = deadline_s
        self._clients: dict[str, AsyncClient] = {}

    async def __aenter__(self) -> Requests:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._clients:
            await self._clients.popitem()[1].close()

    async def get(self, endpoint: str, what: str) -> Json:
        """`what` is "cluster" or "ring". Raises FeedError."""
        client = self._client(endpoint)
        try:
            return await within(self._deadline_s, _raw(client, what))
        except Denied:
            raise FeedError("refuses these credentials (access_key and secret_key of the profile)") from None
        except AtollError as error:
            raise FeedError(str(error)) from None

    def _client(self, endpoint: str) -> AsyncClient:
        client = self._clients.get(endpoint)
        if client is None:
            keys = self._credentials()
            if keys is None:
                raise FeedError("starting: there are no credentials yet")
            client = self._clients[endpoint] = AsyncClient(
                endpoint, access_key=keys[0], secret_key=keys[1], pin=True, patience_s=0.0, tls=self._tls
            )
        return client


async def _raw(client: AsyncClient, what: str) -> Json:
    return await client.ring() if what == "ring" else (await client.cluster()).raw
