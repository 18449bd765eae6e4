"""What a register holds, and how an owner stores it.

A **value** is `count u8 (bit 7: tombstone) | count x 8-byte operation ids, newest first | payload`. The ids let
a coordinator whose accept went unanswered learn whether its change is part of history (architecture,
unknown outcomes). A **stored row** is `crc32 u32 | version u8 | ballot 20 | side id u64 | value`; the crc covers the key
as well, so that a row found under the wrong key is bad too. A **side row**, the inline bytes, is `crc32 u32 | bytes`,
likewise: a read repair copies them to the other owners without knowing what they should be.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from peer.errors import Corrupt

from .ballot import BALLOT_BYTES, NONE

OP_ID_BYTES = 8
OP_IDS_KEPT = 16
_TOMBSTONE = 0x80
NEVER_WRITTEN = bytes((_TOMBSTONE,))
"""A tombstone without history: what the identity change stores where a majority holds nothing."""
_VERSION = 1
_HEADER = struct.Struct(">IB20sQ")
ROW_HEADER_BYTES = _HEADER.size
_CRC_BYTES = 4
BALLOT_SLICE = slice(5, 5 + BALLOT_BYTES)


class Accepted(NamedTuple):
    """An owner's accepted state of one register. `ballot` NONE means it never accepted anything."""

    ballot: bytes
    value: bytes
    side_id: int


NOTHING = Accepted(NONE, b"", 0)


def wrap(payload: bytes | None, previous: bytes, op_id: bytes) -> bytes:
    """A value with `payload` (None: tombstone) whose history is `previous`' and this operation."""
    kept = previous[1 : 1 + (OP_IDS_KEPT - 1) * OP_ID_BYTES] if previous else b""
    if previous:
        kept = kept[: (previous[0] & 0x1F) * OP_ID_BYTES]
    ids = op_id + kept
    count = len(ids) // OP_ID_BYTES
    if payload is None:
        return bytes((count | _TOMBSTONE,)) + ids
    return bytes((count,)) + ids + payload


def is_tombstone(value: bytes) -> bool:
    """Whether an accepted value says that there is nothing."""
    return bool(value) and bool(value[0] & _TOMBSTONE)


def payload_of(value: bytes) -> bytes | None:
    """The payload, or None for a tombstone or a register never written."""
    if not value or value[0] & _TOMBSTONE:
        return None
    return value[1 + (value[0] & 0x1F) * OP_ID_BYTES :]


def newest_operation(value: bytes) -> bytes:
    """The id of the change that made this value; b"" for a register never written."""
    return value[1 : 1 + OP_ID_BYTES] if value and value[0] & 0x1F else b""


def names_operation(value: bytes, op_id: bytes, since: bytes = b"") -> bool | None:
    """Whether `op_id` is in the value's history; None when the history may have forgotten it.

    `since`: an operation that was part of history before `op_id` was first proposed (it was chosen, so it is there
    once). While that is remembered, whatever followed it is, too.
    """
    count = (value[0] & 0x1F) if value else 0
    ids = [value[1 + i * OP_ID_BYTES : 1 + (i + 1) * OP_ID_BYTES] for i in range(count)]
    if op_id in ids:
        return True
    return None if count >= OP_IDS_KEPT and since not in ids else False


def encode_row(key: bytes, ballot: bytes, side_id: int, value: bytes) -> bytes:
    body = _HEADER.pack(0, _VERSION, ballot, side_id)[4:] + value
    return zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "big") + body


def encode_side(key: bytes, side: bytes) -> bytes:
    return zlib.crc32(side, zlib.crc32(key)).to_bytes(_CRC_BYTES, "big") + side


def decode_side(key: bytes, stored: bytes) -> bytes:
    """The inline bytes in a stored side row; Corrupt if its checksum disagrees."""
    side = stored[_CRC_BYTES:]
    if stored[:_CRC_BYTES] != zlib.crc32(side, zlib.crc32(key)).to_bytes(_CRC_BYTES, "big"):
        raise Corrupt(f"the inline value of the metadata row {key.hex()} does not match its checksum")
    return side


def decode_row(key: bytes, row: bytes | None) -> Accepted:
    """The accepted state in a stored row; Corrupt if its checksum disagrees."""
    if row is None:
        return NOTHING
    if len(row) < ROW_HEADER_BYTES:
        raise Corrupt(f"the metadata row {key.hex()} is {len(row)} bytes long, shorter than its header")
    crc, version, ballot, side_id = _HEADER.unpack_from(row)
    if zlib.crc32(memoryview(row)[4:], zlib.crc32(key)) != crc or version != _VERSION:
        raise Corrupt(f"the metadata row {key.hex()} does not match its checksum")
    return Accepted(ballot, row[ROW_HEADER_BYTES:], side_id)
