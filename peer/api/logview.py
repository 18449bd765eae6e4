"""The journals of all peers as one: for /v1/cluster/log, and for those who follow it.

Merged by the time each peer's own clock said. Who keeps none (an older version) or does not answer is named, so that nobody
takes what is missing for what did not happen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from peer.journal import KEPT, Entry, Journal, Mark
from peer.replication.env import Reply
from peer.replication.messages import LOG, OK
from peer.replication.node import Replica
from peer.replication.quorum import Poll
from ring.members import Member

from .http import iso_time
from .views import in_order

ASK_S = 2.0
FIRST = 200
"""So many entries of the past are told to who begins to follow."""
AT_LEAST = 20
START: Mark = (0, 0)
FIELDS = len(Entry._fields)
"""What a later version adds to an entry is left away."""
Told = tuple[str, Entry]
"""An entry and the member it is of."""


class LogView:
    """One peer's journal, and what it knows of the others'. `lives(member)`: whom gossip does not hold for dead."""

    def __init__(self, replica: Replica, journal: Journal, lives: Callable[[str], bool]) -> None:
        self._replica = replica
        self._lives = lives
        self._journal = journal
        self._seen: dict[str, Mark] = {}
        self.recent: deque[dict[str, Any]] = deque(maxlen=FIRST)
        """What was followed last, as it is told."""
        replica.serve(LOG, self._on_log, votes=False)

    # --- for the API

    async def listed(self, limit: int) -> dict[str, Any]:
        """{"events": the newest `limit` of all, oldest first; "failed": who did not answer}.

        Everybody is asked for a share first, and for all of it only who may have more that belongs here: with 300 peers the
        newest thousand are not sent 300 times.
        """
        members = {member.id: member for member in in_order(self._replica.epoch.members)}
        share = min(limit, max(AT_LEAST, 2 * limit // max(1, len(members))))
        living = [one for one in members if self._lives(one)]
        told, failed = await self._asked(dict.fromkeys(living, START), share)
        failed |= {one: "it is out of reach" for one in members if one not in living}
        newest = self._newest(told, limit)
        oldest_us = newest[0][1].time_us if len(newest) == limit else 0
        more = [
            one for one, some in told.items() if len(some) == share < limit and some[0].time_us >= oldest_us
        ]
        if more:
            again, _ = await self._asked(dict.fromkeys(more, START), limit)
            newest = self._newest(told | again, limit)
        return {
            "events": [self._shown(member, entry) for member, entry in newest],
            "failed": [
                {"node": m.name, "message": failed[one]} for one, m in members.items() if one in failed
            ],
        }

    def forget(self) -> None:
        """Nobody follows any more."""
        self._seen.clear()
        self.recent.clear()

    async def news(self, infos: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What was written since this was asked last, oldest first; at first the newest FIRST of everybody. `infos` is what
        peers tell of themselves: only those with something new are asked."""
        marks = {one: _mark(info["journal"]) for one, info in infos.items() if "journal" in info}
        behind = {
            one: self._seen.get(one, START)
            for one, mark in marks.items()
            if mark > self._seen.get(one, START)
        }
        told, _ = await self._asked(behind, FIRST) if behind else ({}, None)
        for member, some in told.items():
            self._seen[member] = max(self._seen.get(member, START), *(entry.mark for entry in some), START)
        self._seen = {one: mark for one, mark in self._seen.items() if one in self._names()}
        found = [
            self._shown(member, entry) for member, entry in self._newest(told, KEPT if self.recent else FIRST)
        ]
        self.recent.extend(found)
        return found

    # --- inside

    async def _asked(
        self, marks: Mapping[str, Mark], limit: int
    ) -> tuple[dict[str, list[Entry]], dict[str, str]]:
        """What these members wrote after their marks, and why some did not say."""
        polls = {}
        for mark in set(marks.values()):
            some = [member for member, one in marks.items() if one == mark]
            poll = Poll(self._replica.env, self._replica.send, (LOG, 0, *mark, limit), some, ASK_S)
            polls[mark] = poll, poll.run()
        told: dict[str, list[Entry]] = {}
        failed: dict[str, str] = {}
        for poll, ended in polls.values():
            await ended
            for member, reply in poll.oks:
                entries = entries_in(reply[1])
                if entries is None:
                    failed[member] = "what it told of its journal makes no sense"
                else:
                    told[member] = entries
            failed |= {member: "its version keeps no journal" for member, _ in poll.refusals}
        return told, {one: failed.get(one, "it did not answer") for one in marks if one not in told}

    @staticmethod
    def _newest(told: Mapping[str, Iterable[Entry]], limit: int) -> list[Told]:
        merged = [(member, entry) for member, some in told.items() for entry in some]
        merged.sort(key=lambda one: (one[1].time_us, one[0], one[1].mark))
        return merged[max(0, len(merged) - limit) :]

    def _shown(self, member: str, entry: Entry) -> dict[str, Any]:
        return {
            "id": f"{member}-{entry.boot}-{entry.number}",
            "time": iso_time(entry.time_us),
            "node": {"id": member, "name": self._names().get(member, member[:8])},
            "level": entry.level,
            "kind": entry.kind,
            "code": entry.code,
            "message": entry.message,
        }

    def _names(self) -> dict[str, str]:
        members: tuple[Member, ...] = self._replica.epoch.everybody
        return {member.id: member.name for member in members}

    def _on_log(self, message: Any, reply: Reply) -> None:
        """(LOG, 0, boot, number, limit) -> OK, the newest entries after that mark, oldest first."""
        _, _, boot, number, limit = message
        reply((OK, [tuple(entry) for entry in self._journal.since((boot, number), min(limit, KEPT))]))


def _mark(told: Iterable[int]) -> Mark:
    boot, number = told
    return boot, number


def entries_in(told: object) -> list[Entry] | None:
    """The entries of a reply to LOG; None if they are none: one peer's mistake must not take the others' journals away."""
    if not isinstance(told, list):
        return None
    entries = []
    for entry in told:
        if not isinstance(entry, list | tuple) or len(entry) < FIELDS:
            return None
        known = Entry(*entry[:FIELDS])
        if not all(isinstance(number, int) for number in known[:3]) or not all(
            isinstance(word, str) for word in known[3:]
        ):
            return None
        entries.append(known)
    return entries
