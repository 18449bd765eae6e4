"""How a new owner takes a partition over: it merges what a majority of the old owners have accepted (architecture §5).

What a single old owner has accepted may have been shut out by promises of the others, of which new owners know nothing. Were
it copied to two new owners of three, they would take it for chosen once they are alone, and whatever was proposed above it
without it would then undo what a reader had seen. So of each register:

M1  What all of a majority of the old owners have accepted under one ballot is chosen, and taken over. Promises do not stand
    against it: whoever prepared above it had to meet one of those owners, and carries it on.
M2  Where they differ, one of them cannot read its row, or the row has changed when it is fetched, the register is settled:
    its value is accepted anew by a majority of the old and of the new owners, this one among them.
M3  An old owner that is a new one too is one of that majority itself. Otherwise it might keep what only it has accepted.
M4  What this peer has accepted above it in this epoch stays: such a ballot was prepared by a majority of both sets.
M5  With the rows come the promises and floors of purges (F5 of `floors`).

Digests spare the listing where all agree. Each source answers under the joint tag, so from disks that have the joint epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from peer.errors import Unavailable
from peer.replication.copying.registersync import REGISTERS, RegisterSide
from peer.replication.copying.sync import ASK_S, Copies, CopyFailed, Pulled, differing_leaves
from peer.replication.env import Env, Write
from peer.replication.keys import OBJECT
from peer.replication.messages import CONFLICT, FLOORS, OK
from peer.replication.quorum import Poll, Send
from peer.replication.registers.acceptor import Acceptor

SETTLES_AT_ONCE = 16

Versions = dict[bytes, list[bytes | None]]


class Merging:
    """Merges partitions into one peer's registers. `spend(bytes)` waits until so much may be moved."""

    def __init__(
        self, env: Env, me: str, copies: Copies, side: RegisterSide, acceptor: Acceptor,
        send: Send, may_take: Callable[[int], bool], spend: Callable[[int], Awaitable[None]],
        unsafe: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self._env = env
        self._me = me
        self._copies = copies
        self._side = side
        self._acceptor = acceptor
        self._may_take = may_take
        self._spend = spend
        self._send = send
        self._forgetful = "forget_floors" in unsafe
        self._unsettled = "merge_unsettled" in unsafe

    async def differing(self, tag: int, sources: Sequence[str], partitions: Sequence[int]) -> list[int]:
        """Those of the partitions of which this peer and all sources do not hold the same. The rest is merged (M1)."""
        await self._copies.build(self._side, partitions)
        asked = [self._roots(source, tag, partitions) for source in sources if source != self._me]
        roots = await asyncio.gather(*asked)
        differ = []
        for at, partition in enumerate(partitions):
            await self._copies.build(self._side, [partition])  # it may have been dropped meanwhile
            mine = self._side.digests.root(partition)
            if any(theirs[at] != mine for theirs in roots):
                differ.append(partition)
        return differ

    async def _roots(self, source: str, tag: int, partitions: Sequence[int]) -> list[bytes]:
        return await self._copies.roots(REGISTERS, source, tag, partitions)

    async def floors(self, tag: int, sources: Sequence[str], partitions: Sequence[int]) -> list[Write]:
        """What a commit writes to have the highest purge promise and floor of these sources for each partition (M5).

        Raises CopyFailed.
        """
        others = [source for source in sources if source != self._me]
        if not others or self._forgetful:
            return []
        poll = Poll(self._env, self._send, (FLOORS, tag, list(partitions)), others, ASK_S)
        if not await poll.run():
            failed = next(source for source in others if source not in {member for member, _ in poll.oks})
            raise CopyFailed(failed, poll.story())
        mine = self._acceptor.floors
        writes: list[Write] = []
        for at, partition in enumerate(partitions):
            told = [reply[1][at] for _, reply in poll.oks]
            promised, floor = (max(pair[which] for pair in told) for which in (0, 1))
            writes += mine.taking_over(partition, promised, floor)
        return writes

    async def merge(self, tag: int, sources: Sequence[str], partition: int) -> Pulled:
        """Merge one partition from a majority of its old owners (this peer among them, if it is one).

        Raises Unavailable: try again; what was merged by then stays.
        """
        pulled = Pulled(1)
        leaves = await self._leaves(tag, sources, partition)
        after: bytes | None = b""
        while leaves and after is not None:
            versions, after = await self._page(tag, sources, partition, leaves, after, pulled)
            agreed: dict[bytes, bytes] = {}
            doubtful: list[bytes] = []
            for key in sorted(versions):
                first = self._agreed(versions[key], len(sources))
                if first is None:
                    doubtful.append(key)  # M2
                elif self._acceptor.ballot_of(key) < first:  # else M4
                    agreed[key] = first
            doubtful += await self._take(tag, partition, sources, agreed, pulled)
            await self._settle(sorted(doubtful), pulled)
            await self._spend(pulled.bytes)
            pulled.bytes = 0
        return pulled

    def _agreed(self, found: list[bytes | None], sources: int) -> bytes | None:
        """The ballot under which all sources hold a row (M1); None if they differ or one cannot tell."""
        if self._unsettled:
            return max(version or b"" for version in found)
        first = found[0]
        return first if len(found) == sources and all(other == first for other in found) else None

    async def _leaves(self, tag: int, sources: Sequence[str], partition: int) -> list[int]:
        """In which leaves anybody differs from us."""
        others = [source for source in sources if source != self._me]
        theirs = await asyncio.gather(
            *(self._copies.leaves(REGISTERS, other, tag, partition) for other in others)
        )
        await self._copies.build(self._side, [partition])
        mine = self._side.digests.leaves(partition)
        return sorted({leaf for other in theirs for leaf in differing_leaves(mine, other)})

    async def _page(
        self, tag: int, sources: Sequence[str], partition: int, leaves: Sequence[int], after: bytes, pulled: Pulled
    ) -> tuple[Versions, bytes | None]:  # fmt: skip
        """What every source lists from `after` on, as far as all have told, and where to go on."""
        pages = await asyncio.gather(
            *(self._listed(source, tag, partition, leaves, after) for source in sources)
        )
        ends = [more for _, more in pages if more is not None]
        end = min(ends) if ends else None
        versions: Versions = {}
        for found, _ in pages:
            for key, version in found:
                if end is None or key < end:
                    versions.setdefault(key, []).append(version)
                    pulled.bytes += len(key) + len(version or b"")
        return versions, end

    async def _listed(
        self, source: str, tag: int, partition: int, leaves: Sequence[int], after: bytes
    ) -> tuple[list[Any], bytes | None]:
        if source == self._me:
            return self._copies.page(REGISTERS, partition, leaves, after)
        return await self._copies.listed(REGISTERS, source, tag, partition, leaves, after)

    async def _take(
        self, tag: int, partition: int, sources: Sequence[str], agreed: dict[bytes, bytes], pulled: Pulled
    ) -> list[bytes]:  # fmt: skip
        """Fetch and take over what is chosen; returns the keys that have changed since they were listed (M2)."""
        others = [source for source in sources if source != self._me]
        source = others[partition % len(others)]
        changed: list[bytes] = []
        keys = sorted(agreed)
        while keys:
            rows = await self._copies.rows(REGISTERS, source, tag, keys)
            if not self._may_take(tag):
                raise Unavailable("the ring changed while rows were merged; it is tried again")
            changed += await self._learn(rows, agreed, pulled)
            keys = keys[len(rows) :]
        return changed

    async def _learn(self, rows: Sequence[Any], agreed: dict[bytes, bytes], pulled: Pulled) -> list[bytes]:
        changed = [key for key, ballot, _, _ in rows if ballot != agreed[key]]
        chosen = [row for row in rows if row[1] == agreed[row[0]]]
        waiting = len(chosen)
        refused = False
        all_durable = self._env.future()

        def learnt(key: bytes, answer: tuple[Any, ...]) -> None:
            nonlocal waiting, refused
            waiting -= 1
            refused = refused or answer[0] not in (OK, CONFLICT)
            if waiting == 0 and not all_durable.done():
                all_durable.set_result(None)

        for key, ballot, value, side in chosen:
            pulled.rows += 1
            pulled.bytes += len(key) + len(value) + len(side or b"") + 20
            self._acceptor.learn(key, ballot, value, side, partial(learnt, key))
        if chosen:
            await all_durable
        if refused:
            raise Unavailable("the disk has no room to take a partition over")
        return changed

    async def _settle(self, keys: list[bytes], pulled: Pulled) -> None:
        """Gates first: what they guard cannot be settled without them."""
        for first in (True, False):
            some = [key for key in keys if (key[0] < OBJECT) == first]
            for at in range(0, len(some), SETTLES_AT_ONCE):
                batch = some[at : at + SETTLES_AT_ONCE]
                tasks = [self._env.spawn(self._side.settle(key, pulled), "merge a row") for key in batch]
                results = await asyncio.gather(*tasks, return_exceptions=True)
                pulled.settled += len(batch)
                for result in results:
                    if isinstance(result, BaseException):
                        raise result
