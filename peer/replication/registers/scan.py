"""Listings: ordered pages over the shards of a key space (promise P4).

For every shard one owner sends its rows, the rest of a majority a digest of (row key, ballot) over the same range,
tombstones included; requests are batched per peer. Who is late is overtaken by another owner. Where digests differ or too
few answer, a majority sends rows and keys on which they differ are read as registers before they are listed.

L1  A page holds every key of its range that was present throughout the scan, and none absent throughout it: each
    listed state was held under one ballot by a majority, or read. In a joint epoch a shard with two owner sets is listed
    from rows of a majority of each: what only the old owners hold under one ballot might be gone when the new ones are
    alone.
L2  A page is valid up to the smallest last key among truncated answers; what lies beyond is for the next one.
L3  Owners answer only for shards they own and whose gate admits the request; silence never means "empty".
L4  A gate counts in a scan when its commit has ended: rows queued before it are then visible. (A gate closed in memory
    hid puts still on their way to the disk: a bucket was found empty and deleted, and the puts acknowledged.)
L5  Where an answer is cut follows from the rows and the request alone, so that rows and digests cover the same range.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import blake3

from peer.errors import Corrupt, Refused, Unavailable
from peer.replication.env import Env, Reply, RowStore
from peer.replication.keys import OBJECT, PREFIX_BYTES, Space, gate_key_of, prefix_end
from peer.replication.messages import ABSTAIN, GATE_REFUSED, OK, SCAN, STALE
from peer.replication.owners import Owners
from peer.replication.quorum import HEDGE_S, Round, Send
from peer.replication.value import BALLOT_SLICE, decode_row, payload_of

from .gates import Gates
from .register import Current, GateRefused, Registers

ROWS, DIGEST = 0, 1
ROWS_MOST = 1_000
SHARDS_MOST = 4_096
SHARDS_A_MESSAGE = 64
ROW_BYTES = 1_536
"""An answer holds this many bytes for each row asked for: with the shards of a message, and 3/2 of a page's rows spread over
them, about 3 MiB. A message may have 4, so that each shard gets its first row however large that is (L5)."""
SCAN_S = 2.0
READS_AT_ONCE = 32
EPOCHS_MOST = 4  # so many may pass during one page


class Stale(Refused):
    """An owner knows a newer epoch (`tag`). Nothing changed; fetch it and try again."""

    def __init__(self, tag: int) -> None:
        super().__init__(f"a newer epoch ({tag}) is in force", code="StaleEpoch")
        self.tag = tag


class Ring(Protocol):
    @property
    def tag(self) -> int: ...
    def owners_of_row(self, row_key: bytes) -> Owners: ...
    async def catch_up(self, tag: int) -> None: ...


# --- an owner's side


def answer_scan(
    rows: RowStore, gates: Gates, waits_for: Callable[[bytes, Callable[[], None]], bool], message: Any, reply: Reply
) -> None:  # fmt: skip
    """One bounded read per shard: its rows, or their digest. `waits_for`: see Acceptor.waits_for (L4)."""
    _, _, prefixes, start, end, limit, gate, mode = message
    limit = min(limit, ROWS_MOST + 1)
    answers: list[tuple[bool, bytes, Any]] = []
    for prefix in prefixes[:SHARDS_MOST]:
        if prefix[0] >= OBJECT:
            gate_key = gate_key_of(prefix)
            if waits_for(gate_key, lambda: answer_scan(rows, gates, waits_for, message, reply)):
                return None
            refusal = gates.shard_refusal(gate_key, gate)
            if refusal is not None:
                return reply(refusal)
        stop = prefix + end if end else prefix_end(prefix)
        answers.append(_answer_shard(rows, prefix + start, stop, limit, mode))
    reply((OK, answers))
    return None


def _answer_shard(
    rows: RowStore, start: bytes, stop: bytes, limit: int, mode: int
) -> tuple[bool, bytes, Any]:
    """(truncated, last key if so, rows or digest)"""
    if mode == ROWS:
        found = rows.scan("rows", start, stop, limit)
        kept = _that_fit([len(key) + len(row) for key, row in found], limit)
    else:
        heads = rows.heads("rows", start, stop, limit, BALLOT_SLICE.stop)
        found = [(key, head) for key, head, _ in heads]
        kept = _that_fit([len(key) + size for key, _, size in heads], limit)
    truncated = kept < len(found) or len(found) >= limit
    del found[kept:]
    return truncated, found[-1][0] if truncated else b"", found if mode == ROWS else digest_of(found)


def _that_fit(sizes: list[int], limit: int) -> int:
    """How many rows of these sizes an answer to a request for `limit` rows holds: at least one (L5)."""
    budget = limit * ROW_BYTES
    if sum(sizes) <= budget:
        return len(sizes)
    return max(1, sum(total <= budget for total in accumulate(sizes)))


def digest_of(rows: list[tuple[bytes, bytes]]) -> bytes:
    """A hash of (row key, ballot) of stored rows, whole or cut after the ballot."""
    parts = [key + row[BALLOT_SLICE] for key, row in rows]
    return bytes(blake3.blake3(b"\xff\x00\xff".join(parts)).digest(16))


# --- the coordinator's side


@dataclass(slots=True)
class Page:
    """Keys agreed live, in order, with their payloads; `bound` is the last key the page is valid up to, or
    None when it reaches the end of the range."""

    entries: list[tuple[bytes, bytes]]
    bound: bytes | None


@dataclass(slots=True)
class _Shard:
    prefix: bytes
    owners: Owners
    order: list[str]  # of the owners, as they are to be asked
    asked: int  # owners in `order` that were asked in the first round
    rows: Any = None
    digests: list[tuple[bool, bytes, bytes]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)  # who gave `answers`

    @property
    def need(self) -> int:
        return self.owners.need


@dataclass(slots=True)
class _Asked:
    """One request to one owner about a batch of shards."""

    member: str
    mode: int
    batch: list[_Shard]
    second: bool
    round: Round
    taken: bool = False

    def take(self) -> None:
        """Give each shard its answer, if there is one, once."""
        if self.taken or not self.round.oks:
            return
        self.taken = True
        for shard, answer in zip(self.batch, self.round.oks[0][1][1], strict=True):
            if self.second:
                shard.answers.append(answer)
                shard.answered.add(self.member)
            elif self.mode == DIGEST:
                shard.digests.append(answer)
            elif shard.rows is None:  # else a spare was faster
                shard.rows = answer


class Scans:
    """Coordinates listings; one per peer."""

    def __init__(
        self,
        env: Env,
        ring: Ring,
        registers: Registers,
        send: Send,
        prefer: Any,
        late: Callable[[str], None],
        unsafe: frozenset[str] = frozenset(),
    ) -> None:
        self._env = env
        self._ring = ring
        self._registers = registers
        self._send = send
        self._prefer = prefer
        self._late = late
        self._one_owner = "list_one_owner" in unsafe
        self.counts = {"pages": 0, "doubtful_shards": 0, "reads": 0}

    async def page(
        self, space: Space, start: bytes, end: bytes, limit: int, gate: int, *, closed: bool = False
    ) -> Page:
        """Up to `limit` live keys from `start` (inclusive) to `end` (exclusive; b"" for none).

        `closed`: look behind closed gates of exactly this generation, as the deletion of a bucket does.
        Raises Unavailable, or GateRefused when the bucket changed.
        """
        self.counts["pages"] += 1
        for tries_left in reversed(range(EPOCHS_MOST)):
            tag = self._ring.tag
            try:
                return await self._page(space, start, end, max(1, min(limit, ROWS_MOST + 1)), gate, closed)
            except Stale as newer:
                if not tries_left:
                    raise Unavailable("the ring kept changing during a listing; try again") from newer
                if self._ring.tag == tag:
                    await self._ring.catch_up(newer.tag)
        raise AssertionError("unreachable")

    async def _page(
        self, space: Space, start: bytes, end: bytes, limit: int, gate: int, closed: bool
    ) -> Page:
        """One try, all of it under one epoch: owners of different epochs make no majority. Raises Stale besides."""
        per_shard = min(limit, limit * 3 // (2 * space.shards) + 8) if space.shards > 1 else limit
        shards = []
        for number in range(space.shards):
            prefix = space.prefix(number)
            owners = self._ring.owners_of_row(prefix)
            shards.append(_Shard(prefix, owners, self._prefer(owners.everyone), owners.need))
        gate = -2 - gate if closed else gate
        ask = (self._ring.tag, start, end, per_shard, gate)
        settled = [shard for shard in shards if not shard.owners.joint]
        if settled:
            await self._first_round(settled, ask)
        doubtful = [shard for shard in shards if shard.owners.joint or not self._agrees(shard)]
        if doubtful:
            self.counts["doubtful_shards"] += len(doubtful)
            await self._second_round(doubtful, ask)
        return await self._merge(shards, limit, gate)

    async def _first_round(self, shards: list[_Shard], ask: tuple[Any, ...]) -> None:
        """Rows from the first owner of each shard, digests from the rest of a majority. Whoever owes an answer after
        HEDGE_S is late, and the next owners are asked for the same (L1: each is asked for one thing only, so rows and
        digests of a shard always come from different ones)."""
        batches: dict[tuple[str, int], list[_Shard]] = {}
        for shard in shards:
            batches.setdefault((shard.order[0], ROWS), []).append(shard)
            if not self._one_owner:
                for member in shard.order[1 : shard.need]:
                    batches.setdefault((member, DIGEST), []).append(shard)
        asked = self._ask_all(batches, ask)
        if await self._gather(asked, shards, self._complete, HEDGE_S):
            return
        spares: dict[tuple[str, int], list[_Shard]] = {}
        for one in asked:
            if one.round.future.done():
                continue
            self._late(one.member)
            for shard in one.batch:
                if shard.asked < len(shard.order) and not self._one_owner:
                    spares.setdefault((shard.order[shard.asked], one.mode), []).append(shard)
                    shard.asked += 1
        asked += self._ask_all(spares, ask)
        await self._gather(asked, shards, self._complete, SCAN_S)

    async def _second_round(self, shards: list[_Shard], ask: tuple[Any, ...]) -> None:
        """Rows from every owner of the doubtful shards; a majority must answer for each, and nobody else is waited for."""
        batches: dict[tuple[str, int], list[_Shard]] = {}
        for shard in shards:
            shard.rows = None
            for member in shard.owners.everyone:
                batches.setdefault((member, ROWS), []).append(shard)
        asked = self._ask_all(batches, ask, second=True)
        if await self._gather(asked, shards, lambda shard: shard.owners.majority(shard.answered), SCAN_S):
            return
        for one in asked:
            newer = one.round.refused_with(STALE)
            if newer is not None:
                raise Stale(newer[1])
        for one in asked:
            refusal = one.round.refused_with(GATE_REFUSED)
            if refusal is not None:
                raise GateRefused(refusal[1], refusal[2])
        story = "; ".join(one.round.story() for one in asked if not one.round.oks)
        raise Unavailable(f"a listing needs a majority of the owners of every shard ({story}); try again")

    def _ask_all(
        self, batches: dict[tuple[str, int], list[_Shard]], ask: tuple[Any, ...], *, second: bool = False
    ) -> list[_Asked]:
        return [
            self._ask(member, mode, batch[at : at + SHARDS_A_MESSAGE], ask, second=second)
            for (member, mode), batch in batches.items()
            for at in range(0, len(batch), SHARDS_A_MESSAGE)
        ]

    def _ask(
        self, member: str, mode: int, batch: list[_Shard], ask: tuple[Any, ...], *, second: bool = False
    ) -> _Asked:
        tag, *rest = ask
        message = (SCAN, tag, [shard.prefix for shard in batch], *rest, mode)
        one = Round(self._env, self._send, message, 1, SCAN_S if mode == ROWS else SCAN_S / 2 + HEDGE_S)
        one.start([member])
        return _Asked(member, mode, batch, second, one)

    async def _gather(
        self, asked: list[_Asked], shards: list[_Shard], enough: Callable[[_Shard], bool], most_s: float
    ) -> bool:
        """Take answers as they come, until there are enough for every shard, nobody owes one, or `most_s` have passed.
        Whether there are enough. What comes later is not looked at."""
        ended = self._env.future()

        def look(_: object = None) -> None:
            if ended.done():
                return
            for one in asked:
                one.take()
            if all(map(enough, shards)):
                ended.set_result(True)
            elif all(one.round.future.done() for one in asked):
                ended.set_result(False)

        for one in asked:
            one.round.future.add_done_callback(look)
        timer = self._env.call_later(most_s, lambda: None if ended.done() else ended.set_result(False))
        try:
            return bool(await ended)
        finally:
            timer.cancel()

    def _complete(self, shard: _Shard) -> bool:
        """Rows, and digests from the rest of a majority, whatever they say."""
        return shard.rows is not None and (len(shard.digests) + 1 >= shard.need or self._one_owner)

    def _agrees(self, shard: _Shard) -> bool:
        """The rows' owner and the rest of a majority hold the same ballots over the same range."""
        if not self._complete(shard):
            return False
        if not shard.digests:
            return True
        truncated, last, rows = shard.rows
        mine = digest_of(rows)
        return all(
            theirs[0] == truncated and theirs[1] == last and theirs[2] == mine for theirs in shard.digests
        )

    async def _merge(self, shards: list[_Shard], limit: int, gate: int) -> Page:
        bounds = []
        for shard in shards:
            for truncated, last, _ in [shard.rows] if shard.rows is not None else shard.answers:
                if truncated:
                    bounds.append(last[PREFIX_BYTES:])
        bound = min(bounds) if bounds else None
        entries: list[tuple[bytes, bytes]] = []
        unsettled: list[bytes] = []
        for shard in shards:
            if shard.rows is not None:
                self._take(shard.rows[2], bound, entries, unsettled)
            else:
                self._compare(shard, bound, entries, unsettled)
        await self._settle(unsettled, gate, entries)
        entries.sort()
        if len(entries) > limit:
            del entries[limit:]
            bound = entries[-1][0]
        return Page(entries, bound)

    @staticmethod
    def _take(
        rows: list[Any], bound: bytes | None, entries: list[tuple[bytes, bytes]], unsettled: list[bytes]
    ) -> None:
        for row_key, row in rows:
            key = row_key[PREFIX_BYTES:]
            if bound is not None and key > bound:
                return
            try:
                payload = payload_of(decode_row(row_key, row).value)
            except Corrupt:
                unsettled.append(row_key)
                continue
            if payload is not None:
                entries.append((key, payload))

    @staticmethod
    def _compare(
        shard: _Shard, bound: bytes | None, entries: list[tuple[bytes, bytes]], unsettled: list[bytes]
    ) -> None:
        """Keys that a majority of the answers hold under one ballot are agreed; the rest are read."""
        held: dict[bytes, list[bytes]] = {}
        for _, _, rows in shard.answers:
            for row_key, row in rows:
                if bound is None or row_key[PREFIX_BYTES:] <= bound:
                    held.setdefault(row_key, []).append(row)
        for row_key, copies in held.items():
            ballots = [row[BALLOT_SLICE] for row in copies]
            best = max(ballots)
            agreed = next((row for row in copies if row[BALLOT_SLICE] == best), b"")
            try:
                payload = payload_of(decode_row(row_key, agreed).value)
            except Corrupt:
                unsettled.append(row_key)
                continue
            if len(copies) < len(shard.answers) or ballots.count(best) < len(copies):
                unsettled.append(row_key)
            elif payload is not None:
                entries.append((row_key[PREFIX_BYTES:], payload))

    async def _settle(self, row_keys: list[bytes], gate: int, entries: list[tuple[bytes, bytes]]) -> None:
        self.counts["reads"] += len(row_keys)
        for at in range(0, len(row_keys), READS_AT_ONCE):
            batch = row_keys[at : at + READS_AT_ONCE]
            tasks = [self._env.spawn(self._registers.read(row_key, gate=gate), "settle") for row_key in batch]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for row_key, result in zip(batch, results, strict=True):
                if isinstance(result, BaseException):
                    raise result
                assert isinstance(result, Current)
                if result.payload is not None:
                    entries.append((row_key[PREFIX_BYTES:], result.payload))


__all__ = ["ABSTAIN", "Page", "Scans", "answer_scan"]
