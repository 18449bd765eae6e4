"""What a chunk looks like on disk (architecture.md §9).

A record starts at a multiple of 4 KiB: a header of 64 bytes, the payload, zeros to the next multiple.

    offset  bytes
         0      8  magic
         8      2  format, 1
        10      2  zero
        12      4  length of the payload
        16     32  name: BLAKE3 of the payload
        48      8  zero
        56      8  BLAKE3 of the 56 bytes before, cut to 8

All integers are little-endian. The headers make a segment readable without rows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from blake3 import blake3

from peer.buffers import HEADER_BYTES, PAGE_BYTES

MAGIC = b"ATOLLCHK"
FORMAT = 1
NAME_BYTES = 32

_HEADER = struct.Struct("<8sHHI32s8x")
_EXTENT = struct.Struct("<IQI")
EXTENT_BYTES = _EXTENT.size


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """Where a record lies: segment id, byte offset of its header, and the length of its payload."""

    segment: int
    offset: int
    length: int

    @property
    def record_bytes(self) -> int:
        """Bytes the record occupies, header and padding included."""
        return record_bytes(self.length)

    @property
    def end(self) -> int:
        """Offset of the first byte behind the record."""
        return self.offset + record_bytes(self.length)

    def encode(self) -> bytes:
        """16 bytes."""
        return _EXTENT.pack(self.segment, self.offset, self.length)

    @staticmethod
    def decode(data: bytes) -> Extent:
        """Raises ValueError unless `data` is one encoded extent."""
        if len(data) != EXTENT_BYTES:
            raise ValueError(f"an extent has {EXTENT_BYTES} bytes, not {len(data)}")
        segment, offset, length = _EXTENT.unpack(data)
        if offset % PAGE_BYTES:
            raise ValueError(f"extent at {offset}, which is not a multiple of {PAGE_BYTES}")
        return Extent(segment, offset, length)


def record_bytes(length: int) -> int:
    """Bytes of a record whose payload has `length` bytes."""
    return -(-(HEADER_BYTES + length) // PAGE_BYTES) * PAGE_BYTES


def pack_header(name: bytes, length: int) -> bytes:
    """The 64 bytes in front of a payload."""
    assert len(name) == NAME_BYTES
    head = _HEADER.pack(MAGIC, FORMAT, 0, length, name)
    return head + blake3(head).digest(8)


def unpack_header(data: bytes | memoryview) -> tuple[bytes, int] | None:
    """(name, payload length), or None if these 64 bytes are no header of ours."""
    head = bytes(data[: _HEADER.size])
    if head[:8] != MAGIC or bytes(data[_HEADER.size : HEADER_BYTES]) != blake3(head).digest(8):
        return None
    _, fmt, _, length, name = _HEADER.unpack(head)
    return (name, length) if fmt == FORMAT else None


def lay_out(record: memoryview, name: bytes, length: int) -> memoryview:
    """Put header and padding around a payload already in place; the part of `record` to write."""
    total = record_bytes(length)
    record[:HEADER_BYTES] = pack_header(name, length)
    tail = HEADER_BYTES + length
    if tail != total:
        record[tail:total] = bytes(total - tail)
    return record[:total]


def payload_name(payload: memoryview) -> bytes:
    """The BLAKE3 hash that names a chunk. Lets go of the interpreter while it runs."""
    return blake3(payload).digest()
