"""A peer's data directory: its lock, its layout, and what is checked before anything is written.

The layout is in the docstring of `peer.storage` and docs/operate.md.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peer.errors import StartupError
from peer.storage.ballast import Ballast
from peer.storage.durable import write_file
from peer.storage.syscalls import file_system

log = logging.getLogger(__name__)

MIB = 1 << 20

PID_FILE = "peer.pid"
PEER_FILE = "peer.json"
KEY_FILE = "cluster.key"
ROOT_FILE = "root.json"
CLUSTER_FILE = "cluster.json"
RETURN_FILE = "return.json"
CA_FILE = "ca.pem"

_OURS = {
    PID_FILE, PEER_FILE, KEY_FILE, ROOT_FILE, CLUSTER_FILE, RETURN_FILE, CA_FILE, "rows", "segments", "ballast",
}  # fmt: skip
_HARMLESS = {"lost+found"}
_REMEDIES = {
    errno.ENOSPC: "free some space there, or give another --data",
    errno.EDQUOT: "free some of this user's space there, or give another --data",
    errno.EROFS: "mount it writable, or give another --data",
    errno.EACCES: "run as the user it belongs to, or give another --data",
    errno.EPERM: "run as the user it belongs to, or give another --data",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the disk fails: look at it",
}

MIN_FREE_BYTES = 192 * MIB
"""A new directory needs so much: a segment, the log of the database, and some rows."""
START_BYTES = 4 * MIB
"""A start writes a little: its pid, the boot counter, the database's shared memory. Below this the ballast goes first."""
MIN_FREE_INODES = 64
MIN_OPEN_FILES = 512
WANTED_OPEN_FILES = 65536


def floor_bytes(total: int) -> int:
    """Free space below which new chunks are refused: 2 % of the file system, between 64 MiB and 4 GiB."""
    return min(max(total // 50, 64 * MIB), 4096 * MIB)


class DataDir:
    """An open, locked data directory. `warnings` are sentences for the log and for `doctor`."""

    def __init__(self, path: Path, lock: int, warnings: list[str]) -> None:
        """Use `DataDir.open`."""
        self.path = path
        self.warnings = warnings
        self._lock: int | None = lock
        self.total_bytes = _total_bytes(self.segments_path)
        self.floor_bytes = floor_bytes(self.total_bytes)
        # Given up for rows, it must lie where these do.
        rows = self.rows_path.parent
        place = path if _same_disk(path, rows) else rows
        self.ballast = Ballast(place / "ballast", min(64 * MIB, floor_bytes(_total_bytes(rows)) // 4))

    @staticmethod
    def open(path: Path) -> DataDir:
        """Create if need be, lock and check the directory; writes `peer.pid`.

        Raises StartupError, with the remedy, for a directory in use by a live peer, of somebody else's
        files, on a network file system, unwritable, or without room; a refused start changes nothing
        but a new directory's existence and an old one's mode.
        """
        path = path.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            warnings = _check(path)
            os.fchmod(lock, 0o700)
            for name in ("rows", "segments"):
                (path / name).mkdir(mode=0o700, exist_ok=True)
            os.fsync(lock)
            directory = DataDir(path, lock, warnings)
            if directory.ballast.measure() < START_BYTES:
                directory.ballast.release()
            write_file(path / PID_FILE, f"{os.getpid()}\n".encode())
            return directory
        except OSError as error:
            os.close(lock)
            raise _unusable(path, error) from error
        except BaseException:
            os.close(lock)
            raise

    @staticmethod
    def refuse_used(path: Path) -> None:
        """StartupError if a live peer has the directory; touches nothing."""
        if path.is_dir():
            os.close(_lock(path))

    @staticmethod
    @contextmanager
    def held(path: Path) -> Iterator[None]:
        """Keep peers away from a directory and change nothing in it. StartupError if a live one has it."""
        fd = _lock(path)
        try:
            yield
        finally:
            os.close(fd)

    @property
    def rows_path(self) -> Path:
        """The metadata database."""
        return self.path / "rows" / "atoll.db"

    @property
    def lost_path(self) -> Path:
        """Where a former database is put aside, as `rows/` of that directory: on the disk it is on."""
        return self.path / "rows" / "lost"

    @property
    def segments_path(self) -> Path:
        """The directory of segments."""
        return self.path / "segments"

    # --- small files ---

    def write_json(self, name: str, value: Any) -> None:
        """Replace DIR/name (0600) atomically and durably. Raises OSError, the old content then stays."""
        write_file(self.path / name, json.dumps(value, indent=2).encode() + b"\n")

    def read_json(self, name: str) -> Any | None:
        """The content of DIR/name, None if there is no such file. Raises StartupError if it is damaged."""
        try:
            return json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise StartupError(f"{self.path / name} cannot be read: {error}; restore or remove it") from error

    def write_cluster_key(self, key: bytes) -> None:
        """Keep the cluster's 32-byte key in DIR/cluster.key, as hex digits."""
        write_file(self.path / KEY_FILE, key.hex().encode() + b"\n")

    def cluster_key(self) -> bytes | None:
        """The key in DIR/cluster.key, None if there is none. Raises StartupError if it is no key."""
        return read_cluster_key(self.path / KEY_FILE)

    def close(self) -> None:
        """Remove `peer.pid` and let the directory go. Idempotent."""
        if self._lock is None:
            return
        try:
            (self.path / PID_FILE).unlink(missing_ok=True)
        except OSError as error:  # of a read-only disk: the next start overwrites it
            log.warning("cannot remove %s: %s", self.path / PID_FILE, error.strerror)
        os.close(self._lock)
        self._lock = None


def read_cluster_key(path: Path) -> bytes | None:
    """The 32-byte key in a file of 64 hex digits, None if there is no file. Raises StartupError."""
    try:
        key = bytes.fromhex(path.read_text("ascii"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StartupError(
            f"{path} is not a readable cluster key: {error}; copy DIR/cluster.key of a running peer there"
        ) from error
    if len(key) != 32:
        raise StartupError(
            f"{path} is not a cluster key of 64 hex digits; copy DIR/cluster.key of a running peer there"
        )
    return key


def _lock(path: Path) -> int:
    """flock the directory itself: no file to leave behind, and the kernel lets go when the process dies."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        try:
            owner = f"pid {int((path / PID_FILE).read_text())}"
        except (OSError, ValueError):
            owner = "pid unknown, it is just starting"
        raise StartupError(
            f"{path} is in use by a running peer ({owner}); stop that one or give another --data"
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _total_bytes(path: Path) -> int:
    space = os.statvfs(path)
    return space.f_blocks * space.f_frsize


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _check(path: Path) -> list[str]:
    """Warnings; StartupError for what makes a peer impossible here."""
    warnings: list[str] = []
    names = {entry.name for entry in path.iterdir()}
    new = not names & _OURS
    if new and names - _HARMLESS:
        some = ", ".join(sorted(names)[:3])
        raise StartupError(
            f"{path} holds files that are no peer's ({some}); give an empty directory as --data"
        )
    apart = [path / name for name in ("rows", "segments") if (path / name).is_dir()]
    for place in [path, *(one for one in apart if not _same_disk(path, one))]:
        _check_disk(place, PEER_FILE not in names, warnings)
    _check_open_files()
    return warnings


def _check_disk(path: Path, new: bool, warnings: list[str]) -> None:
    """The same for one disk: the directory's, or one that is mounted in it."""
    system = file_system(path)
    if system.kind == "network":
        raise StartupError(
            f"{path} is on {system.name}, a network file system: locks, holes and fsync cannot be relied on"
            " there; give a directory on a local disk as --data"
        )
    if system.kind == "memory":
        warnings.append(f"{path} is on {system.name}: everything stored is lost when this machine stops")
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise StartupError(
            f"{path} is on a file system that is mounted read-only: a peer must write there. If it was not meant to be, the"
            " kernel found an error on the disk: look at its log (dmesg), check the file system, mount it writable"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise StartupError(f"{path} is not writable by this user: {_REMEDIES[errno.EACCES]}")
    _check_space(path, new, warnings)


def _check_space(path: Path, new: bool, warnings: list[str]) -> None:
    """A new peer needs room; an old one, which entered a ring, must start on a full disk too, to serve and to delete."""
    space = os.statvfs(path)
    free, floor = space.f_bavail * space.f_frsize, floor_bytes(space.f_blocks * space.f_frsize)
    problems: list[str] = []
    if free < MIN_FREE_BYTES:
        problems.append(f"only {free // MIB} MiB free at {path}; a new peer needs {MIN_FREE_BYTES // MIB}")
    elif free < floor:
        warnings.append(f"{free // MIB} MiB free at {path}: below {floor // MIB} new chunks are refused")
    if space.f_files and space.f_favail < MIN_FREE_INODES:
        problems.append(f"only {space.f_favail} inodes free at {path}")
    if new and problems:
        raise StartupError("; ".join(problems) + "; free some or give another --data")
    warnings += problems


def _check_open_files() -> None:
    """Raise the soft limit of open files as far as allowed; refuse a hopeless one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        raise StartupError(
            f"only {soft} open files are allowed, a peer needs {MIN_OPEN_FILES}; raise the limit (ulimit -n)"
        )


def _unusable(path: Path, error: OSError) -> StartupError:
    remedy = _REMEDIES.get(error.errno or 0, "give a directory on a local disk as --data")
    return StartupError(f"{path} cannot be used as a data directory: {error.strerror or error}; {remedy}")
