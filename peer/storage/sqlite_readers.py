"""Reading from the database: a spare connection each time, so that any thread may, and SQLite's errors as our own.

Only `sqlite.SqliteRows` uses this module.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer.errors import Corrupt, Unavailable
from peer.storage import sqlite_files as files
from peer.storage.rows import BYTES_TABLES, INT_TABLES, UNREADABLE, Key
from peer.storage.sqlite_files import SqliteOptions

KEY_TYPE: dict[str, type] = {**dict.fromkeys(BYTES_TABLES, bytes), **dict.fromkeys(INT_TABLES, int)}
DAMAGE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
"""What SQLite says of a file whose structure is wrong: nobody can tell what of it is left."""


def code_of(error: sqlite3.Error) -> int:
    """SQLite's extended result code; 0 for an error of the Python module's own."""
    return getattr(error, "sqlite_errorcode", 0)


class Readers:
    """The reading half of `Rows`. Raises Corrupt for what is damaged, Unavailable when there is nothing to read with."""

    def __init__(self, path: Path, options: SqliteOptions, damaged: Callable[[str], object]) -> None:
        self._path = path
        self._options = options
        self._damaged = damaged
        self._spare: deque[sqlite3.Connection] = deque()

    def get(self, table: str, key: Key) -> bytes | None:
        rows = self._query(files.GET[table], (key,))
        if not rows:
            return None
        if type(rows[0][0]) is not bytes:
            raise self._odd(table)
        return rows[0][0]

    def scan(self, table: str, start: Key, end: Key, limit: int) -> list[tuple[Key, bytes]]:
        found = self._query(files.SCAN[table], (start, end, limit))
        self._check(table, found)
        return found

    def heads(
        self, table: str, start: Key, end: Key, limit: int, head_bytes: int
    ) -> list[tuple[Key, bytes, int]]:
        found = self._query(files.HEADS[table], (head_bytes, start, end, limit))
        self._check(table, found)
        return found

    def _check(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        kind = KEY_TYPE[table]
        for row in rows:
            if type(row[0]) is not kind or type(row[1]) is not bytes:
                raise self._odd(table)

    def last(self, table: str) -> Key | None:
        rows = self._query(files.LAST[table], ())
        if rows and type(rows[0][0]) is not KEY_TYPE[table]:
            raise self._odd(table)
        return rows[0][0] if rows else None

    def _odd(self, table: str) -> Corrupt:
        """SQLite stores a type with every value; a flipped bit may change it."""
        return Corrupt(
            f"this peer's metadata in {self._path} is damaged: table {table} holds a value of another type; other peers may"
            " have it. Look at its disk"
        )

    def _query(self, sql: str, parameters: tuple[Key, ...]) -> list[tuple[Any, ...]]:
        try:
            try:
                reader = self._spare.pop()  # the one used last: its statements and pages are warm
            except IndexError:
                reader = files.reader(self._path, self._options)
            try:
                return reader.execute(sql, parameters).fetchall()
            finally:
                self._spare.append(reader)
        except sqlite3.Error as error:
            code = code_of(error) & 0xFF
            if code in DAMAGE:
                self._damaged(f"the metadata database {self._path} is damaged: {error}")
            if code in (*DAMAGE, sqlite3.SQLITE_IOERR):
                raise Corrupt(
                    f"this peer cannot read its metadata in {self._path}: {error}; other peers may. Look at its disk",
                    code=None if code in DAMAGE else UNREADABLE,
                ) from error
            raise Unavailable(
                f"this peer cannot read its metadata in {self._path} now: {error}; try another peer"
            ) from error

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()
