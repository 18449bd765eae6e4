"""Registers as a side of copying: versions are accepted ballots, rows are applied as delayed accepts (§6, copying)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from peer.errors import Corrupt, Full, ReadOnly, Unavailable
from peer.replication.ballot import NONE
from peer.replication.env import Env, RowStore
from peer.replication.keys import OBJECT, partition_in, ranges_of
from peer.replication.messages import BUSY, NO_ROOM, OK, READ_ONLY
from peer.replication.registers.acceptor import Acceptor
from peer.replication.value import decode_row

from .digests import Digests
from .sync import Pulled

REGISTERS = 0
FETCH_BYTES_MOST = 256 * 1024
"""Of rows in one answer: four partitions are copied at once, and over 0.5 MB/s all must be there within `sync.ASK_S`."""
SETTLE_S, SETTLE_TRIES = 1.0, 20
_SKIPPED = -1


class RegisterSide:
    """The registers one peer owns, to be copied. `settle_row` has a register's value accepted anew, above our promise.

    `plain`: whether what one owner has accepted may be taken over as it is. Not while a partition has two sets of owners:
    the promises that shut a value out were given by the old ones, and the new ones, who know nothing of them, would take
    it for chosen when they are alone (`merging`). It is settled instead.
    """

    def __init__(
        self,
        env: Env,
        rows: RowStore,
        acceptor: Acceptor,
        settle_row: Callable[[bytes], Awaitable[None]],
        plain: Callable[[bytes], bool] = lambda key: True,
    ) -> None:
        self._env = env
        self._rows = rows
        self._acceptor = acceptor
        self._settle_row = settle_row
        self._plain = plain
        self.void_promises = False
        """While a new generation's rows are merged (`recovery`). Nobody votes then: nothing can be settled, nor need be."""
        self.digests = Digests(self._scan, ranges_of, partition_in, lambda key: key[0] == OBJECT)
        acceptor.on_commit = self.digests.fold
        acceptor.on_damage = lambda key: self.digests.drop(partition_in(key))

    def _scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes | None]]:
        found = self._rows.scan("rows", start, end, limit)
        return [(key, self._acceptor.committed_ballot(key, row)) for key, row in found]

    def ranges(self, partition: int) -> list[tuple[bytes, bytes]]:
        return ranges_of(partition)

    def listed(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes | None]]:
        return [(key, _ballot(key, row)) for key, row in self._rows.scan("rows", start, end, limit)]

    def lacks(self, key: bytes, version: bytes) -> bool:
        held = self._acceptor.ballot_of(key)
        return version > held and not (held == NONE and version <= self._acceptor.floors.floor(key))

    def fetch(self, keys: Sequence[bytes]) -> list[Any]:
        """[key, ballot | None if damaged, value, side | None]"""
        found: list[tuple[bytes, bytes | None, bytes, bytes | None]] = []
        size = 0
        for key in keys:
            try:
                accepted, side = self._acceptor.stored(key)
                found.append((key, accepted.ballot, accepted.value, side))
                size += len(accepted.value) + len(side or b"")
            except Corrupt:
                found.append((key, None, b"", None))
            if size >= FETCH_BYTES_MOST:
                break
        return found

    async def apply(self, found: Sequence[Any], pulled: Pulled) -> list[bytes]:
        """Merge fetched rows, in one commit more or less; those refused or damaged are to be settled.

        Raises Full or Unavailable when there is no room for some of them: settling them would find none either."""
        refused: list[bytes] = []
        waiting = len(found)
        no_room: set[int] = set()
        merged_all = self._env.future()

        def merged(key: bytes, answer: tuple[Any, ...]) -> None:
            nonlocal waiting
            waiting -= 1
            if answer[0] == OK:
                pulled.rows += 1
            elif answer[0] in NO_ROOM:
                no_room.add(answer[0])
            elif answer[0] != _SKIPPED:
                refused.append(key)
            if waiting == 0 and not merged_all.done():
                merged_all.set_result(None)

        for key, ballot, value, side in found:
            pulled.bytes += len(key) + len(value) + len(side or b"") + 20
            if ballot is None:
                refused.append(key)
                merged(key, (_SKIPPED,))
            elif not self.lacks(key, ballot):
                merged(key, (_SKIPPED,))  # it came by another way meanwhile
            elif not self._plain(key) and not self.void_promises:
                refused.append(key)
                merged(key, (_SKIPPED,))
            else:
                self._acceptor.merge(key, ballot, value, side, partial(merged, key), self.void_promises)
        if found:
            await merged_all
        if BUSY in no_room:
            raise Unavailable("too many writes wait for this peer's disk: what it missed has to wait, too")
        if READ_ONLY in no_room:
            raise ReadOnly("its disk is read-only: what it missed has to wait")
        if no_room:
            raise Full("its disk is full: what it missed has to wait")
        return refused

    async def settle(self, key: bytes, pulled: Pulled) -> None:
        """The value is accepted anew by a majority; this owner's part of it may come a moment later."""
        if self.void_promises:
            return
        before = self._acceptor.ballot_of(key)
        await self._settle_row(key)
        for _ in range(SETTLE_TRIES):
            if self._acceptor.ballot_of(key) > before:
                return
            await self._env.sleep(SETTLE_S / SETTLE_TRIES)
        raise Unavailable("a register was settled without this owner; it is tried again")


def _ballot(key: bytes, row: bytes) -> bytes | None:
    try:
        return decode_row(key, row).ballot
    except Corrupt:
        return None
