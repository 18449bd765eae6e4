"""Where a put's bytes come from: memory, a file, or anything that yields blocks.

A source says how long it is (if it knows) and whether it can be read a second time, which decides
whether a put may go on at another peer. Of what can be read only once (pipes, iterators) the beginning
is kept, so that short bodies survive a peer as well and memory stays bounded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from peer.errors import Invalid

Bytes = bytes | bytearray | memoryview
BLOCK_BYTES = 512 * 1024
"""Read and sent at a time: big enough that calls do not matter, small enough to stay in the cache."""

KEPT_BYTES = 4 * 1024 * 1024
"""Kept of a body that can be read only once."""
KEPT_BLOCKS = 4096

Data = Bytes | os.PathLike[str] | IO[bytes] | Iterable[Bytes]
"""What `Client.put` takes: bytes, a path, an open binary file, or an iterable of byte blocks."""
AsyncData = Data | AsyncIterable[Bytes]
"""What `AsyncClient.put` takes: the same, or an asynchronous iterable."""


@runtime_checkable
class Source(Protocol):
    """Bytes for the body of a put."""

    size: int | None
    """In bytes; None when only the end will tell."""

    def can_repeat(self) -> bool:
        """Whether `blocks` may be called (again)."""

    def blocks(self) -> Iterator[Bytes]:
        """The bytes from their beginning. A block is only valid until the next one is asked for."""


class MemorySource:
    """Bytes at hand."""

    def __init__(self, data: Bytes) -> None:
        self._view = memoryview(data).cast("B")
        self.size: int | None = len(self._view)

    def can_repeat(self) -> bool:
        return True

    def blocks(self) -> Iterator[Bytes]:
        for start in range(0, len(self._view), BLOCK_BYTES):
            yield self._view[start : start + BLOCK_BYTES]


class PathSource:
    """A file by its path. Its size is taken now; Invalid if it turns out shorter while being sent."""

    def __init__(self, path: os.PathLike[str]) -> None:
        self._path = Path(path)
        status = self._path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Invalid(f"{self._path} is no regular file; what it yields can be stored from stdin")
        self.size: int | None = status.st_size

    def can_repeat(self) -> bool:
        return True

    def blocks(self) -> Iterator[Bytes]:
        with self._path.open("rb", buffering=0) as file:
            yield from read_blocks(file, self.size, str(self._path))


class Beginning:
    """What was taken from a body that can be read only once, while it is little."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.whole = True
        """Whether nothing that was taken is missing here."""
        self._size = 0

    def keep(self, block: Bytes) -> None:
        """Remember a block that was taken, or forget everything if it becomes too much."""
        self._size += len(block)
        if self.whole and self._size <= KEPT_BYTES and len(self.blocks) < KEPT_BLOCKS:
            self.blocks.append(bytes(block))
        else:
            self.whole = False
            self.blocks.clear()


def _has_size(file: IO[bytes]) -> bool:
    """Whether the end of an open file is where it seems; a device can seek as well, but has no end to seek to."""
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError:  # no file of the system's, as io.BytesIO
        return True


class FileSource:
    """An open binary file, from its present position; repeatable if it can seek back there, or is short."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._beginning = Beginning()
        self._start = 0
        self.size: int | None = None
        self._seekable = file.seekable() and _has_size(file)
        if self._seekable:
            self._start = file.tell()
            self.size = max(0, file.seek(0, os.SEEK_END) - self._start)
            file.seek(self._start)

    def can_repeat(self) -> bool:
        return self._seekable or self._beginning.whole

    def blocks(self) -> Iterator[Bytes]:
        name = str(getattr(self._file, "name", "the file"))
        if self._seekable:
            self._file.seek(self._start)
            yield from read_blocks(self._file, self.size, name)
            return
        yield from tuple(self._beginning.blocks)
        for block in read_blocks(self._file, None, name):
            self._beginning.keep(block)
            yield block


class IterableSource:
    """Blocks of bytes of unknown total length; repeatable if the iterable is no mere iterator, or short."""

    size: int | None = None

    def __init__(self, blocks: Iterable[Bytes]) -> None:
        self._blocks = blocks
        self._one_shot = isinstance(blocks, Iterator)
        self._beginning = Beginning()

    def can_repeat(self) -> bool:
        return not self._one_shot or self._beginning.whole

    def blocks(self) -> Iterator[Bytes]:
        yield from tuple(self._beginning.blocks)
        for block in self._blocks:
            if _checked(block):
                if self._one_shot:
                    self._beginning.keep(block)
                yield block


class AsyncSource:
    """The same from an asynchronous iterable."""

    size: int | None = None

    def __init__(self, blocks: AsyncIterable[Bytes]) -> None:
        self._blocks = blocks
        self._one_shot = isinstance(blocks, AsyncIterator)
        self._beginning = Beginning()

    def can_repeat(self) -> bool:
        return not self._one_shot or self._beginning.whole

    async def blocks(self) -> AsyncIterator[Bytes]:
        for block in tuple(self._beginning.blocks):
            yield block
        async for taken in self._blocks:
            if _checked(taken):
                if self._one_shot:
                    self._beginning.keep(taken)
                yield taken


def _checked(block: Bytes) -> int:
    """The block's length: an empty one must not be sent, as it would end a chunked body early."""
    if not isinstance(block, Bytes):
        raise TypeError(f"a body yields bytes, not {type(block).__name__}")
    return len(block)


def read_blocks(file: Any, size: int | None, name: str) -> Iterator[Bytes]:
    """`size` bytes of a file (None: to its end) in blocks; Invalid if it ends before."""
    room = memoryview(bytearray(min(BLOCK_BYTES, size or BLOCK_BYTES)))
    left = size
    while left is None or left > 0:
        want = len(room) if left is None else min(left, len(room))
        got = _read_into(file, room[:want])
        if not got:
            if left:
                raise Invalid(f"{name} became {left} bytes shorter while it was sent; nothing was stored")
            return
        if left is not None:
            left -= got
        yield room[:got]


def _read_into(file: Any, room: memoryview) -> int:
    if hasattr(file, "readinto"):
        return file.readinto(room) or 0
    block = file.read(len(room))
    room[: len(block)] = block
    return len(block)


def source_of(data: Data) -> Source:
    """The source for what a caller gave; TypeError for what is none (a str: is it text or a path?)."""
    if isinstance(data, bytes | bytearray | memoryview):
        return MemorySource(data)
    if isinstance(data, str):
        raise TypeError("pass bytes, or pathlib.Path(...) for the file of that name, not a str")
    if isinstance(data, os.PathLike):
        return PathSource(data)
    if hasattr(data, "read") and hasattr(data, "seekable"):
        return FileSource(data)  # type: ignore[arg-type]
    if isinstance(data, Iterable):
        return IterableSource(data)
    raise TypeError(
        f"a body is bytes, a path, a binary file or an iterable of bytes, not {type(data).__name__}"
    )


Progress = Callable[[int], None]
"""Called with the number of bytes moved since the last call; negative when a transfer starts over."""


class BodyError(Exception):
    """Carries an error of the caller's own body past the code that handles errors of the connection."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextmanager
def body_errors() -> Iterator[None]:
    """Around taking a block from a source: its errors are the caller's, not the connection's."""
    try:
        yield
    except StopIteration:
        raise
    except Exception as problem:
        raise BodyError(problem) from problem
