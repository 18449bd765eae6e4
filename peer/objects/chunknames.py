"""Which chunk holds which part of an object."""

from __future__ import annotations

from peer.buffers import BufferPool
from peer.errors import Corrupt
from peer.replication.chunks.chunks import Chunks

from .heads import CHUNKS, MANIFEST, NAME_BYTES, Head


class Names:
    """Chunk names by index: from the head, or from its manifests, of which one at a time is kept."""

    def __init__(self, chunks: Chunks, pool: BufferPool, head: Head, chunk_bytes: int) -> None:
        self._chunks = chunks
        self._pool = pool
        self._head = head
        self._per_manifest = chunk_bytes // NAME_BYTES
        self._loaded = -1
        self._names = head.names if head.kind == CHUNKS else b""

    async def of(self, index: int) -> bytes:
        if self._head.kind == MANIFEST:
            which, index = divmod(index, self._per_manifest)
            if which != self._loaded:
                buffer, length = await self._chunks.get(_nth(self._head.names, which))
                self._names = bytes(buffer.payload(length))
                self._pool.give(buffer)
                self._loaded = which
        return _nth(self._names, index)


def _nth(names: bytes, index: int) -> bytes:
    name = names[index * NAME_BYTES : (index + 1) * NAME_BYTES]
    if len(name) != NAME_BYTES:
        raise Corrupt("an object's head names fewer chunks than its size needs")
    return name
