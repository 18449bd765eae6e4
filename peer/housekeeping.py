"""What a peer does now and then: watch its disk's free space, and give the memory of a burst back to the system."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NoReturn

from peer.buffers import BufferPool, release_heap
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.datadir import DataDir
from peer.storage.sqlite import SqliteRows

EVERY_S = 5.0

log = logging.getLogger(__name__)


async def keep_house(
    directory: DataDir,
    rows: SqliteRows,
    files: ChunkFiles,
    pools: Sequence[BufferPool],
    tell: Callable[[frozenset[str]], None],
) -> NoReturn:
    """For ever; `tell` is called with the flags for gossip whenever they change. The disk is asked in a thread."""
    told: frozenset[str] = frozenset()
    while True:
        flags = await asyncio.to_thread(_look, directory, rows, files)
        if flags != told:
            told = flags
            tell(flags)
        await asyncio.sleep(EVERY_S)
        if sum(pool.trim() for pool in pools):
            await asyncio.to_thread(release_heap)


def _look(directory: DataDir, rows: SqliteRows, files: ChunkFiles) -> frozenset[str]:
    """Take the ballast while there is room for it (it is given up when a commit finds the disk full); the flags."""
    try:
        directory.ballast.take()
    except OSError as error:
        log.warning("cannot take the ballast of %s: %s", directory.path, error)
    rows.tidy()
    return frozenset({"full"}) if files.full is not None else frozenset()
