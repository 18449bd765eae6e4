"""Where an object lies: who owns its head and its chunks, and who of them holds a copy at this moment.

Every member that may hold one is asked, once for all chunks of an answer. Who is dead, does not answer, or is of a version
that does not understand the question, is not known to hold anything: null, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from peer.errors import NotFound
from peer.objects.chunknames import Names
from peer.objects.heads import INLINE, Head
from peer.objects.store import Objects
from peer.replication.ballot import NONE
from peer.replication.env import Reply
from peer.replication.messages import BALLOT, HOLDS, OK
from peer.replication.node import Replica
from peer.replication.quorum import Poll
from ring.hashing import partition_of

from .standing import Standing

CHUNKS_MOST = 100
ASK_S = 2.0
Shown = dict[str, Any]


class Lookup:
    """Answers which copies there are, and other peers' questions for this one's. `standing()`: how everybody stands."""

    def __init__(self, replica: Replica, objects: Objects, standing: Callable[[], Standing]) -> None:
        self._replica = replica
        self._objects = objects
        self._standing = standing
        replica.serve(HOLDS, self._on_holds, votes=False)

    async def heads(self, row: bytes, gate: int, owners: Sequence[str]) -> dict[str, bool | None]:
        """Owner -> whether it holds the newest head that any of them has; None of all if there is none."""
        living = [owner for owner in owners if self._replica.is_alive(owner)]
        poll = Poll(
            self._replica.env, self._replica.send, (BALLOT, self._replica.tag, row, gate), living, ASK_S
        )
        await poll.run()
        ballots: dict[str, bytes] = {member: reply[1] for member, reply in poll.oks}
        newest = max(ballots.values(), default=NONE)
        if newest == NONE:
            return dict.fromkeys(owners)
        return {owner: ballots[owner] == newest if owner in ballots else None for owner in owners}

    async def object(self, bucket: str, key: bytes, first: int) -> Shown | None:
        """Size, ETag and the chunks from number `first` on, CHUNKS_MOST at most; None if there is no such object. Raises
        what a read raises."""
        try:
            found = await self._objects.find(bucket, key, inline=False)
        except NotFound as error:
            if error.code != "NoSuchKey":
                raise
            return None
        head, size = found.head, self._replica.epoch.chunk_bytes
        count = 0 if head.kind == INLINE else -(-head.size // size)
        last = min(count, first + CHUNKS_MOST)
        names = await self._names(head, range(first, last))
        places = {name: self._places(name) for name in names}
        held = await self._held(places)
        standing = self._standing()
        members = {member.id: member.name for member in standing.epoch.everybody}
        power = standing.epoch.partition_power
        chunks = []
        for index, name in enumerate(names, first):
            partition = partition_of(name, power)
            owners = standing.epoch.table.owners(partition)
            copies = [*owners, *(m for m in places[name] if m not in owners and held.get((m, name)))]
            chunks.append(
                {
                    "index": index,
                    "name": name.hex(),
                    "partition": partition,
                    "size": min(size, head.size - index * size),
                    "copies": [
                        {
                            "id": member,
                            "name": members.get(member, member[:8]),
                            "state": standing.state(member),
                            "holds": held.get((member, name)),
                        }
                        for member in copies
                    ],
                }
            )
        return {
            "size": head.size,
            "etag": head.etag,
            "chunks": chunks,
            "next": last if last < count else None,
        }

    def _places(self, name: bytes) -> list[str]:
        """Who may hold a chunk: its owners, those of earlier rings, and those who keep it in the place of an owner."""
        partition = partition_of(name, self._replica.epoch.partition_power)
        return list(dict.fromkeys((*self._replica.places_of(name), *self._replica.fallbacks(partition))))

    async def _names(self, head: Head, indexes: Iterable[int]) -> list[bytes]:
        names = Names(self._objects.chunks, self._objects.pool, head, self._replica.epoch.chunk_bytes)
        return [await names.of(index) for index in indexes]

    async def _held(self, places: Mapping[bytes, Iterable[str]]) -> dict[tuple[str, bytes], bool]:
        """(member, chunk) -> whether it is there, of those that say."""
        wanted: dict[str, list[bytes]] = {}
        for name, members in places.items():
            for member in members:
                if self._replica.is_alive(member):
                    wanted.setdefault(member, []).append(name)
        polls = []
        for member, names in wanted.items():
            poll = Poll(self._replica.env, self._replica.send, (HOLDS, 0, names), [member], ASK_S)
            polls.append((names, poll, poll.run()))
        held: dict[tuple[str, bytes], bool] = {}
        for names, poll, ended in polls:
            await ended
            for member, reply in poll.oks:
                held |= {(member, name): bool(here) for name, here in zip(names, reply[1], strict=False)}
        return held

    def _on_holds(self, message: Any, reply: Reply) -> None:
        """(HOLDS, 0, [chunk name]) -> OK, [whether it lies here, by its durable row]."""
        holder = self._objects.chunks.holder
        reply((OK, [holder.find(name) is not None for name in message[2][:CHUNKS_MOST]]))
