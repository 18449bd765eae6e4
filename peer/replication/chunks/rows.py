"""How the rows of chunks and of references to them are encoded; each carries a checksum over its key as well.

chunks: key partition u16 | name 32;            crc32 u32 | version u8 | state u8 | extent 16
refs:   key partition u16 | name 32 | attempt;  crc32 u32 | back pointer, the row key of the head that names the attempt
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator

from peer.errors import Corrupt
from peer.replication.env import RowStore
from peer.storage.records import Extent
from ring.hashing import partition_of

LIVE, QUARANTINED, LOST = 1, 2, 3
ROWS_A_PAGE = 2000
NAME_END = 34
"""Where the attempt begins in a reference's key; what is before it is the chunk's key."""
_ROW_VERSION = 1


def chunk_key(name: bytes, partition_power: int) -> bytes:
    """Row key of a chunk: partition u16, name."""
    return partition_of(name, partition_power).to_bytes(2, "big") + name


def encode_chunk_row(key: bytes, state: int, extent: Extent) -> bytes:
    body = bytes((_ROW_VERSION, state)) + extent.encode()
    return zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "big") + body


def decode_chunk_row(key: bytes, row: bytes) -> tuple[int, Extent]:
    """(state, extent). Raises Corrupt."""
    if (
        len(row) != 22
        or zlib.crc32(row[4:], zlib.crc32(key)).to_bytes(4, "big") != row[:4]
        or row[4] != _ROW_VERSION
    ):
        raise Corrupt(f"the row of chunk {key[2:].hex()} does not match its checksum")
    return row[5], Extent.decode(row[6:])


def encode_reference(key: bytes, back: bytes) -> bytes:
    """The row of a reference: crc32 u32 over key and back pointer, back pointer."""
    return zlib.crc32(back, zlib.crc32(key)).to_bytes(4, "big") + back


def decode_reference(key: bytes, row: bytes) -> bytes:
    """The back pointer. Raises Corrupt."""
    if zlib.crc32(row[4:], zlib.crc32(key)).to_bytes(4, "big") != row[:4]:
        raise Corrupt(f"a reference to chunk {key[2:NAME_END].hex()} does not match its checksum")
    return row[4:]


def named_extents(
    rows: RowStore, damaged: Callable[[], None] = lambda: None, lost: Callable[[bytes], None] | None = None
) -> Iterator[tuple[bytes, Extent]]:
    """(chunk name, extent) of every row whose bytes should be there, damaged rows left out; read in pages.

    `damaged` is called for each row that says that its bytes are lost or quarantined. With `lost`, the former count as well,
    and it is told their names: they may be there again.
    """
    start = b""
    while True:
        page = rows.scan("chunks", start, b"\xff" * 35, ROWS_A_PAGE)
        for key, row in page:
            start = key + b"\0"
            with contextlib.suppress(Corrupt):
                state, extent = decode_chunk_row(key, row)
                if state != LIVE:
                    damaged()
                if state == LOST and lost is not None:
                    lost(key[2:])
                if state != LOST or lost is not None:
                    yield key[2:], extent
        if len(page) < ROWS_A_PAGE:
            return
