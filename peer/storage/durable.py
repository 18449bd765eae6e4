"""Making names and small files durable, and what happens when the disk fails (architecture.md §6, §9)."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NoReturn

log = logging.getLogger(__name__)

EXIT_IO_ERROR = 70
"""Exit status after an I/O error (EX_SOFTWARE of sysexits.h)."""


def end_process(reason: str) -> NoReturn:
    """Log and leave at once: no handlers, no flushing. The default `fatal` of everything that syncs.

    After a failed fsync the kernel may have dropped the pages and a second fsync may claim success: only
    a restart, which reads what the disk really holds, makes promises possible again.
    """
    log.critical("%s; ending the process, as after an I/O error nothing may be acknowledged", reason)
    os._exit(EXIT_IO_ERROR)


def sync_directory(path: Path) -> None:
    """Make the names in the directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the file's content atomically and durably: a crash leaves the old content or the new.

    Raises OSError; the old content stays then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
