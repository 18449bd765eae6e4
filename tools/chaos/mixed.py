"""The mixed load of the figures: many clients on one event loop, through one AsyncClient, in a thread beside the run.

Puts, gets, heads, listings and deletes of bodies from 4 KiB to 3 MiB. A client owns its keys, so it knows what each may
hold; what it reads is compared. Bodies are slices of one random block, so that making them costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Sequence

from blake3 import blake3

from peer.client.aio import AsyncClient
from peer.errors import AtollError, NotFound
from tools.chaos.load import DELETED, Operation, State

BUCKET = "mixed"
KIB = 1024
SIZES = (*(4 * KIB,) * 10, *(64 * KIB,) * 4, *(256 * KIB,) * 3, *(1024 * KIB,) * 2, 3 * 1024 * KIB)
KINDS = (*("put",) * 7, *("get",) * 8, *("head",) * 2, "list", *("delete",) * 2)
KEYS = 40
"""Of each client. Each is written once before the load begins."""
LIST_LIMIT = 50
_BLOCK = memoryview(blake3(b"mixed load").digest(8 << 20))


def body(key: str, version: int) -> memoryview:
    """The content of a version: where it begins in the block is like no other's."""
    drawn = int.from_bytes(blake3(f"{key} {version}".encode()).digest(8), "big")
    size = SIZES[drawn % len(SIZES)]
    start = (drawn >> 8) % (len(_BLOCK) - size)
    return _BLOCK[start : start + size]


class Mixed:
    """`clients` closed loops. `start` returns when every key is written; `stop` when the last operation has ended."""

    def __init__(
        self, urls: Sequence[str], keys: tuple[str, str], clients: int, keys_each: int = KEYS
    ) -> None:
        self._urls = list(urls)
        self._credentials = keys
        self._states = [
            {f"{number}/{key:03d}": State() for key in range(keys_each)} for number in range(clients)
        ]
        self._versions = 0
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name="mixed load", daemon=True
        )
        self.operations: list[Operation] = []
        self.moved_bytes = 0
        self.wrong: list[str] = []

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        access, secret = self._credentials
        try:
            async with AsyncClient(
                self._urls, access_key=access, secret_key=secret, patience_s=20.0
            ) as client:
                await client.create_bucket(BUCKET)
                numbers = range(len(self._states))
                await asyncio.gather(*(self._write_all(client, number) for number in numbers))
                self._ready.set()
                await asyncio.gather(*(self._loop(client, number) for number in numbers))
        finally:
            self._ready.set()

    async def _write_all(self, client: AsyncClient, number: int) -> None:
        for key in self._states[number]:
            await self._timed("put", client, number, key)

    async def _loop(self, client: AsyncClient, number: int) -> None:
        chance = random.Random(f"mixed client {number}")
        keys = list(self._states[number])
        while not self._stop.is_set():
            await self._timed(chance.choice(KINDS), client, number, chance.choice(keys))

    async def _timed(self, kind: str, client: AsyncClient, number: int, key: str) -> None:
        begun_s, failure = time.monotonic(), ""
        try:
            await getattr(self, f"_{kind}")(client, key, self._states[number][key])
        except AtollError as error:
            failure = f"{type(error).__name__}: {error}"
        self.operations.append(Operation(kind, begun_s, time.monotonic() - begun_s, failure))

    async def _put(self, client: AsyncClient, key: str, state: State) -> None:
        self._versions += 1
        version = self._versions
        state.may.add(version)
        content = body(key, version)
        await client.put(BUCKET, key, content)
        state.may = {version}
        self.moved_bytes += len(content)

    async def _delete(self, client: AsyncClient, key: str, state: State) -> None:
        state.may.add(DELETED)
        await client.delete(BUCKET, key)
        state.may = {DELETED}

    async def _get(self, client: AsyncClient, key: str, state: State) -> None:
        found: bytes | None = None
        with contextlib.suppress(NotFound):
            found = await (await client.get(BUCKET, key)).read()
        if not any(found == (None if version == DELETED else body(key, version)) for version in state.may):
            self.wrong.append(f"{key} holds {'nothing' if found is None else f'{len(found)} other bytes'}")
        self.moved_bytes += len(found or b"")

    async def _head(self, client: AsyncClient, key: str, state: State) -> None:
        size: int | None = None
        with contextlib.suppress(NotFound):
            size = (await client.stat(BUCKET, key)).size
        if not any(
            size == (None if version == DELETED else len(body(key, version))) for version in state.may
        ):
            self.wrong.append(f"{key} is said to have {size} bytes")

    async def _list(self, client: AsyncClient, key: str, state: State) -> None:
        await client.list_page(BUCKET, key.partition("/")[0] + "/", limit=LIST_LIMIT)


class Filling:
    """Puts many objects of one size, as fast as `at_once` puts at a time allow; used before and between faults."""

    def __init__(self, urls: Sequence[str], keys: tuple[str, str], bucket: str, at_once: int = 24) -> None:
        self._urls = list(urls)
        self._credentials = keys
        self._bucket = bucket
        self._at_once = at_once
        self.failures: list[str] = []

    def run(self, count: int, size: int, prefix: str) -> float:
        """Put them; returns the seconds it took."""
        began_s = time.monotonic()
        asyncio.run(self._run(count, size, prefix))
        return time.monotonic() - began_s

    async def _run(self, count: int, size: int, prefix: str) -> None:
        access, secret = self._credentials
        async with AsyncClient(self._urls, access_key=access, secret_key=secret, patience_s=20.0) as client:
            await client.create_bucket(self._bucket)
            numbers = iter(range(count))
            await asyncio.gather(*(self._loop(client, numbers, size, prefix) for _ in range(self._at_once)))

    async def _loop(self, client: AsyncClient, numbers: object, size: int, prefix: str) -> None:
        for number in numbers:  # type: ignore[attr-defined]
            content = _unlike(prefix, number, size)
            try:
                await client.put(self._bucket, f"{prefix}{number:06d}", content)
            except AtollError as error:
                self.failures.append(f"{type(error).__name__}: {error}")


def _unlike(prefix: str, number: int, size: int) -> bytes:
    """A body like no other's: one slice of the block behind its number."""
    own = f"{prefix}{number:012d}".encode()
    return own + _BLOCK[: max(0, size - len(own))].tobytes()
