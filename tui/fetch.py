"""One request of the terminal UI to one peer: JSON, bounded in time and size, failures in a few words."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import TracebackType

import aiohttp
from yarl import URL

from tui.feed import FeedError, Json

DEADLINE_S = 2.0
Credentials = Callable[[], tuple[str, str] | None]  # access key and secret; None while there are none


class Requests:
    """GETs JSON with the given credentials; an async context manager.

    Each request is to the endpoint named and no other: failing over is the feed's business, because a view
    must say whose it is.
    """

    def __init__(self, credentials: Credentials, deadline_s: float = DEADLINE_S) -> None:
        self._credentials = credentials
        self._deadline_s = deadline_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Requests:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._deadline_s))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, endpoint: str, path: str) -> Json:
        """The JSON object at `path`, or FeedError."""
        assert self._session is not None, "use `async with`"
        keys = self._credentials()
        if keys is None:
            raise FeedError("starting: there are no credentials yet")
        headers = {"Authorization": f"Bearer {keys[0]}:{keys[1]}"}
        url = URL(endpoint.rstrip("/") + path, encoded=True)
        try:
            async with self._session.get(url, headers=headers) as answer:
                body = await answer.read()
        except TimeoutError:
            raise FeedError(f"no answer within {self._deadline_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FeedError(_words(error)) from None
        return _judge(answer.status, body)


def _judge(status: int, body: bytes) -> Json:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if status in (401, 403):
        raise FeedError("refuses these credentials (the profile's access_key and secret_key)")
    if status != 200:
        error = document.get("error") if isinstance(document, dict) else None
        message = error.get("message") if isinstance(error, dict) else None
        raise FeedError(f"answered {status}{f': {message}' if message else ''}")
    if not isinstance(document, dict):
        raise FeedError("answered something that is not Atoll's API")
    return document


def _words(error: BaseException) -> str:
    cause = error.__cause__ or (getattr(error, "os_error", None)) or error
    if isinstance(cause, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "connection refused"
    return str(error) or type(error).__name__
