"""The worker that has the long dead removed (architecture.md §5). Whom, and why not, is decided in `ring.eviction`.

E1  Who is to be removed is called once more, whatever gossip says: one that answers lives.
E2  What is proposed was judged by one epoch and changes that one only: two proposers remove nobody twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from peer.errors import AtollError
from peer.replication.agreement.removal import remove_dead
from peer.replication.env import Env
from peer.replication.messages import EPOCH_GET
from peer.replication.node import Replica
from peer.replication.quorum import Round
from peer.replication.workers import Worker
from ring.epoch import Epoch
from ring.eviction import (
    EVICT_AFTER_S,
    PAUSE_S,
    Prospect,
    Sightings,
    obstacles,
    prospects,
    turn_s,
    words_of,
)

log = logging.getLogger(__name__)

LOOK_S = 2.0
CALL_S = 2.0
AGAIN_S = 10.0  # after a removal that failed


class Eviction(Worker):
    """One peer's part in automatic removal. `seen(member)`: gossip heard of it, and holds it for alive or suspect."""

    name = "eviction"
    every_s = LOOK_S

    def __init__(
        self, env: Env, replica: Replica, seen: Callable[[str], bool], after_s: float = EVICT_AFTER_S,
        unsafe: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        super().__init__(env)
        self._replica = replica
        self._seen = seen
        self._after_s = after_s
        self._unchecked = "evict_unchecked" in unsafe
        self._sightings = Sightings(replica.me, self._unchecked)
        self._prospects: list[Prospect] = []
        # What stands against removing each of the dead, and the epoch and the dead that this is about.
        self._judged: tuple[int, frozenset[str]] = (-1, frozenset())
        self._held: dict[str, str] = {}
        self._removing: asyncio.Task[Any] | None = None
        self._looked_s: float | None = None
        self._not_before_s = 0.0
        self.detail = {"dead": 0, "held_back": 0, "removed": 0, "answered": 0, "restarts": 0}

    # --- what others ask

    def outlook(self) -> dict[str, str]:
        """Member id -> what becomes of it, of the members that are dead: the end of a sentence that begins with its name."""
        if self._looked_s is None or self.env.now() - self._looked_s <= PAUSE_S:
            return {one.member: self._words(one) for one in self._prospects}
        epoch = self._replica.epochs.current
        others = [member.id for member in epoch.everybody] if epoch is not None else []
        dead = [member for member in others if member != self._replica.me and not self._seen(member)]
        return dict.fromkeys(
            dead, "and not removed by itself: `atoll repair resume eviction` lets that go on"
        )

    def _words(self, one: Prospect) -> str:
        for_s = words_of(one.dead_s)
        if one.why_not:
            return f"({for_s}), and not removed by itself: {one.why_not}"
        if one.due:
            return f"({for_s}), and about to be removed"
        return f"({for_s}); it is removed at {words_of(self._after_s)}"

    # --- Worker

    def queue(self) -> int:
        return len(self._prospects)

    def oldest_s(self) -> float | None:
        return max((one.dead_s for one in self._prospects), default=None)

    async def step(self) -> bool:
        """Look, and begin a removal when it is due. It is no part of the step: looking must go on (V1)."""
        epoch = self._replica.epochs.current
        if epoch is None or not self._replica.is_member:
            return False
        now = self.env.now()
        self._looked_s = now
        self._sightings.look(epoch, self._seen, now)
        dead_s = self._sightings.dead_s()
        if (judged := (self._replica.tag, frozenset(dead_s))) != self._judged:
            self._judged, self._held = judged, obstacles(epoch, dead_s.keys())
        self._prospects = prospects(epoch, dead_s, self._after_s, self._held)
        held_back = [one for one in self._prospects if one.why_not]
        self.detail |= {
            "dead": len(dead_s),
            "held_back": len(held_back),
            "restarts": self._sightings.restarts,
        }
        if not self._busy and now >= self._not_before_s:
            self.last_error = self._sentence(epoch, held_back)
            if one := self._mine(epoch):
                self._removing = self.env.spawn(self._remove(epoch, one.member), "eviction")
        return False

    @property
    def _busy(self) -> bool:
        return self._removing is not None and not self._removing.done()

    def _sentence(self, epoch: Epoch, held_back: list[Prospect]) -> str:
        """Why nobody is removed, for `atoll repair status`; "" when nothing stands against it."""
        if self._sightings.apart:
            return "this peer sees no majority of the members alive"
        if not held_back:
            return ""
        return f"{_name(epoch, held_back[0].member)} is dead {self._words(held_back[0])}"

    def _mine(self, epoch: Epoch) -> Prospect | None:
        """Who is due, when it is this peer's turn to say so (V5, V6)."""
        one = next((one for one in self._prospects if one.due), None)
        if one is None:
            return None
        wait_s = turn_s(epoch, self._replica.me, [one.member for one in self._prospects])
        return one if wait_s is not None and one.dead_s >= self._after_s + wait_s else None

    async def _remove(self, epoch: Epoch, member: str) -> None:
        name = _name(epoch, member)
        if not self._unchecked and await self._answers(member):
            self._sightings.answered(member)
            self.detail["answered"] += 1
            self._put_off(f"{name} is dead to gossip, but answers calls; it stays")
            return
        log.info(
            "removing %s (id %s) from the ring: it has been dead for %s",
            name, member, words_of(self._sightings.dead_s().get(member, self._after_s)),
        )  # fmt: skip
        try:
            stands = await remove_dead(self._replica.change_ring, epoch, member)
        except AtollError as error:
            self._put_off(f"{name} could not be removed: {error}")
            return
        if stands.member(member) is None:
            self.detail["removed"] += 1
            self.did()

    def _put_off(self, why: str) -> None:
        log.info("%s", why)
        self.last_error = why
        self._not_before_s = self.env.now() + AGAIN_S

    async def _answers(self, member: str) -> bool:
        """Whether it answers a call (E1)."""
        return await Round(self.env, self._replica.send, (EPOCH_GET, 0), 1, CALL_S).start([member])


def _name(epoch: Epoch, member_id: str) -> str:
    return next((member.name for member in epoch.everybody if member.id == member_id), member_id[:8])
