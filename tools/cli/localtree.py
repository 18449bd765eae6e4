"""Local folders: walking one to store it, and writing one from keys without ever leaving it.

A key is any string, a path is not: `..`, empty parts, a leading `/` or a symbolic link that stands
in the folder already could all lead outside. So every part of a path is opened relative to its
parent, links are not followed, and a key that cannot be a path below the folder is refused with
Unmappable, never bent into one.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from peer.errors import Invalid

NAME_MAX = 255
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Unmappable(Invalid):
    """A key that cannot become a file below the folder."""

    code = "Unmappable"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A regular file to store: its key's end (relative, with `/`) and its size in bytes."""

    path: Path
    relative: str
    size: int


def walk(root: Path) -> Iterator[LocalFile | Unmappable]:
    """The regular files below a folder, sorted, and what cannot be stored, each with the reason.

    Symbolic links to files are stored as the file they name; links to folders are not followed.
    """
    yield from _walk(root, "")


def _walk(folder: Path, before: str) -> Iterator[LocalFile | Unmappable]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as problem:
        yield Unmappable(f"{folder}: {problem.strerror}")
        return
    for entry in entries:
        path = folder / entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(path, f"{before}{entry.name}/")
                continue
            status = entry.stat()
        except OSError as problem:
            yield Unmappable(f"{path}: {problem.strerror}")
            continue
        if stat.S_ISREG(status.st_mode):
            yield LocalFile(path, before + entry.name, status.st_size)
        else:
            kind = "a link to a folder" if stat.S_ISDIR(status.st_mode) else "neither file nor folder"
            yield Unmappable(f"{path}: {kind}, not stored")


def parts_of(relative: str) -> list[str]:
    """The path below the folder that a key's end stands for, or Unmappable with the reason."""
    parts = relative.split("/")
    for part in parts:
        if part in ("", ".", ".."):
            why = "an empty name" if not part else f"a name {part!r}"
            raise Unmappable(f"it contains {why}, which cannot be a file's")
        if "\0" in part:
            raise Unmappable("it contains a NUL character")
        if len(os.fsencode(part)) > NAME_MAX:
            raise Unmappable(f"a name in it is longer than {NAME_MAX} bytes")
    return parts


class Shadows:
    """Finds keys below another key: `a/b` cannot be a file beside the file `a`.

    Keys must come in the order of a listing; memory is bounded by one key's length.
    """

    def __init__(self) -> None:
        self._above: list[str] = []

    def check(self, key: str) -> None:
        """Unmappable if an earlier key would have to be a folder for this one."""
        while self._above and not key.startswith(self._above[-1]):
            self._above.pop()
        for above in self._above:
            if key.startswith(above + "/"):
                raise Unmappable(f"the object {above!r} takes the place of a folder")
        self._above.append(key)


class LocalTree:
    """A folder that files are written into, made when the first one is (or by `make`).

    Thread-safe, as every call walks from the folder itself.
    """

    def __init__(self, root: Path) -> None:
        self._path = root
        self._lock = threading.Lock()
        self._root: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._root is not None:
            os.close(self._root)

    def make(self) -> int:
        """The folder's descriptor; it is made if it is not there. Invalid if something else is. Idempotent."""
        with self._lock:
            if self._root is None:
                try:
                    self._path.mkdir(parents=True, exist_ok=True)
                    self._root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except (FileExistsError, NotADirectoryError):
                    raise Invalid(f"{self._path} cannot be a folder: a file stands in its way") from None
            return self._root

    def create(self, parts: list[str]) -> PartFile:
        """A file to be, at these parts; folders on the way are made. Unmappable if something is in the way."""
        folder = os.dup(self.make())
        try:
            for part in parts[:-1]:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
                inner = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
            return PartFile(folder, parts[-1])
        except OSError as problem:
            os.close(folder)
            if problem.errno in (errno.ENOTDIR, errno.ELOOP):
                raise Unmappable("a file or a link stands where a folder would have to be") from None
            where = str(self._path.joinpath(*parts))  # not the temporary name, which says nothing to anybody
            raise OSError(problem.errno, problem.strerror, where) from None
        except BaseException:
            os.close(folder)
            raise


class PartFile:
    """A file under a temporary name, until `commit` renames it or `discard` removes it."""

    def __init__(self, folder: int, name: str) -> None:
        """Takes over the folder's descriptor, but only if this succeeds."""
        self._name = name
        self._part = f".atoll-{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self._part, flags, 0o666, dir_fd=folder)
        self._folder = folder
        self._open = True
        self.file: BinaryIO = os.fdopen(handle, "wb", buffering=0)

    def commit(self) -> None:
        """Rename it into place, over a file or link of that name. Unmappable if a folder is there."""
        try:
            self.file.close()
            os.rename(self._part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as problem:
            self.discard()
            if problem.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
                raise Unmappable(f"a folder called {self._name!r} is in the way") from None
            raise
        self._close()

    def discard(self) -> None:
        """Remove it. Idempotent, and harmless after `commit`."""
        if self._open:
            with suppress(OSError):
                self.file.close()
            with suppress(OSError):
                os.unlink(self._part, dir_fd=self._folder)
            self._close()

    def _close(self) -> None:
        self._open = False
        os.close(self._folder)
