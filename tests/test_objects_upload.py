"""Bodies on their way into chunks: whatever fails or is cancelled, every buffer comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError, Full, Invalid
from peer.etag import etag_of
from peer.objects.heads import CHUNKS, INLINE, MANIFEST
from peer.objects.upload import Upload
from peer.realenv import LoopEnv

CHUNK = 4096  # 128 names to a manifest


class Chunks:
    """Keeps what is put; turns of the loop pass before it does; fails when told."""

    def __init__(self, fail_at: int) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.fail_at = fail_at
        self.rng = random.Random(7)

    async def put(self, buffer: Buffer, length: int, attempt: bytes, back: bytes, release: Any) -> bytes:
        from blake3 import blake3

        try:
            content = bytes(buffer.payload(length))
            for _ in range(self.rng.randrange(3)):
                await asyncio.sleep(0)
            self.fail_at -= 1
            if self.fail_at == 0:
                raise Full("no room")
            name = blake3(content).digest()
            self.kept[name] = content
            return name
        finally:
            release()


class Body:
    """Pieces, then the end or an error, without a turn of the loop between, as when both had arrived."""

    def __init__(self, content: bytes, pieces: list[int], error: AtollError | None) -> None:
        self.content = content
        self.pieces = pieces
        self.error = error

    async def read(self, *, few: bool = False) -> bytes:
        if not self.content and self.error is not None:
            raise self.error
        size = self.pieces.pop() if self.pieces else 5000
        piece, self.content = self.content[:size], self.content[size:]
        return piece

    def holds(self, buffer: bool) -> None:
        """What arrived at once keeps nobody waiting."""


def upload(
    content: bytes, pieces: list[int], error: AtollError | None, fail_at: int = -1
) -> tuple[Any, Chunks, BufferPool]:
    pool = BufferPool(4, chunk_bytes=CHUNK)
    chunks = Chunks(fail_at)

    async def run() -> Any:
        env = LoopEnv(asyncio.get_running_loop())
        objects: Any = SimpleNamespace(
            pool=pool, chunks=chunks, env=env, inline_max=1024, largest=64 * 128 * CHUNK,
            filling=contextlib.nullcontext, chunk_bytes=CHUNK,
        )  # fmt: skip
        try:
            return await Upload(objects, Body(content, pieces, error), b"attempt", b"back").run()
        except AtollError as failure:
            return failure
        finally:
            await env.close()

    return asyncio.run(run()), chunks, pool


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 20 * CHUNK), pieces=st.lists(st.integers(1, 3 * CHUNK), max_size=20),
    broken=st.booleans(), fail_at=st.integers(-1, 8),
)  # fmt: skip
def test_buffers_come_back(size: int, pieces: list[int], broken: bool, fail_at: int) -> None:
    """Goal: an upload stores all its bytes or raises; either way no buffer stays lent. (Seed: a body that broke in the
    same turn in which a chunk was handed over lost that chunk's buffer.)"""
    content = random.Random(size).randbytes(size)
    stored, chunks, pool = upload(content, list(pieces), Invalid("cut") if broken else None, fail_at or -1)
    assert pool.stats.lent == 0 and pool.stats.waiting == 0
    if isinstance(stored, AtollError):
        assert broken or fail_at > 0
        return
    assert not broken
    assert (stored.size, stored.etag) == (size, etag_of(content, CHUNK))
    if stored.kind == INLINE:
        assert stored.inline == content and size <= 1024
    else:
        assert stored.kind == CHUNKS
        names = [stored.names[i : i + 32] for i in range(0, len(stored.names), 32)]
        assert b"".join(chunks.kept[name] for name in names) == content


@pytest.mark.parametrize("count", [64, 65, 128, 129, 300])
def test_manifests(count: int) -> None:
    """Goal: more chunks than a head lists go into manifests, each full but the last; a put that fails there is whole."""
    content = random.Random(count).randbytes(count * CHUNK - 5)
    stored, chunks, pool = upload(content, [], None)
    assert pool.stats.lent == 0
    assert (stored.size, stored.etag) == (len(content), etag_of(content, CHUNK))
    assert stored.kind == (CHUNKS if count <= 64 else MANIFEST)
    names = stored.names
    if stored.kind == MANIFEST:
        lists = [chunks.kept[names[i : i + 32]] for i in range(0, len(names), 32)]
        assert [len(part) // 32 for part in lists[:-1]] == [128] * (len(lists) - 1)
        names = b"".join(lists)
    assert b"".join(chunks.kept[names[i : i + 32]] for i in range(0, len(names), 32)) == content
    failed, _, pool = upload(content, [], None, fail_at=count)
    assert isinstance(failed, Full) and pool.stats.lent == 0
