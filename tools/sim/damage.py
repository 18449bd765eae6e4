"""How much of what lies on a simulated disk is damaged: rows whose checksum disagrees, chunks whose bytes do."""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from peer.errors import Corrupt
from peer.replication.chunks.rows import decode_chunk_row, decode_reference
from peer.replication.value import decode_row, decode_side
from tools.sim.disk import SimDisk


def damaged_rows(disk: SimDisk) -> int:
    """How many registers are, inline bytes included."""
    tables, count = disk.tables, 0
    for key, row in tables["rows"].items():
        if _fails(decode_row, key, row):
            count += 1
            continue
        side_id = decode_row(key, row).side_id
        count += bool(side_id) and _fails(decode_side, key, tables["side"].get(side_id, b""))
    return count


def damaged(disk: SimDisk) -> int:
    """How many rows and chunks are."""
    tables = disk.tables
    count = damaged_rows(disk) + sum(
        _fails(decode_reference, key, row) for key, row in tables["refs"].items()
    )
    for key, row in tables["chunks"].items():
        if _fails(decode_chunk_row, key, row):
            count += 1
            continue
        held = disk.extents.get(decode_chunk_row(key, row)[1], b"")
        count += blake3(held).digest() != key[2:]
    return count


def _fails(decode: Callable[[bytes, bytes], object], key: bytes, row: bytes) -> bool:
    try:
        decode(key, row)
    except Corrupt:
        return True
    return False
