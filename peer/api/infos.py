"""What each peer tells of itself, asked for now and then (message INFO)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from peer.errors import AtollError
from peer.replication.env import Done
from peer.replication.messages import INFO, OK
from peer.replication.node import Replica
from peer.replication.quorum import Poll, Round

from .clocks import offset_s

EVERY_S = 0.25
DEADLINE_S = 1.0


class Infos:
    """`silent` are the living that did not answer when asked last; `of(member)` is what a member said last. `offsets` tells
    by how many seconds clocks are ahead of ours, of those members that said what the time is when asked last.

    `own()` is what this peer says, `lives(member)` whom gossip does not hold for dead.
    """

    def __init__(
        self, replica: Replica, own: Callable[[], dict[str, Any]], lives: Callable[[str], bool]
    ) -> None:
        self._replica = replica
        self._own = own
        self._lives = lives
        self._told: dict[str, dict[str, Any]] = {}
        self._asked_s = -1e9
        self._asking: asyncio.Future[None] | None = None
        self.silent: frozenset[str] = frozenset()
        self.offsets: dict[str, float] = {}

    def of(self, member: str) -> dict[str, Any]:
        return self._own() if member == self._replica.me else self._told.get(member, {})

    async def asked(self, member: str) -> dict[str, Any] | None:
        """What this member says now; None if it does not answer."""
        if member == self._replica.me:
            return self._own()
        one = Round(self._replica.env, self._replica.send, (INFO, 0), 1, 2 * DEADLINE_S)
        if not await one.start([member]):
            return None
        self._told[member] = one.oks[0][1][1]
        return self._told[member]

    async def refresh(self) -> None:
        """Ask the living, unless that was done a moment ago. Suspects as well: what they said before they fell silent must
        not stand for what they hold now."""
        replica = self._replica
        if self._asking is not None:
            return await asyncio.shield(self._asking)
        now = replica.env.now()
        others = [m.id for m in replica.epoch.members if m.id != replica.me and self._lives(m.id)]
        if now - self._asked_s < EVERY_S or not others:
            return None
        asking = self._asking = replica.env.future()
        try:
            one = Poll(replica.env, self._send, (INFO, 0), others, DEADLINE_S)
            await one.run()
            self._asked_s = now
            self._forget()
            self._told |= {member: reply[1] for member, reply in one.oks}
            self.silent = frozenset(others) - {member for member, _ in one.oks}
        finally:
            self._asking = None
            asking.set_result(None)
        return None

    def _forget(self) -> None:
        """Let go of those that have left: every return under a new id is another member."""
        members = {member.id for member in self._replica.epoch.everybody}
        for known in (self._told, self.offsets):
            for gone in known.keys() - members:
                del known[gone]

    def _send(self, member: str, message: tuple[Any, ...], deadline_s: float, done: Done) -> None:
        """As the replica does, and note what the answer says of the member's clock."""
        env = self._replica.env
        sent_s, sent_us = env.now(), env.wall_us()

        def got(reply: Any) -> None:
            self.offsets.pop(member, None)
            if not isinstance(reply, AtollError) and reply[0] == OK and "wall_us" in reply[1]:
                offset = offset_s(reply[1]["wall_us"], sent_us, env.now() - sent_s)
                if offset is not None:
                    self.offsets[member] = offset
            done(reply)

        self._replica.send(member, message, deadline_s, got)
