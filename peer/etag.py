"""The ETag of bytes stored through the object API, computed alike by peers and clients.

    chunk digest   = BLAKE3(chunk), 32 bytes, for each run of `chunk_bytes` bytes of the body
    ETag           = first 32 hex digits of BLAKE3(digest 1 | digest 2 | ...) + "-" + number of chunks
    empty body     = the same of no digests at all: BLAKE3 of nothing, "-0"

The digests are the chunks' names, so a peer that has stored the chunks needs no second pass, and the
`-n` keeps every client from taking it for an MD5 (architecture.md §6, "ETags").
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from blake3 import blake3

DEFAULT_CHUNK_BYTES = 4 * 1024 * 1024
"""What a cluster is founded with unless told otherwise; GET /v1/cluster says what one really uses."""

_FORM = re.compile(r"[0-9a-f]{32}-(0|[1-9][0-9]*)")


def etag_of_digests(digests: Iterable[bytes]) -> str:
    """The ETag, without quotes, of a body by its chunks' BLAKE3 digests (32 bytes each), in order."""
    names = blake3()
    count = 0
    for digest in digests:
        if len(digest) != 32:
            raise ValueError(f"a chunk digest has 32 bytes, not {len(digest)}")
        names.update(digest)
        count += 1
    return f"{names.hexdigest()[:32]}-{count}"


def etag_of(data: bytes | bytearray | memoryview, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> str:
    """The ETag, without quotes, of a body that is at hand whole."""
    hasher = EtagHasher(chunk_bytes)
    hasher.update(data)
    return hasher.etag()


def chunks_in(etag: str) -> int | None:
    """The number of chunks this ETag (without quotes) speaks of, or None if it is of another form."""
    match = _FORM.fullmatch(etag)
    return int(match.group(1)) if match else None


class EtagHasher:
    """Computes the ETag of a body that passes by in pieces of any size; memory does not grow with it."""

    __slots__ = ("_chunk", "_chunk_bytes", "_count", "_names", "_room", "size")

    def __init__(self, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> None:
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes must be positive, not {chunk_bytes}")
        self._chunk_bytes = chunk_bytes
        self._names = blake3()
        self._chunk = blake3()
        self._room = chunk_bytes  # bytes the open chunk still takes
        self._count = 0
        self.size = 0
        """Bytes seen so far."""

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the body."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        while len(view) >= self._room:
            self._chunk.update(view[: self._room])
            view = view[self._room :]
            self._names.update(self._chunk.digest())
            self._count += 1
            self._chunk.reset()
            self._room = self._chunk_bytes
        if view:
            self._chunk.update(view)
            self._room -= len(view)

    def etag(self) -> str:
        """The ETag, without quotes, of everything seen so far; more may follow."""
        if self._room == self._chunk_bytes:
            return f"{self._names.hexdigest()[:32]}-{self._count}"
        names = self._names.copy()
        names.update(self._chunk.digest())
        return f"{names.hexdigest()[:32]}-{self._count + 1}"
