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
    tell_full: Callable[[bool], None],
) -> NoReturn:
    """For ever; `tell_full` hears each time whether the disk refuses chunks. The disk is asked in a thread."""
    while True:
        tell_full(await asyncio.to_thread(_look, directory, rows, files))
        await asyncio.sleep(EVERY_S)
        if sum(pool.trim() for pool in pools):
            await asyncio.to_thread(release_heap)


def _look(directory: DataDir, rows: SqliteRows, files: ChunkFiles) -> bool:
    """Take the ballast while there is room for it (it is given up when a commit finds the disk full); whether it is full,
    or the one the rows are on."""
    if not rows.read_only:
        try:
            directory.ballast.take()
        except OSError as error:
            log.warning("cannot take the ballast of %s: %s", directory.path, error)
    rows.tidy()
    return files.full is not None or not rows.roomy
