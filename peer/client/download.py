"""A blocking download: the bytes of one object, which outlive the peer that began to send them."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from peer.client.attempts import AttemptError, Attempts
from peer.client.bodies import Progress
from peer.client.connections import Answer, Connections
from peer.client.core import PROGRESS_BYTES, Core, retryable
from peer.client.model import ObjectInfo
from peer.client.pulse import Waiting
from peer.client.transfer import Incoming, changed_meanwhile
from peer.client.wire import MAX_ERROR_BYTES, error_of
from peer.errors import AtollError, Conflict

BLOCK_BYTES = 256 * 1024
"""Received at a time: large enough for few calls, small enough to stay in the processor's cache."""


class Download:
    """The bytes of one object: iterate over blocks, or `read`, `save` or `write_to`; then it is closed.

    `info` describes the object, `length` is what will come, in bytes. Errors of the bytes (Corrupt, or
    Unavailable when no peer has the rest) are raised while reading; blocks handed out before are then
    not to be trusted. `save` leaves nothing behind in that case.
    """

    def __init__(
        self,
        core: Core,
        connections: Connections,
        sleep: Callable[[float], None],
        incoming: Incoming,
        attempts: Attempts,
        progress: Progress | None,
    ) -> None:
        self._core = core
        self._connections = connections
        self._sleep = sleep
        self._incoming = incoming
        self._attempts = attempts
        self._progress = progress
        self._answer: Answer | None = None
        self._waiting: Waiting | None = None
        self._moved = 0  # by the present attempt
        self._closed = False
        self._open()

    @property
    def info(self) -> ObjectInfo:
        """The object's head; its size is that of the whole object, also when only part is read."""
        assert self._incoming.info is not None
        return self._incoming.info

    @property
    def length(self) -> int:
        """The number of bytes this download delivers."""
        return self._incoming.length

    @property
    def verified(self) -> bool:
        """Whether the end of the bytes includes a comparison with the ETag."""
        return self._incoming.verified

    def on_progress(self, progress: Progress) -> None:
        """Call `progress` from now on with the bytes that come, for who must know `length` first."""
        self._progress = progress

    def __iter__(self) -> Iterator[bytes]:
        room = memoryview(bytearray(min(BLOCK_BYTES, max(1, self.length))))
        try:
            while got := self._read_into(room):
                yield bytes(room[:got])
        finally:
            self.close()

    def read(self) -> bytes:
        """All (remaining) bytes. Needs as much memory."""
        return b"".join(self)

    def write_to(self, file: BinaryIO) -> int:
        """Write all (remaining) bytes to an open binary file; how many there were."""
        room = memoryview(bytearray(min(BLOCK_BYTES, max(1, self.length))))
        total = 0
        try:
            while got := self._read_into(room):
                rest = room[:got]
                while rest:  # an unbuffered file may take less
                    rest = rest[file.write(rest) :]
                total += got
        finally:
            self.close()
        return total

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> int:
        """Write to a temporary file beside `path` and rename it there once all bytes are verified. With `overwrite` False
        FileExistsError, and nothing changed, if something is there by then."""
        target = Path(path)
        handle, part = tempfile.mkstemp(prefix=".atoll-", suffix=".part", dir=target.parent)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                total = self.write_to(file)
                os.fchmod(file.fileno(), 0o666 & ~umask())
            publish(Path(part), target, overwrite=overwrite)
        except BaseException:
            with suppress(OSError):
                Path(part).unlink()
            raise
        finally:
            self.close()
        return total

    def close(self) -> None:
        """Give up what was not read. Idempotent."""
        self._closed = True
        self._end_wait()
        if self._answer is not None:
            self._answer.close()
            self._answer = None
            self._attempts.abandoned()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Get an answer that delivers the next byte wanted."""
        while self._answer is None:
            url = self._attempts.pick()
            self._moved = 0
            request = self._incoming.request()
            waiting = self._waiting = self._core.waiting(url, self._attempts)
            headers, connect_s = self._core.headers(request), self._core.connect_s()
            try:
                self._accept(self._connections.send(url, request, headers, None, waiting, connect_s))
            except AttemptError as failure:
                self._end_wait()
                self._sleep(self._attempts.failed(failure))
            except AtollError:
                self._end_wait()
                self._attempts.answered()
                raise
            except BaseException:
                self._end_wait()
                self._attempts.abandoned()
                raise

    def _end_wait(self) -> None:
        if self._waiting is not None:
            self._waiting.end()
            self._waiting = None

    def _accept(self, answer: Answer) -> None:
        if answer.status in (200, 206):
            try:
                self._incoming.accept(answer.status, answer.headers)
            except AtollError:
                answer.close()
                raise
            self._answer = answer
            return
        error = error_of(answer.status, answer.headers, answer.read(MAX_ERROR_BYTES), self._incoming.what)
        if isinstance(error, Conflict) and self._incoming.info is not None:
            raise changed_meanwhile(self._incoming.what)
        raise retryable(error, answer.headers) or error

    def _read_into(self, room: memoryview) -> int:
        """The next bytes, 0 after the last one."""
        while not self._incoming.complete:
            if self._closed:
                raise ValueError("this download is closed")
            assert self._answer is not None
            try:
                got = self._answer.read_into(room)
                if not got:
                    raise AssertionError("an answer of known length ended early without an error")
            except AttemptError as failure:
                self._answer = None
                self._end_wait()
                failure.moved = self._moved >= PROGRESS_BYTES
                self._sleep(self._attempts.failed(failure))
                self._open()
                continue
            self._moved += got
            self._incoming.take(room[:got])
            if self._progress is not None:
                self._progress(got)
            if self._incoming.complete:
                self._finish()
            return got
        if self._answer is not None:
            self._finish()
        return 0

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.read_into(memoryview(bytearray(1)))  # lets the connection be used again
            self._attempts.answered()
        self._end_wait()
        self._incoming.finish()


def publish(part: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file its name. FileExistsError if that is taken and may not be; `part` is still there then."""
    if overwrite:
        part.replace(target)
        return
    try:
        os.link(part, target, follow_symlinks=False)  # unlike a rename it takes nobody's place
    except OSError as problem:
        if problem.errno not in (errno.EPERM, errno.EOPNOTSUPP):
            raise
        if os.path.lexists(target):  # a disk without hard links: who comes between these two lines loses
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        part.replace(target)
    else:
        part.unlink()


def umask() -> int:
    """The process's umask, which can only be read by setting it (Linux tells it elsewhere)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
