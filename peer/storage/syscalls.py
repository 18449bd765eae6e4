"""fallocate(2) and statfs(2) by way of ctypes (Linux only).

`os.posix_fallocate` will not do: where the file system cannot preallocate it writes zeros instead, which
takes seconds and wears the disk, and Python has no way to punch holes.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from pathlib import Path

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def fallocate(fd: int, offset: int, size: int, mode: int = 0) -> None:
    """Preallocate (or punch, by `mode`) `size` bytes at `offset`. Raises OSError, EOPNOTSUPP included."""
    while _fallocate(fd, mode, offset, size) != 0:
        error = ctypes.get_errno()
        if error != errno.EINTR:
            raise OSError(error, os.strerror(error))


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Return the range to the file system; it reads as zeros from now. Raises OSError."""
    fallocate(fd, offset, size, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)


def data_end(fd: int) -> int:
    """Offset behind the last byte of the file that was ever written; preallocated space is not.

    Where the file system cannot tell holes from data this is the file's size. Raises OSError.
    """
    size = os.fstat(fd).st_size
    end = offset = 0
    while offset < size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here on
                break
            raise
        offset = end = os.lseek(fd, offset, os.SEEK_HOLE)
    return end


_MAGICS = {
    0x6969: ("NFS", "network"),
    0x517B: ("SMB", "network"),
    0xFF534D42: ("CIFS", "network"),
    0xFE534D42: ("SMB2", "network"),
    0x5346414F: ("AFS", "network"),
    0x6B414653: ("AFS", "network"),
    0x73757245: ("Coda", "network"),
    0x00C36400: ("CephFS", "network"),
    0x01021997: ("9P", "network"),
    0x0BD00BD0: ("Lustre", "network"),
    0x47504653: ("GPFS", "network"),
    0x20030528: ("OrangeFS", "network"),
    0x01021994: ("tmpfs", "memory"),
    0x858458F6: ("ramfs", "memory"),
    0xEF53: ("ext4", "local"),
    0x58465342: ("XFS", "local"),
    0x9123683E: ("btrfs", "local"),
    0x65735546: ("FUSE", "local"),
    0x794C7630: ("overlayfs", "local"),
    0x2FC12FC1: ("ZFS", "local"),
    0xF2F52010: ("F2FS", "local"),
}


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What statfs says: a name, and its kind ("local", "network" or "memory")."""

    name: str
    kind: str


def file_system(path: Path) -> FileSystem:
    """The file system that holds `path`. Unknown ones count as local. Raises OSError."""
    # f_type is the first word of struct statfs on every Linux; 512 bytes hold the structure anywhere.
    buffer = ctypes.create_string_buffer(512)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
    magic = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_long))[0] & 0xFFFFFFFF
    name, kind = _MAGICS.get(magic, (f"type {magic:#x}", "local"))
    return FileSystem(name, kind)
