"""Space kept back, so that deletions and epochs still commit on a full disk (architecture.md §9).

A preallocated file holds `size` bytes, and as many again are left free beside it. Once free space falls below that,
`roomy` is False and nothing is taken any more that makes the peer hold more; what gives space back goes on in what is
left. When even that finds no room the file is given up. So what fills the disk never eats the ballast, except for what
was on its way when somebody else filled it within a moment.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Protocol

from peer.storage.durable import sync_directory
from peer.storage.syscalls import fallocate

log = logging.getLogger(__name__)


class Space(Protocol):
    """What rows must know of the disk they lie on. From any thread."""

    @property
    def roomy(self) -> bool:
        """Whether what is held may grow, as last measured."""

    def measure(self) -> int:
        """Free bytes now; `roomy` follows. Raises OSError."""

    def release(self) -> bool:
        """A commit found no room: True if there is some now."""


class Plenty:
    """Space that nobody watches, for tests."""

    roomy = True

    def measure(self) -> int:
        return 1 << 62

    def release(self) -> bool:
        return False


class Ballast:
    """The file, and what is free beside it. Every method may be called from any thread."""

    def __init__(self, path: Path, size: int) -> None:
        """`size` in bytes. Touches nothing yet."""
        self._path = path
        self.size = size
        self._lock = threading.Lock()
        self.held = path.exists()
        self.roomy = True

    def measure(self) -> int:
        """Free bytes now; `roomy` follows, the ballast counted as free. Raises OSError."""
        space = os.statvfs(self._path.parent)
        free = space.f_bavail * space.f_frsize
        self.roomy = free + (self.size if self.held else 0) >= 2 * self.size
        return free

    def take(self) -> bool:
        """Preallocate the file if it is gone and leaves as much free beside it; True if it is there now.

        Called at the start and now and then: once space is back, so is the ballast. Never raises for want
        of space; other errors are OSError.
        """
        free = self.measure()
        with self._lock:
            if self.held or free < 2 * self.size:
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
        """Give the space up; True if there was any."""
        with self._lock:
            if not self.held:
                return False
            self.held = False
            log.error("the disk is full: giving up the ballast of %d MiB, for deletions", self.size >> 20)
            try:
                self._path.unlink()
                sync_directory(self._path.parent)
            except OSError as error:
                log.error("cannot remove %s: %s", self._path, error)
                return False
        self.measure()
        return True
