"""A peer's memory of itself: the rows of the table `meta`, each under a checksum.

Nobody else has a copy of them. A register's row that rots abstains and is replaced by the other owners' (A4); a bound
that reads lower than it was breaks promises, and a lineage with a start less says that nothing was forgotten. So:

M1  Every row is written by `write` and read by `load` or `scan`, which compare its checksum. It covers the key, too.
M2  A peer reads all of them when it starts (`check`), and does not start with a damaged one. A row whose key has rotted
    is found then; by its name it would only be absent.
"""

from __future__ import annotations

import zlib

from peer.errors import Corrupt

from .env import RowStore, Write

TABLE = "meta"
CRC_BYTES = 4
_PAGE = 256
_WHAT = {
    b"member": "the member id",
    b"boot": "its own starts",
    b"boots": "the starts it has seen of others",
    b"amnesiac": "whether it may vote",
    b"bound": "the bound of its promises",
    b"epoch": "the ring",
    b"paxos": "its votes on the next ring",
    b"merged": "the generation whose rows it has merged",
    b"workers/paused": "the paused workers",
    b"workers/rates": "the rates set for workers",
    b"epochs/": "the history of the ring",
    b"tables/": "the tables of earlier epochs",
    b"joint/": "how far a change of the ring has come",
    b"floors/": "which tombstones were purged",
    b"adopting": "whether its segments are being read for chunks",
    b"scrub": "how far everything was checked",
    b"garbage/walk": "how far garbage was looked for",
}


def write(key: bytes, value: bytes) -> Write:
    """What a commit takes to keep `value`."""
    return (TABLE, key, _crc(key, value) + value)


def remove(key: bytes) -> Write:
    return (TABLE, key, None)


def value_of(key: bytes, stored: bytes) -> bytes:
    """The value in a stored row. Raises Corrupt if its checksum disagrees."""
    value = stored[CRC_BYTES:]
    if stored[:CRC_BYTES] != _crc(key, value):
        name = repr(key)[2:-1]
        what = _WHAT.get(key) or _WHAT.get(key.partition(b"/")[0] + b"/", "not known here")
        raise Corrupt(f"the row {name!r} of this peer's own memory ({what}) does not match its checksum")
    return value


def load(rows: RowStore, key: bytes) -> bytes | None:
    """The value kept under `key`, None if there is none. Raises Corrupt."""
    stored = rows.get(TABLE, key)
    return None if stored is None else value_of(key, stored)


def scan(rows: RowStore, prefix: bytes, limit: int) -> list[bytes]:
    """The values of at most `limit` keys that begin with `prefix`, in their order. Raises Corrupt."""
    return [value for _, value in items(rows, prefix, limit)]


def items(rows: RowStore, prefix: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """At most `limit` keys that begin with `prefix`, in their order, each with its value. Raises Corrupt."""
    found = rows.scan(TABLE, prefix, prefix + b"\xff" * 9, limit)
    return [(key, value_of(key, stored)) for key, stored in found]


def check(rows: RowStore) -> None:
    """Read every row (M2): about a thousand small ones. Raises Corrupt for the first damaged one."""
    start = b""
    while page := rows.scan(TABLE, start, b"\xff" * 256, _PAGE):
        for key, stored in page:
            value_of(key, stored)
        start = page[-1][0] + b"\0"


def _crc(key: bytes, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(CRC_BYTES, "big")
