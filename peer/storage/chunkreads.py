"""Reading a chunk's record from its segment: pinned while it is read, verified before anybody sees it (P5)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from peer.buffers import HEADER_BYTES, Buffer
from peer.errors import Corrupt, NotFound, Unavailable
from peer.storage.records import Extent, payload_name, unpack_header
from peer.storage.segmentdir import SegmentDir


class ChunkReads:
    """Reads for `ChunkFiles`; blocks, from any thread. `counts` is the owner's."""

    def __init__(
        self,
        files: SegmentDir,
        pin: Callable[[Extent], bool],
        unpin: Callable[[Extent], None],
        counts: dict[str, int],
    ) -> None:
        self._files = files
        self._counts = counts
        self._pin = pin
        self._unpin = unpin

    def read(self, extent: Extent, name: bytes, buffer: Buffer, *, direct: bool = False) -> int:
        """Read the record into `buffer`, check header and BLAKE3; the payload's length.

        Raises NotFound when the extent was let go (read the row again), Corrupt when the bytes are not
        the named chunk (read the row again before anything is quarantined). `direct` bypasses the page
        cache: for scrub, which must see the disk and leave the cache to clients.
        """
        length = self._read(extent, name, buffer, direct, cached=False)
        assert length is not None, "only a cached read may have to wait"
        return length

    def read_cached(self, extent: Extent, name: bytes, buffer: Buffer) -> int | None:
        """As `read`, but None at once if the disk would have to be waited for."""
        return self._read(extent, name, buffer, direct=False, cached=True)

    def _read(self, extent: Extent, name: bytes, buffer: Buffer, direct: bool, cached: bool) -> int | None:
        if not self._pin(extent):
            raise NotFound(f"{extent} was released")
        try:
            if not self._read_raw(extent, buffer, direct, cached):
                return None
            header = unpack_header(buffer.record[:HEADER_BYTES])
            if header != (name, extent.length):
                raise self._corrupt(extent, name, "its header is damaged or of another chunk")
            if payload_name(buffer.payload(extent.length)) != name:
                raise self._corrupt(extent, name, "its bytes do not have the hash that names them")
        finally:
            self._unpin(extent)
        self._counts["reads"] += 1
        self._counts["read_bytes"] += extent.length
        return extent.length

    def _read_raw(self, extent: Extent, buffer: Buffer, direct: bool, cached: bool) -> bool:
        """Fill the buffer; False if only cached bytes were wanted and not all of them are."""
        size = extent.record_bytes if direct else HEADER_BYTES + extent.length
        if size > len(buffer.record):
            raise Corrupt(f"{extent} is larger than a chunk")
        try:
            with self._files.readable(extent.segment, direct) as fd:
                got = os.preadv(fd, [buffer.record[:size]], extent.offset, os.RWF_NOWAIT if cached else 0)
        except OSError as error:
            if cached:  # EAGAIN, or a file system without such reads: whatever it is, the full read will say
                return False
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise Unavailable(f"cannot read {extent} now: {error}") from error
            self._counts["corrupt"] += 1
            raise Corrupt(f"cannot read {extent}: {error}") from error
        if got != size:
            if cached:  # its first pages only
                return False
            self._counts["corrupt"] += 1
            raise Corrupt(f"{extent} ends after {got} of {size} bytes")
        return True

    def _corrupt(self, extent: Extent, name: bytes, why: str) -> Corrupt:
        self._counts["corrupt"] += 1
        return Corrupt(f"chunk {name.hex()} in {extent}: {why}")
