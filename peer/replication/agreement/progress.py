"""How far this peer, as a new owner in a joint epoch, has come with each partition. Durable, so that a restart goes on.

G1  What a member held of a partition when it last owned it is forgotten before it answers for it again. Ballots of former
    times may be above those of values chosen since by others: taken for accepted, they would bring back what was
    overwritten.
G2  That a partition is merged is durable before anybody is told.
"""

from __future__ import annotations

from collections.abc import Iterable

from peer.replication import meta
from peer.replication.env import RowStore, Write

CLEAN, MERGED = 1, 2
_PREFIX = b"joint/"
_MOST = 1 << 17


class Progress:
    """States of partitions under one joint epoch: 0 at first, CLEAN once G1 holds, MERGED at the end."""

    def __init__(self, rows: RowStore) -> None:
        self._rows = rows
        self._tag = -1
        self._states: dict[int, int] = {}

    def load(self, tag: int) -> None:
        """Continue, or begin, with this epoch; what is kept of others is let go."""
        if tag == self._tag:
            return
        self._tag = tag
        self._states = {}
        stale: list[Write] = []
        mine = _PREFIX + tag.to_bytes(8, "big")
        for key, value in meta.items(self._rows, _PREFIX, _MOST):
            if key[: len(mine)] == mine:
                self._states[int.from_bytes(key[len(mine) :], "big")] = value[0]
            else:
                stale.append(meta.remove(key))
        if stale:
            self._rows.commit(stale, lambda _: None)

    def state(self, partition: int) -> int:
        return self._states.get(partition, 0)

    def writes(self, tag: int, partitions: Iterable[int], state: int) -> list[Write]:
        """What makes a state durable; call `note` when it is."""
        prefix = _PREFIX + tag.to_bytes(8, "big")
        return [
            meta.write(prefix + partition.to_bytes(2, "big"), bytes((state,))) for partition in partitions
        ]

    def note(self, tag: int, partitions: Iterable[int], state: int) -> None:
        """These writes are durable. Nothing happens if another epoch is in force by now."""
        if tag == self._tag:
            self._states.update(dict.fromkeys(partitions, state))
