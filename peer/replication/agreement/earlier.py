"""The tables of earlier epochs: where bytes may still lie that the present owners do not hold yet (architecture §5).

"Unknown" never counts as "absent": a chunk that no present owner holds is looked for at everybody who owned it before.
"""

from __future__ import annotations

from collections.abc import Callable

from peer.replication import meta
from peer.replication.env import RowStore, Write
from ring.epoch import Epoch
from ring.table import Table

KEPT = 8
_TABLES = b"tables/"


class Earlier:
    """The last tables before the present one, newest first, durable. Equal ones are kept once."""

    def __init__(self, rows: RowStore) -> None:
        found = meta.items(rows, _TABLES, 2 * KEPT)
        self.tables: list[tuple[int, Table]] = [
            (int.from_bytes(key[len(_TABLES) :], "big"), Table.decode(value))
            for key, value in reversed(found)
        ]

    def owners(self, partition: int) -> list[str]:
        """Everybody who owned a partition before, the latest first."""
        found: dict[str, None] = {}
        for _, table in self.tables:
            found.update(dict.fromkeys(table.owners(partition)))
        return list(found)

    def keeping(self, old: Epoch | None, new: Epoch) -> tuple[list[Write], Callable[[], None]]:
        """What the commit that installs `new` on `old` writes besides, and what to call when it is durable."""
        tag = new.generation << 40 | new.number
        before = {old.generation << 40 | old.number: old.table} if old is not None else {}
        if new.previous is not None and new.previous not in before.values():
            before[tag - 1] = new.previous
        tables = dict(self.tables)
        for at, table in before.items():
            tables = {known: other for known, other in tables.items() if other != table} | {at: table}
        tables = {at: table for at, table in tables.items() if table != new.table}
        wanted = dict(sorted(tables.items(), reverse=True)[:KEPT])
        writes: list[Write] = [
            meta.write(_key(at), table.encode())
            for at, table in wanted.items()
            if (at, table) not in self.tables
        ]
        writes += [meta.remove(_key(at)) for at, _ in self.tables if at not in wanted]

        def kept() -> None:
            self.tables = list(wanted.items())

        return writes, kept


def _key(tag: int) -> bytes:
    return _TABLES + tag.to_bytes(8, "big")
