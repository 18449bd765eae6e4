"""Commits from threads that may block."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from peer.errors import AtollError
from peer.storage.rows import Write
from peer.storage.sqlite import SqliteRows


def commit_wait(rows: SqliteRows, writes: Sequence[Write]) -> None:
    """Commit and block until it is told, on a loop that runs in another thread. Raises what the commit failed with."""
    result: list[AtollError | None] = []
    told = threading.Event()

    def done(error: AtollError | None) -> None:
        result.append(error)
        told.set()

    rows.commit(writes, done)
    told.wait()
    if result[0] is not None:
        raise result[0]
