"""What comparing costs: two peers with many rows and few differences exchange bytes in proportion to the differences.

Real databases, the real messages, counted as they would be packed; only the wire between the two is left out.
`pytest -s -m "" tests/test_copy_figures.py` prints the figures, of a million rows each too (docs/figures.md).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from shutil import copy
from typing import Any

import msgpack
import pytest

from peer.realenv import LoopEnv
from peer.replication.copying.digests import LEAVES
from peer.replication.copying.registersync import REGISTERS, RegisterSide
from peer.replication.copying.sync import Copies, Pulled
from peer.replication.env import Done
from peer.replication.keys import OBJECT, Space, partition_in
from peer.replication.messages import COPY_DIGESTS, COPY_FETCH, COPY_LEAVES, COPY_LIST
from peer.replication.registers.acceptor import Acceptor
from peer.replication.value import encode_row, wrap
from peer.storage.sqlite import SqliteRows
from tests.replication_world import ballot_at

Figure = Callable[[str, object], None]
POWER = 12
PARTITIONS = range(1 << POWER)
VALUE = wrap(bytes(120), b"", b"planted!")


class Node:
    """One peer's registers, with the messages of copying counted in bytes."""

    tag = 1

    def __init__(self, database: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.env = LoopEnv(loop)
        self.rows = SqliteRows(database, loop)
        self.acceptor = Acceptor(self.rows, loop.time)
        self.side = RegisterSide(self.env, self.rows, self.acceptor, self._settle)
        self.copies = Copies(self.env, self, self._send)
        self.copies.add(REGISTERS, self.side)
        self.other: Node | None = None
        self.wire_bytes = 0
        self.messages = 0

    async def _settle(self, key: bytes) -> None:
        raise AssertionError("nothing is refused here")

    def _send(self, member: str, message: tuple[Any, ...], deadline_s: float, done: Done) -> None:
        assert self.other is not None
        copies = self.other.copies
        handler = {
            COPY_DIGESTS: copies.on_digests, COPY_LEAVES: copies.on_leaves, COPY_LIST: copies.on_list,
            COPY_FETCH: copies.on_fetch,
        }[message[0]]  # fmt: skip

        def replied(reply: tuple[Any, ...]) -> None:
            packed = msgpack.packb(reply)
            self.wire_bytes += len(packed)
            done(msgpack.unpackb(packed))

        self.messages += 1
        self.wire_bytes += len(msgpack.packb(message))
        handler(message, replied)

    async def pull(self) -> Pulled:
        return await self.copies.pull(REGISTERS, "the other", PARTITIONS)


def keys(count: int, buckets: int) -> Iterable[bytes]:
    spaces = [Space(OBJECT, number.to_bytes(8, "big"), 64, POWER) for number in range(buckets)]
    for number in range(count):
        yield spaces[number % buckets].row_key(b"photos/%04d/%07d.jpg" % (number // 1000, number))


def fill(database: Path, rows: int, buckets: int) -> None:
    """As many registers as asked for, put into the table directly."""

    async def create() -> None:
        SqliteRows(database, asyncio.get_running_loop()).close()

    asyncio.run(create())
    ballot = ballot_at(1)
    with closing(sqlite3.connect(database)) as connection, connection:
        found = ((key, encode_row(key, ballot, 0, VALUE)) for key in sorted(keys(rows, buckets)))
        connection.executemany("insert into rows (k, v) values (?, ?)", found)


def compare(directory: Path, rows: int, buckets: int, figure: Figure) -> None:
    mine, theirs = directory / "mine.db", directory / "theirs.db"
    fill(mine, rows, buckets)
    copy(mine, theirs)
    some = list(keys(rows, buckets))[:: rows // 10][:10]
    with closing(sqlite3.connect(theirs)) as connection, connection:
        newer = [(key, encode_row(key, ballot_at(2), 0, VALUE)) for key in some]
        connection.executemany("insert or replace into rows (k, v) values (?, ?)", newer)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        a, b = Node(mine, loop), Node(theirs, loop)
        a.other, b.other = b, a
        try:
            began_s = time.process_time()
            for node in (a, b):
                await node.copies.build(node.side, PARTITIONS)
            figure("digests of one peer built in, CPU s", round((time.process_time() - began_s) / 2, 2))
            began_s = time.process_time()
            pulled = await a.pull()
            figure("ten differences found and fetched in, CPU s", round(time.process_time() - began_s, 3))
            figure("bytes exchanged", a.wire_bytes)
            figure("messages", a.messages)
            assert pulled.rows == 10 and pulled.settled == 0
            assert all(a.acceptor.ballot_of(key) == ballot_at(2) for key in some)
            differing, a.wire_bytes = a.wire_bytes, 0
            began_s = time.process_time()
            assert (await a.pull()).rows == 0
            figure("nothing differs: CPU s", round(time.process_time() - began_s, 3))
            figure("nothing differs: bytes exchanged", a.wire_bytes)
            a_leaf = rows / LEAVES / len({partition_in(key) for key in keys(rows, buckets)})
            a_difference = (differing - a.wire_bytes) / 10
            figure("bytes for each difference", round(a_difference))
            assert a.wire_bytes < 60_000, "a digest of each partition, and no more"
            assert a_difference < 2000 + 150 * a_leaf, "a leaf is listed for each difference, and no more"
        finally:
            for node in (a, b):
                await node.env.close()
                node.rows.close()

    asyncio.run(work())


@pytest.mark.parametrize("buckets", [1, 500])
def test_bytes_in_proportion_to_the_differences(
    tmp_path: Path, buckets: int, record_property: Figure
) -> None:
    """Goal: 40,000 rows each, ten differences."""
    compare(tmp_path, 40_000, buckets, record_property)


@pytest.mark.full
@pytest.mark.parametrize("buckets", [1, 500])
def test_bytes_in_proportion_with_a_million_rows(
    large_path: Path, buckets: int, record_property: Figure
) -> None:
    """Goal: a million rows each, ten differences: in one bucket (64 partitions hold all of it), and in 500."""
    compare(large_path, 1_000_000, buckets, record_property)
