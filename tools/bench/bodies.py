"""Bodies of objects: cheap to send, different in every chunk, and checkable without a hash.

All share one block of random bytes. The first `STAMP` bytes of every `piece` are overwritten with the
object's name and the piece's number, so that no two chunks are equal (equal chunks would be stored once, and
the measurement would flatter) and a reader can tell what should be where.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

STAMP = 64
PIECE = 1 << 20


class Bodies:
    """Bodies for one run; `piece` divides the cluster's chunk size, so that every chunk has a stamp."""

    def __init__(self, seed: str, chunk_bytes: int = 4 << 20) -> None:
        self._seed = seed
        self.piece = min(PIECE, chunk_bytes)
        self._block = memoryview(random.Random(seed).randbytes(self.piece))

    def stamp(self, name: str, number: int) -> bytes:
        """`STAMP` bytes that only this piece of this object begins with."""
        return f"{self._seed} {number} {name}".encode()[:STAMP].ljust(STAMP, b".")

    def small(self, name: str, size: int) -> bytes:
        """A whole body, up to a piece."""
        assert size <= self.piece
        return (self.stamp(name, 0) + self._block[STAMP:size])[:size]

    def pieces(self, name: str, size: int) -> Iterator[tuple[bytes, memoryview]]:
        """A body of any size as (stamp, rest) pairs; the rest is a view of the shared block."""
        for number, start in enumerate(range(0, size, self.piece)):
            length = min(self.piece, size - start)
            yield self.stamp(name, number)[:length], self._block[min(STAMP, length) : length]

    def matches(self, name: str, size: int, body: bytes | memoryview) -> bool:
        """Whether `body` is that object, byte for byte."""
        if len(body) != size:
            return False
        view, start = memoryview(body), 0
        for stamp, rest in self.pieces(name, size):
            middle, end = start + len(stamp), start + len(stamp) + len(rest)
            if view[start:middle] != stamp or view[middle:end] != rest:
                return False
            start = end
        return True
