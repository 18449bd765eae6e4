"""Space to give up when the disk is full, so that deletions and epochs still commit (architecture.md §9)."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path

from peer.storage.durable import sync_directory
from peer.storage.syscalls import fallocate

log = logging.getLogger(__name__)


class Ballast:
    """A preallocated file. Every method may be called from any thread."""

    def __init__(self, path: Path, size: int) -> None:
        """`size` in bytes. Touches nothing yet."""
        self._path = path
        self.size = size
        self._lock = threading.Lock()
        self.held = path.exists()

    def take(self, free_bytes: int, floor: int) -> bool:
        """Preallocate the file if it is gone and twice the floor is free; True if it is there now.

        Called at the start and now and then: once space is back, so is the ballast. Never raises for want
        of space; other errors are OSError.
        """
        with self._lock:
            if self.held or free_bytes < 2 * floor + self.size:
                return self.held
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                fallocate(fd, 0, self.size)
            except OSError as error:
                self._path.unlink()
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                return False
            finally:
                os.close(fd)
            self.held = True
            return True

    def release(self) -> bool:
        """Give the space up; True if there was any. Serves as `on_full` of `SqliteRows`."""
        with self._lock:
            if not self.held:
                return False
            self.held = False
            log.error("the disk is full: giving up the ballast of %d MiB", self.size >> 20)
            try:
                self._path.unlink()
                sync_directory(self._path.parent)
            except OSError as error:
                log.error("cannot remove %s: %s", self._path, error)
                return False
            return True
