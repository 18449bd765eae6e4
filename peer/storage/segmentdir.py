"""The files of a `segments/` directory: names, descriptors, and one function per operation.

`NNNNNNNN.open` is preallocated and being written; sealing cuts it to its end and renames it to
`NNNNNNNN.seg`. A rename lost in a crash does no harm: the next start seals again.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from peer.buffers import HEADER_BYTES, PAGE_BYTES, Buffer
from peer.errors import StartupError
from peer.storage.durable import sync_directory
from peer.storage.records import Extent, payload_name, record_bytes, unpack_header
from peer.storage.syscalls import data_end, fallocate, file_system, punch_hole

_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class SegmentDir:
    """Files of one directory. Every method may be called from any thread and may raise OSError."""

    def __init__(
        self, path: Path, *, direct: bool = True, open_files: int = 256, sync_names: bool = True
    ) -> None:
        """`direct`: O_DIRECT for writes and scans if possible. `open_files`: descriptors kept for reading."""
        self.path = path
        self.direct = direct
        self._open_files = open_files
        self._sync_names = sync_names
        self._lock = threading.Lock()
        self._writable: dict[int, int] = {}  # of unsealed segments
        self._readable: OrderedDict[int, _Descriptor] = OrderedDict()  # least recently used first

    # --- start-up ---

    def probe(self) -> None:
        """Check that the file system preallocates and punches; learn whether it takes O_DIRECT.

        Raises StartupError when it cannot do what segments need. A full one is believed: a peer must start there to serve
        and to delete.
        """
        self.path.mkdir(mode=0o700, exist_ok=True)
        probe = self.path / "probe.tmp"
        fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fallocate(fd, 0, 4 * PAGE_BYTES)
            punch_hole(fd, PAGE_BYTES, PAGE_BYTES)
        except OSError as error:
            if error.errno in _NO_FALLOCATE:
                name = file_system(self.path).name
                raise StartupError(
                    f"{self.path} is on {name}, which cannot preallocate files or punch holes in them;"
                    " put the data directory on ext4, XFS or btrfs"
                ) from error
            if error.errno not in _NO_ROOM:
                raise
        finally:
            os.close(fd)
            probe_direct = self._takes_direct(probe) if self.direct else False
            probe.unlink()
        self.direct = probe_direct

    def _takes_direct(self, probe: Path) -> bool:
        buffer = Buffer(PAGE_BYTES)
        try:
            fd = os.open(probe, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return os.pwrite(fd, buffer.record[:PAGE_BYTES], 0) == PAGE_BYTES
        except OSError as error:
            return error.errno in _NO_ROOM
        finally:
            os.close(fd)

    def recover(self) -> tuple[list[tuple[int, int]], int]:
        """Seal what an earlier start left open; (id, size) of all segments, and the bytes cut off."""
        found: list[tuple[int, int]] = []
        truncated = 0
        for path in sorted(self.path.iterdir()):
            if path.suffix not in (".open", ".seg") or not path.stem.isdigit():
                continue
            segment = int(path.stem)
            size = path.stat().st_size
            if path.suffix == ".open" or size % PAGE_BYTES:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    end = -(-data_end(fd) // PAGE_BYTES) * PAGE_BYTES
                finally:
                    os.close(fd)
                self.seal(segment, end)
                truncated += size - end
                size = end
            found.append((segment, size))
        return found, truncated

    def free_bytes(self) -> int:
        """What an unprivileged process may still allocate on this file system."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    # --- operations ---

    def create(self, segment: int, size: int) -> None:
        """A preallocated file whose space and name are durable. Leaves nothing behind when it fails."""
        path = self._open_path(segment)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | self._direct_flag, 0o600)
        try:
            fallocate(fd, 0, size)
            os.fsync(fd)
            if self._sync_names:
                sync_directory(self.path)
        except BaseException:
            os.close(fd)
            path.unlink()
            raise
        with self._lock:
            self._writable[segment] = fd

    def seal(self, segment: int, size: int) -> None:
        """Cut the file to `size`, durably, and give it its sealed name."""
        with self._lock:
            fd = self._writable.pop(segment, None)
        if fd is None:
            fd = self._open(segment, os.O_RDWR)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)
        path = self._open_path(segment)
        if path.exists():
            path.rename(self._sealed_path(segment))

    def allocated(self, segment: int) -> int:
        """Bytes that the file system holds for a sealed segment; 0 for one that vanished."""
        with suppress(FileNotFoundError):
            return self._sealed_path(segment).stat().st_blocks * 512
        return 0

    def punch(self, segment: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Return the ranges (offset, bytes) to the file system. A file that vanished has returned them."""
        try:
            fd = self._open(segment, os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            for offset, size in ranges:
                punch_hole(fd, offset, size)
        finally:
            os.close(fd)

    def remove(self, segment: int) -> bool:
        """Unlink the file, unless it still holds data: then False, and it stays. One that vanished is gone."""
        with suppress(FileNotFoundError):
            with self.readable(segment) as fd:
                if data_end(fd):
                    return False
            self._sealed_path(segment).unlink()
        with self._lock:
            descriptor = self._readable.pop(segment, None)
            if descriptor is not None and not descriptor.users:
                os.close(descriptor.fd)
        return True

    # --- descriptors ---

    def writable(self, segment: int) -> int:
        """The descriptor that an unsealed segment is written with."""
        return self._writable[segment]

    @contextmanager
    def readable(self, segment: int, direct: bool = False) -> Iterator[int]:
        """A descriptor for reading; the last `open_files` of them stay open."""
        if direct and self.direct:
            fd = self._open(segment, os.O_RDONLY | os.O_DIRECT)
            try:
                yield fd
            finally:
                os.close(fd)
            return
        descriptor = self._borrow(segment)
        try:
            yield descriptor.fd
        finally:
            self._return(segment, descriptor)

    def _borrow(self, segment: int) -> _Descriptor:
        with self._lock:
            descriptor = self._readable.get(segment)
            if descriptor is None:
                fd = self._open(segment, os.O_RDONLY)
                descriptor = self._readable[segment] = _Descriptor(fd)
            else:
                self._readable.move_to_end(segment)
            descriptor.users += 1
            return descriptor

    def _return(self, segment: int, descriptor: _Descriptor) -> None:
        with self._lock:
            descriptor.users -= 1
            if self._readable.get(segment) is not descriptor:  # removed meanwhile
                if not descriptor.users:
                    os.close(descriptor.fd)
                return
            if len(self._readable) > self._open_files:
                idle = [s for s, d in self._readable.items() if not d.users]
                for s in idle[: len(self._readable) - self._open_files]:
                    os.close(self._readable.pop(s).fd)

    def close(self) -> None:
        """Close every descriptor. Unsealed segments are sealed by the next start."""
        with self._lock:
            for fd in self._writable.values():
                os.close(fd)
            for descriptor in self._readable.values():
                os.close(descriptor.fd)
            self._writable.clear()
            self._readable.clear()

    # --- scanning ---

    def scan(self, segment: int, buffer: Buffer) -> Iterator[tuple[bytes, Extent]]:
        """See `ChunkFiles.scan`."""
        with self.readable(segment, direct=True) as fd:
            size = os.fstat(fd).st_size
            offset = 0
            while offset < size:
                try:
                    # A hole's end lies on a block boundary of the file system: round up to ours.
                    offset = -(-os.lseek(fd, offset, os.SEEK_DATA) // PAGE_BYTES) * PAGE_BYTES
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        return
                    raise
                found = self._record_at(fd, segment, offset, size, buffer)
                if found is None:
                    offset += PAGE_BYTES
                else:
                    offset = found[1].end
                    yield found

    def _record_at(
        self, fd: int, segment: int, offset: int, size: int, buffer: Buffer
    ) -> tuple[bytes, Extent] | None:
        record = buffer.record
        if os.preadv(fd, [record[:PAGE_BYTES]], offset) < HEADER_BYTES:
            return None
        header = unpack_header(record[:HEADER_BYTES])
        if header is None:
            return None
        name, length = header
        total = record_bytes(length)
        if total > len(record) or offset + total > size:
            return None
        rest = total - PAGE_BYTES
        if rest and os.preadv(fd, [record[PAGE_BYTES:total]], offset + PAGE_BYTES) != rest:
            return None
        if payload_name(buffer.payload(length)) != name:
            return None
        return name, Extent(segment, offset, length)

    # --- names ---

    @property
    def _direct_flag(self) -> int:
        return os.O_DIRECT if self.direct else 0

    def _open_path(self, segment: int) -> Path:
        return self.path / f"{segment:08d}.open"

    def _sealed_path(self, segment: int) -> Path:
        return self.path / f"{segment:08d}.seg"

    def _open(self, segment: int, flags: int) -> int:
        try:
            return os.open(self._sealed_path(segment), flags | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        try:
            return os.open(self._open_path(segment), flags | os.O_CLOEXEC)
        except FileNotFoundError:  # sealed, and so renamed, between the two attempts
            return os.open(self._sealed_path(segment), flags | os.O_CLOEXEC)


class _Descriptor:
    __slots__ = ("fd", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0
