"""What a peer does with chunk transfers that arrive: store bytes, or send them. Runs in the bulk threads.

(put, tag, chunk name, attempt, back pointer[, for]) + payload -> (OK,) after the row's commit
(get, tag, chunk name) -> (OK,) + payload, verified before it is sent
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError, Corrupt, NotFound
from peer.replication.chunks.holder import Holder, answer_to
from peer.replication.env import Reply
from peer.replication.messages import FAILED, MISSING, OK
from peer.replication.node import Replica
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.records import Extent

log = logging.getLogger(__name__)

NAME_CHUNK = 32
"""A local message: commit the row of bytes that are synced. It passes the replica's checks like any other."""
COMMIT_S = 10.0
BUFFER_S = 5.0

Answer = tuple[tuple[Any, ...], "memoryview | None", "Callable[[], None] | None"]


@dataclass(slots=True)
class _Written:
    """Bytes on the disk. Once they are `taken` by the holder it sees to them, whatever becomes of them."""

    extent: Extent
    taken: bool = False


class BulkService:
    """The handler of a peer's BulkServer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        replica: Replica,
        holder: Holder,
        files: ChunkFiles,
        pool: BufferPool,
    ) -> None:
        self._loop = loop
        self._replica = replica
        self._holder = holder
        self._files = files
        self._pool = pool
        replica.serve(NAME_CHUNK, self._on_name)

    def handle(self, sender: str, header: list[Any], buffer: Buffer | None, length: int) -> Answer:
        kind = header[0] if header else None
        log.debug("bulk %s of %d bytes from %s", kind, length, sender or "a stranger")
        epoch = self._replica.epochs.current
        newer = len(header) > 1 and isinstance(header[1], int) and header[1] > self._replica.tag
        if (
            not sender
            or epoch is None
            or (sender not in {member.id for member in epoch.everybody} and not newer)
        ):
            # One that is not known yet comes with a newer epoch.
            return (FAILED, "AccessDenied", f"{sender or 'a stranger'} is no member of this ring"), None, None
        if kind == "put" and len(header) in (5, 6) and buffer is not None:
            return self._put(sender, header, buffer, length), None, None
        if kind == "get" and len(header) == 3:
            return self._get(header[2])
        return (
            (FAILED, "NotImplemented", f"bulk operation {kind!r} is not implemented by this version"),
            None,
            None,
        )

    def _put(self, sender: str, header: list[Any], buffer: Buffer, length: int) -> tuple[Any, ...]:
        _, tag, name, attempt, back, *place = header
        if blake3(buffer.payload(length)).digest() != name:
            return (FAILED, "Corrupt", "the bytes that arrived are not the chunk that was announced")
        extent = self._files.append(buffer, length, name)
        answered = threading.Event()
        answer: list[tuple[Any, ...]] = []

        def reply(message: tuple[Any, ...]) -> None:
            answer.append(message)
            answered.set()

        written = _Written(extent)
        message = (NAME_CHUNK, tag, name, written, attempt, back, *place)
        self._loop.call_soon_threadsafe(self._hand_over, sender, message, reply)
        if not answered.wait(COMMIT_S):
            return (FAILED, "ServiceUnavailable", "the row of this chunk was not committed in time")
        if not written.taken:
            self._files.abandon(extent)
        return answer[0]

    def _hand_over(self, sender: str, message: Any, reply: Reply) -> None:
        try:
            self._replica.handle(sender, message, reply)
        except AtollError as error:
            reply((FAILED, error.code, str(error)))

    def _on_name(self, message: Any, reply: Reply) -> None:
        _, _, name, written, attempt, back, *place = message
        written.taken = True
        self._holder.name(name, written.extent, attempt, back, lambda error: reply(answer_to(error)), *place)

    def _get(self, name: bytes) -> Answer:
        buffer = self._pool.take_blocking(BUFFER_S)
        try:
            for _ in range(2):
                extent = self._holder.find(name)
                if extent is None:
                    break
                try:
                    length = self._files.read(extent, name, buffer)
                except NotFound:
                    continue  # it moved between row and read: look again
                except Corrupt as error:
                    self._loop.call_soon_threadsafe(self._holder.quarantine, name, extent)
                    self._pool.give(buffer)
                    return (FAILED, "Corrupt", str(error)), None, None
                return (OK,), buffer.payload(length), lambda: self._pool.give(buffer)
        except BaseException:
            self._pool.give(buffer)
            raise
        self._pool.give(buffer)
        return (MISSING,), None, None
