"""AsyncClient behind the blocking client's methods, so that one set of scenarios judges both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from peer.client import AsyncClient


class BlockingAsyncClient:
    """Runs every method of an AsyncClient on a loop of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*arguments, **options)

    def __enter__(self) -> BlockingAsyncClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def list(self, *arguments: Any, **options: Any) -> list[Any]:
        async def gather() -> list[Any]:
            return [entry async for entry in self._client.list(*arguments, **options)]

        return self._loop.run_until_complete(gather())

    def get(self, *arguments: Any, **options: Any) -> BlockingDownload:
        return BlockingDownload(
            self._loop, self._loop.run_until_complete(self._client.get(*arguments, **options))
        )

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._loop.run_until_complete(method(*arguments, **options))


class BlockingDownload:
    """The same for a download."""

    def __init__(self, loop: asyncio.AbstractEventLoop, download: Any) -> None:
        self._loop = loop
        self._download = download

    def __iter__(self) -> Iterator[bytes]:
        blocks: AsyncIterator[bytes] = aiter(self._download)
        while True:
            try:
                yield self._loop.run_until_complete(anext(blocks))
            except StopAsyncIteration:
                return

    def read(self) -> bytes:
        return bytes(self._loop.run_until_complete(self._download.read()))

    def save(self, path: Any, **options: Any) -> int:
        return int(self._loop.run_until_complete(self._download.save(path, **options)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._download, name)
