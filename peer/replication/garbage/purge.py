"""Tombstones go when nothing older than they can come back: a partition's first owner sees to it (F1 to F3 of `floors`).

It takes a ballot of a while ago, has every owner promise it for the partition, sees that they all hold the same rows then,
and tells them that it is the floor. One owner out of reach, or a change of the ring, and nothing is purged; a peer that
was away for however long comes back to tombstones that waited for it.

P1  Whatever floor one owner has was agreed by all, so any of them may take it over at any later time, also who joined
    since: it holds nothing that it did not merge from those owners. It is told until all have it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from peer.errors import AtollError, Corrupt
from peer.replication.ballot import BALLOT_BYTES, NONE, ceiling
from peer.replication.env import Env, Reply, Ring, RowStore
from peer.replication.keys import ranges_of
from peer.replication.messages import COPY_DIGESTS, FAILED, OK, PURGE, PURGE_PROMISE, status_of
from peer.replication.quorum import Poll, Send
from peer.replication.registers.acceptor import Acceptor
from peer.replication.value import decode_row, is_tombstone
from peer.replication.workers import Worker

AGE_S = 3600.0
PARTITIONS_A_STEP = 32
ROWS_A_SLICE = 500
ROWS_A_COMMIT = 1_000
ASK_S = 5.0
_HIGHEST = b"\xff" * BALLOT_BYTES


class Purge(Worker):
    """One peer's part. `age_s`: how long a tombstone stays at least. `registers` is the number of their side of copying."""

    name = "tombstones"
    every_s = 1.0

    def __init__(
        self, env: Env, rows: RowStore, me: str, ring: Ring, send: Send, acceptor: Acceptor, registers: int,
        on_purged: Callable[[int], None], *, age_s: float = AGE_S, unsafe: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        super().__init__(env)
        self._rows = rows
        self._me = me
        self._ring = ring
        self._send = send
        self._acceptor = acceptor
        self._registers = registers
        self._on_purged = on_purged
        self.age_s = age_s
        self._most_will_do = "purge_by_most" in unsafe
        self._candidate = (env.now(), self._ballot_now())
        self._pass: deque[int] = deque()
        self._floor = NONE
        self._ahead: dict[int, bytes] = {}  # partition -> ballot of a tombstone beyond the clock
        self._told: dict[
            int, tuple[bytes, tuple[str, ...]]
        ] = {}  # partition -> floor, and the owners that all have it
        self.detail = dict.fromkeys(("purged", "partitions", "waiting", "passes"), 0)

    def _ballot_now(self) -> bytes:
        return ceiling(self.env.wall_us())

    # --- the first owner's part

    def queue(self) -> int:
        return len(self._pass)

    def start(self) -> None:
        """Purge up to what was the time when the present wait began."""
        self._candidate = self.env.now() - self.age_s, self._candidate[1]
        self.wake()

    def due_s(self) -> float:
        return self._candidate[0] + self.age_s

    async def step(self) -> bool:
        epoch = self._ring.epoch
        if epoch.previous is not None:
            return False
        if not self._pass:
            since_s, ballot = self._candidate
            if self.env.now() - since_s < self.age_s:
                return False
            self._candidate = (self.env.now(), self._ballot_now())
            self._floor = ballot
            self.detail["passes"] += 1
            self.detail["waiting"] = 0
            table = epoch.table
            every = range(1 << epoch.partition_power)
            self._pass.extend(partition for partition in every if table.owners(partition)[0] == self._me)
        some = [self._pass.popleft() for _ in range(min(PARTITIONS_A_STEP, len(self._pass)))]
        agree: dict[tuple[tuple[str, ...], bytes], list[int]] = {}
        again: dict[tuple[str, ...], list[tuple[int, bytes]]] = {}
        for partition in some:
            owners, known = epoch.table.owners(partition), self._acceptor.floors.floor_of(partition)
            floor = await self._floor_for(partition)
            if floor != NONE:
                agree.setdefault((owners, floor), []).append(partition)
            elif known != NONE and self._told.get(partition) != (known, owners):
                again.setdefault(owners, []).append((partition, known))
        for (owners, floor), partitions in agree.items():
            self.detail["waiting"] += len(partitions) - await self._agree(owners, partitions, floor)
        for owners, told in again.items():
            await self._tell(owners, told)
        return bool(self._pass)

    async def _floor_for(self, partition: int) -> bytes:
        """What this pass may make the partition's floor; NONE if there is nothing to purge, or not yet.

        Tombstones of a clock that ran ahead are purged by the pass after the one that saw them first.
        """
        seen = await self._tombstones(partition, _HIGHEST, ROWS_A_COMMIT)
        floor = max(self._floor, self._ahead.pop(partition, NONE))
        newest = max((ballot for _, ballot in seen), default=NONE)
        if newest > max(floor, self._candidate[1]):
            self._ahead[partition] = newest
        return floor if any(ballot <= floor for _, ballot in seen) else NONE

    async def _agree(self, owners: Sequence[str], partitions: list[int], floor: bytes) -> int:
        """Take some partitions through F1 to F3; how many came through."""
        tag = self._ring.tag
        promised = await self._ask(owners, (PURGE_PROMISE, tag, partitions, floor))
        if promised is None:
            return 0
        roots = await self._ask(owners, (COPY_DIGESTS, tag, self._registers, partitions))
        if roots is None:
            return 0
        agreed: list[tuple[int, bytes]] = []
        behind: list[tuple[int, bytes]] = []
        for at, partition in enumerate(partitions):
            floors = {reply[at] for reply in promised}
            if len({reply[at] for reply in roots}) == 1 and max(floors) <= floor:
                agreed.append((partition, floor))  # F2
            elif max(floors):
                behind.append((partition, max(floors)))  # P1
        for told in (agreed, behind):
            if told and self._ring.tag == tag:
                await self._tell(owners, told)
        return len(agreed)

    async def _tell(self, owners: Sequence[str], told: list[tuple[int, bytes]]) -> None:
        """Have all owners take these floors over; who cannot be told now is told with the next pass."""
        if await self._ask(owners, (PURGE, self._ring.tag, told)) is not None:
            self._told.update((partition, (floor, tuple(owners))) for partition, floor in told)

    async def _ask(self, owners: Sequence[str], message: tuple[Any, ...]) -> list[Any] | None:
        """Every owner's list; None if one of them has none."""
        one = Poll(self.env, self._send, message, owners, ASK_S)
        if await one.run() or (self._most_will_do and 2 * len(one.oks) > len(owners)):
            return [reply[1] if len(reply) > 1 else [] for _, reply in one.oks]
        self.last_error = f"not all owners agree on what may be purged: {one.story()}"
        return None

    async def _tombstones(self, partition: int, floor: bytes, most: int) -> list[tuple[bytes, bytes]]:
        """(row key, ballot) of tombstones at or below the floor, in slices."""
        found: list[tuple[bytes, bytes]] = []
        for start, end in ranges_of(partition):
            while start and len(found) < most:
                page = self._rows.scan("rows", start, end, ROWS_A_SLICE)
                for key, row in page:
                    try:
                        accepted = decode_row(key, row)
                    except Corrupt:
                        continue
                    if accepted.ballot <= floor and is_tombstone(accepted.value):
                        found.append((key, accepted.ballot))
                start = page[-1][0] + b"\0" if len(page) == ROWS_A_SLICE else b""
                await self.env.sleep(0)
        return found[:most]

    # --- every owner's part

    def on_promise(self, message: Any, reply: Reply) -> None:
        """(PURGE_PROMISE, tag, [partition], ballot) -> OK, [floor of each], once the promise is durable (F1)."""
        _, _, partitions, ballot = message
        partitions = partitions[:PARTITIONS_A_STEP]
        floors = self._acceptor.floors

        def durable(error: AtollError | None) -> None:
            if error is not None:
                return reply((status_of(error),))
            return reply((OK, [floors.floor_of(partition) for partition in partitions]))

        floors.promise(partitions, ballot, durable)

    def on_purge(self, message: Any, reply: Reply) -> None:
        """(PURGE, tag, [[partition, floor]]) -> OK once the floors are durable and the tombstones gone (F3)."""
        self.env.spawn(self._purge(message[1], message[2][:PARTITIONS_A_STEP], reply), "purge")

    async def _purge(self, tag: int, told: list[tuple[int, bytes]], reply: Reply) -> None:
        answer: tuple[Any, ...] = (FAILED, "ServiceUnavailable", "it did not come to the end")
        try:
            for partition, floor in told:
                keys = await self._tombstones(partition, floor, 1 << 30)
                if self._ring.tag != tag:
                    break  # its rows may be somebody else's by now
                for at in range(0, len(keys) or 1, ROWS_A_COMMIT):
                    await self._remove(partition, floor, keys[at : at + ROWS_A_COMMIT])
                self.detail["partitions"] += 1
            else:
                answer = (OK,)
        except AtollError as error:
            answer = (status_of(error),)
        finally:
            reply(answer)

    async def _remove(self, partition: int, floor: bytes, keys: list[tuple[bytes, bytes]]) -> None:
        done = self.env.future()
        removed = self._acceptor.purge(partition, floor, keys, done.set_result)
        error = await done
        self._on_purged(partition)
        if error is not None:
            raise error
        self.detail["purged"] += removed
        self.did(removed)
