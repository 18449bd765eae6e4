"""Copying between owners: find the differences by digests, fetch them, apply them (architecture §6, §8).

A pull goes one way: afterwards this owner holds whatever of a partition the other one held, durably, when it was asked.
It works on a `Side`: the registers (`registersync`), or the references to chunks with the bytes behind them (`chunksync`).

Y1  Only what is committed where it comes from is copied.
Y2  What is refused here is not forced: the side settles it in its own way.
Y3  A source that cannot read a row says so, and the row is settled. "Damaged" never counts as "absent".
Y4  Every message carries the epoch's tag: a pull under one epoch reads only peers that are in it, and have it on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from peer.errors import Unavailable
from peer.replication.env import Env, Reply
from peer.replication.messages import COPY_DIGESTS, COPY_FETCH, COPY_LEAVES, COPY_LIST, FAILED, OK, STALE
from peer.replication.quorum import Round, Send
from peer.replication.throttle import Throttle

from .digests import LEAVES, Digests, leaf_of

ASK_S = 5.0
PARTITIONS_MOST = 512
PARTITIONS_AT_ONCE = 4
LIST_MOST = 1_000
FETCH_KEYS_MOST = 256


class CopyFailed(Unavailable):
    """A peer did not give what was asked of it for copying; ask again, or another one."""

    def __init__(self, member: str, story: str) -> None:
        super().__init__(f"cannot compare with {member}: {story}")
        self.member = member


class Ring(Protocol):
    @property
    def tag(self) -> int: ...


@dataclass(slots=True)
class Pulled:
    """What a pull did. `settled`: rows that could not simply be applied; `missing`: what they speak of could not be had;
    `bytes`: of messages' contents, both ways."""

    partitions: int = 0
    rows: int = 0
    settled: int = 0
    missing: int = 0
    bytes: int = 0


class Side(Protocol):
    """What is copied: one kind of rows, in key order, each with a version."""

    digests: Digests

    def ranges(self, partition: int) -> list[tuple[bytes, bytes]]:
        """The key ranges of a partition, ascending."""

    def listed(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes | None]]:
        """Committed rows with their versions; None for one that cannot be read."""

    def lacks(self, key: bytes, version: bytes) -> bool:
        """Whether this peer holds less than this version of the row."""

    def fetch(self, keys: Sequence[bytes]) -> list[Any]:
        """The rows as they travel, the key first in each: of a first part of the keys, at least one."""

    async def apply(self, found: Sequence[Any], pulled: Pulled) -> list[bytes]:
        """Make fetched rows durable here; the keys of those that have to be settled."""

    async def settle(self, key: bytes, pulled: Pulled) -> None:
        """Bring a row into order that cannot simply be applied. Raises Unavailable: try again later."""


def differing_leaves(mine: bytes, theirs: bytes) -> list[int]:
    """The numbers of the leaves in which two digests differ."""
    return [at for at in range(LEAVES) if theirs[8 * at : 8 * at + 8] != mine[8 * at : 8 * at + 8]]


class Copies:
    """Both ends of copying, on one peer."""

    def __init__(self, env: Env, ring: Ring, send: Send) -> None:
        self._env = env
        self._ring = ring
        self._send = send
        self._sides: dict[int, Side] = {}
        self.throttle = Throttle(env)

    def add(self, number: int, side: Side) -> None:
        """Copy this side, too; `number` names it in messages."""
        self._sides[number] = side

    def side(self, number: int) -> Side:
        return self._sides[number]

    @property
    def numbers(self) -> list[int]:
        return sorted(self._sides)

    async def build(self, side: Side, partitions: Sequence[int]) -> None:
        """Have the digests of these partitions ready, the last of them surely; lets others run between slices."""
        for partition in partitions:
            while not side.digests.ready(partition):  # it may be dropped while it is built
                for _ in side.digests.build(partition):
                    await self._env.sleep(0)

    # --- the source's end

    def on_digests(self, message: Any, reply: Reply) -> None:
        """(COPY_DIGESTS, tag, side, [partition]) -> OK, [root, 8 bytes]."""
        _, tag, number, partitions = message
        side, partitions = self._sides[number], partitions[:PARTITIONS_MOST]
        if all(side.digests.ready(partition) for partition in partitions):
            return reply((OK, [side.digests.root(partition) for partition in partitions]))
        self._env.spawn(self._digests_later(side, partitions, tag, reply), "digests")
        return None

    async def _digests_later(self, side: Side, partitions: list[int], tag: int, reply: Reply) -> None:
        roots = []
        try:
            for (
                partition
            ) in partitions:  # each is told in the turn it is ready: under load some are always built anew
                await self._ready(side, partition)
                roots.append(side.digests.root(partition))
        except BaseException:
            reply((FAILED, "ServiceUnavailable", "the digests were not built"))
            raise
        reply((OK, roots) if self._ring.tag == tag else (STALE, self._ring.tag))

    def on_leaves(self, message: Any, reply: Reply) -> None:
        """(COPY_LEAVES, tag, side, partition) -> OK, 16 leaves of 8 bytes."""
        _, tag, number, partition = message
        side = self._sides[number]
        if side.digests.ready(partition):
            return reply((OK, side.digests.leaves(partition)))
        self._env.spawn(self._leaves_later(side, partition, tag, reply), "leaves")
        return None

    async def _leaves_later(self, side: Side, partition: int, tag: int, reply: Reply) -> None:
        try:
            await self._ready(side, partition)
        except BaseException:
            reply((FAILED, "ServiceUnavailable", "the digest was not built"))
            raise
        reply((OK, side.digests.leaves(partition)) if self._ring.tag == tag else (STALE, self._ring.tag))

    def on_list(self, message: Any, reply: Reply) -> None:
        """(COPY_LIST, tag, side, partition, [leaf], after key) -> OK, [[key, version | None]], next key | None."""
        _, _, number, partition, leaves, after = message
        reply((OK, *self.page(number, partition, leaves, after)))

    def page(
        self, number: int, partition: int, leaves: Sequence[int], after: bytes
    ) -> tuple[list[tuple[bytes, bytes | None]], bytes | None]:
        """This peer's rows of these leaves with their versions, a page from `after` on, and where the next begins."""
        side, wanted = self._sides[number], set(leaves)
        found: list[tuple[bytes, bytes | None]] = []
        left = LIST_MOST
        for start, end in side.ranges(partition):
            if after >= end:
                continue
            rows = side.listed(max(start, after), end, left)
            found += [row for row in rows if leaf_of(row[0]) in wanted]
            if len(rows) >= left:
                return found, rows[-1][0] + b"\0"
            left -= len(rows)
        return found, None

    def on_fetch(self, message: Any, reply: Reply) -> None:
        """(COPY_FETCH, tag, side, [key]) -> OK, [[key, ...]] of a first part of the keys, at least one."""
        reply((OK, self._sides[message[2]].fetch(message[3][:FETCH_KEYS_MOST])))

    # --- the puller's end

    async def pull(self, number: int, member: str, partitions: Sequence[int]) -> Pulled:
        """Bring these partitions up to what `member` holds. Raises Unavailable; what was copied by then stays."""
        side = self._sides[number]
        pulled = Pulled(len(partitions))
        tag = self._ring.tag
        for at in range(0, len(partitions), PARTITIONS_MOST):
            some = list(partitions[at : at + PARTITIONS_MOST])
            await self.build(side, some)
            roots = await self.roots(number, member, tag, some)
            pulled.bytes += 12 * len(some)
            differ = []
            for partition, root in zip(some, roots, strict=True):
                await self._ready(side, partition)
                if side.digests.root(partition) != root:
                    differ.append(partition)
            await self.throttle.each(
                differ,
                lambda partition: self._pull_partition(number, member, tag, partition, pulled),
                PARTITIONS_AT_ONCE,
                rests=False,  # what is fetched gives way
            )
        return pulled

    async def _ready(self, side: Side, partition: int) -> None:
        """Return in a turn in which the digest is ready; it may have been dropped while we waited for an answer."""
        while not side.digests.ready(partition):
            await self.build(side, [partition])

    async def _pull_partition(
        self, number: int, member: str, tag: int, partition: int, pulled: Pulled
    ) -> None:
        side = self._sides[number]
        theirs = await self.leaves(number, member, tag, partition)
        await self._ready(side, partition)
        mine = side.digests.leaves(partition)
        pulled.bytes += len(theirs)
        differ = differing_leaves(mine, theirs)
        behind = False
        after: bytes | None = b""
        while differ and after is not None:
            listed, after = await self.listed(number, member, tag, partition, differ, after)
            pulled.bytes += sum(len(key) + len(version or b"") for key, version in listed)
            damaged = [key for key, version in listed if version is None]
            wanted = [key for key, version in listed if version is not None and side.lacks(key, version)]
            behind = behind or bool(damaged or wanted)
            await self.fetch(number, member, tag, wanted, pulled)
            for key in damaged:
                pulled.settled += 1
                await side.settle(key, pulled)  # Y3
        if differ and not behind:
            side.digests.drop(
                partition
            )  # we lack nothing: should it be our digest that is wrong, the next is right

    async def fetch(self, number: int, member: str, tag: int, keys: list[bytes], pulled: Pulled) -> None:
        """Bring these rows from `member`. Raises Unavailable; what was copied by then stays."""
        side = self._sides[number]
        while keys:
            found = await self.rows(number, member, tag, keys)
            for key in await side.apply(found, pulled):
                pulled.settled += 1
                await side.settle(key, pulled)  # Y2, Y3
            keys = keys[len(found) :]

    async def rows(self, number: int, member: str, tag: int, keys: Sequence[bytes]) -> list[Any]:
        """The rows of a first part of the keys, at least one, as `Side.fetch` gives them, from a peer that is, and while we
        are, in the epoch `tag` (Y4)."""
        _, found = await self._ask(member, (COPY_FETCH, tag, number, list(keys[:FETCH_KEYS_MOST])))
        if not found:
            raise Unavailable(f"{member} sent none of the rows it listed; it is tried again")
        if self._ring.tag != tag:
            raise Unavailable("the ring changed while rows were copied; it is tried again")
        return list(found)

    async def roots(self, number: int, member: str, tag: int, partitions: Sequence[int]) -> list[bytes]:
        """The digests of these partitions at another owner; at most PARTITIONS_MOST."""
        return list((await self._ask(member, (COPY_DIGESTS, tag, number, list(partitions))))[1])

    async def leaves(self, number: int, member: str, tag: int, partition: int) -> bytes:
        """The leaves of one digest at another owner."""
        return bytes((await self._ask(member, (COPY_LEAVES, tag, number, partition)))[1])

    async def listed(
        self, number: int, member: str, tag: int, partition: int, leaves: Sequence[int], after: bytes
    ) -> tuple[list[Any], bytes | None]:
        """Rows of these leaves with their versions, from `after` on, and where the next page begins, if there is one."""
        _, found, more = await self._ask(member, (COPY_LIST, tag, number, partition, list(leaves), after))
        return found, more

    async def _ask(self, member: str, message: tuple[Any, ...]) -> Any:
        one = Round(self._env, self._send, message, 1, ASK_S)
        if await one.start([member]):
            return one.oks[0][1]
        raise CopyFailed(member, one.story())
