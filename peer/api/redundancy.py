"""Whether every object has all its copies, how many do not, and when they will: one sentence, from what peers tell.

What is said is never better than what is known: the sentence of full health is the last one left when nobody is dead,
silent, behind or lacking something, nothing is on its way, and no healing is owed. Numbers of objects are estimates: the
living say how many they hold in how many partitions, and objects are spread evenly over those. A time is told only while
something moves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ring.epoch import Epoch

from .conditions import read_only

Info = Mapping[str, Any]

CATCHING_UP = ("hints", "anti-entropy", "recovery")
MOVING = ("transition", "anti-entropy")
"""Workers that bring copies; others have queues, too, of which no copy depends."""
POLL_S = 5.0
"""The longest a peer waits before it asks for what is kept for it."""


class Redundancy:
    """What the living tell (`infos`, by member id), and what the ring wants."""

    def __init__(
        self, epoch: Epoch, dead: Collection[str], behind: Collection[str], infos: Mapping[str, Info], unhealed: bool,
        silent: Collection[str] = (),
    ) -> None:  # fmt: skip
        """`dead` and `behind` are member ids: those that do not live, and those that live and lack something or do not say.
        `unhealed`: something else is known to be out of order. `silent`: of `behind` those that did not answer just now;
        what they told is what they told last."""
        self._epoch = epoch
        self._dead = frozenset(dead)
        self._behind = frozenset(behind)
        self._infos = infos
        self._unhealed = unhealed
        self._silent = self._behind.intersection(silent)
        self._told = {member: info.get("healing", {}) for member, info in infos.items()}
        self._partitions = 1 << epoch.partition_power
        self._per_partition = self._mean()
        self.objects = round(self._per_partition * self._partitions)

    def to_map(self) -> dict[str, Any]:
        """{"whole", "lacking", "objects", "left_s", "message"}."""
        lacking, left_s, message = self._judge()
        return {
            "whole": not message,
            "lacking": lacking,
            "objects": self.objects,
            "left_s": None if left_s is None else round(left_s, 1),
            "message": message or f"Every object has its {self._epoch.replicas} copies.",
        }

    def _judge(self) -> tuple[int, float | None, str]:
        """How many objects lack a copy, how long they will, and a sentence: "" if nothing is amiss."""
        for look in (
            self._of_the_dead,
            self._of_moves,
            self._of_those_behind,
            self._of_damage,
            self._of_few_peers,
        ):
            found = look()
            if found is not None:
                return found
        return 0, None, ""

    # --- what may be amiss, the worst first

    def _of_the_dead(self) -> tuple[int, float | None, str] | None:
        if not self._dead:
            return None
        hit = sum(not self._dead.isdisjoint(self._owners(partition)) for partition in range(self._partitions))
        if not hit:
            return None  # they own nothing
        merging = self._sum("merging")
        if self._epoch.kind == "joint" and self._dead.isdisjoint(self._epoch.table.member_ids):
            hit = min(hit, merging) if merging else hit  # nobody waits for the dead: others take their places
            return self._told_of(self._in(hit), self._left(MOVING), self._epoch_members())
        names, they = self._names(self._dead), "are" if len(self._dead) > 1 else "is"
        lacking = self._in(hit)
        message = f"{self._so_many(lacking)} lack a copy until {names} {they} back or removed."
        return lacking, None, message

    def _of_moves(self) -> tuple[int, float | None, str] | None:
        merging, fetching = self._sum("merging"), self._sum("fetching")
        if not (merging or fetching or self._epoch.kind == "joint"):
            return None
        lacking, left_s = self._in(max(merging, fetching)), self._left(MOVING)
        what = f"{self._so_many(lacking)} are still to be copied to their new owners"
        return lacking, left_s, f"{what}{self._when(left_s, self._epoch_members())}."

    def _of_those_behind(self) -> tuple[int, float | None, str] | None:
        waiting = {target: count for target, count in self._waiting().items() if count}
        if not (self._behind or waiting):
            return None
        who = self._behind | set(waiting)
        left_s = self._catch_up_s(waiting)
        if waiting:
            return self._told_of(
                min(sum(waiting.values()), self.objects or sum(waiting.values())), left_s, who
            )
        if self._silent:
            they = "do" if len(self._silent) > 1 else "does"
            message = (
                f"{self._names(self._silent)} {they} not answer, so which copies are there is not known."
            )
            return 0, None, message
        names = self._names(who)
        they = "are" if len(who) > 1 else "is"
        return 0, left_s, f"{names} may lack copies and {they} comparing{self._when(left_s, who)}."

    def _of_damage(self) -> tuple[int, float | None, str] | None:
        if not self._unhealed:
            return None
        chunks, rows = self._sum("missing") + self._sum("damaged"), self._sum("damaged_rows")
        if rows and not chunks:
            what = "1 row of metadata is damaged" if rows == 1 else f"{rows:,} rows of metadata are damaged"
            return rows, None, f"{what}; the others have it{self._pauses(self._epoch_members())}."
        if not chunks:
            return 0, None, "Some objects may lack a copy; all peers compare what they hold."
        what = "1 chunk lacks a good copy" if chunks == 1 else f"{chunks:,} chunks lack a good copy"
        return chunks, None, f"{what}; it is fetched from the others{self._pauses(self._epoch_members())}."

    def _of_few_peers(self) -> tuple[int, float | None, str] | None:
        epoch = self._epoch
        if epoch.table.width >= epoch.replicas:
            return None
        message = f"Every object has {epoch.table.width} of {epoch.replicas} copies: more peers are needed."
        return self.objects, None, message

    # --- numbers

    def _mean(self) -> float:
        """Objects in a partition, on average; 0 while nobody has counted."""
        counted = self._sum("counted")
        return self._sum("objects") / counted if counted else 0.0

    def _sum(self, what: str) -> int:
        return sum(told.get(what, 0) for told in self._told.values())

    def _owners(self, partition: int) -> tuple[str, ...]:
        epoch = self._epoch
        before = () if epoch.previous is None else epoch.previous.owners(partition)
        return (*epoch.table.owners(partition), *before)

    def _in(self, partitions: int) -> int:
        return round(self._per_partition * min(partitions, self._partitions))

    def _waiting(self) -> dict[str, int]:
        """Member that lives -> changes that are kept for it by others."""
        found: dict[str, int] = {}
        for told in self._told.values():
            for target, count in told.get("hints", {}).items():
                if target in self._infos:
                    found[target] = found.get(target, 0) + count
        return found

    def _workers(self, member: str, names: Collection[str]) -> list[Info]:
        return [one for one in self._told.get(member, {}).get("workers", ()) if one.get("name") in names]

    def _left(self, names: Collection[str]) -> float | None:
        """How long the slowest of these workers still needs; None when nothing moves."""
        left = [one.get("left_s") for member in self._told for one in self._workers(member, names)]
        return max((seconds for seconds in left if seconds is not None), default=None)

    def _catch_up_s(self, waiting: Mapping[str, int]) -> float | None:
        """How long those who lack something still need; None if one of them does not move."""
        left = []
        for member in self._behind | set(waiting):
            if self._stuck(member):
                return None
            workers = self._workers(member, CATCHING_UP)
            told = [one["left_s"] for one in workers if one.get("left_s") is not None]
            rate = max((one.get("rate", 0.0) for one in workers if one.get("name") == "hints"), default=0.0)
            if waiting.get(member) and rate > 0:
                told.append(waiting[member] / rate)
            if not told and member in self._behind:
                return None
            left.append(max(told, default=POLL_S))
        return max(left, default=None)

    # --- words

    def _told_of(
        self, lacking: int, left_s: float | None, who: Collection[str]
    ) -> tuple[int, float | None, str]:
        return lacking, left_s, f"{self._so_many(lacking)} lack a copy{self._when(left_s, who)}."

    def _so_many(self, lacking: int) -> str:
        if not self.objects:
            return "Some objects"
        return f"About {lacking:,} of {max(self.objects, lacking):,} objects"

    def _when(self, left_s: float | None, who: Collection[str]) -> str:
        if pauses := self._pauses(who):
            return pauses
        return "" if left_s is None else f"; {_span(left_s)} left"

    def _pauses(self, who: Collection[str]) -> str:
        """Why nothing moves, if somebody who lacks something cannot fetch it."""
        stuck = {why for member in sorted(who) if (why := self._stuck(member))}
        return "".join(f"; {why}" for why in sorted(stuck))

    def _stuck(self, member: str) -> str:
        name = self._names([member])
        if read_only(self._infos.get(member, {})):
            return f"the disk of {name} takes no writes"
        if self._infos.get(member, {}).get("full"):
            return f"the disk of {name} is full"
        if any(one.get("state") == "paused" for one in self._workers(member, {*CATCHING_UP, *MOVING})):
            return f"healing is paused on {name}"
        return ""

    def _epoch_members(self) -> list[str]:
        return [member.id for member in self._epoch.members if member.id in self._infos]

    def _names(self, ids: Collection[str]) -> str:
        found = sorted(member.name for member in self._epoch.everybody if member.id in ids)
        return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def _span(seconds: float) -> str:
    """A length of time, as it is told to somebody who waits."""
    if seconds < 2:
        return "a moment"
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"about {round(seconds / size)} {unit}"
    return f"about {round(seconds)} s"


def moving(joint: bool, healing: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Reasons for a verdict: what is still on its way to new owners, registers in a joint epoch, chunks after it too."""
    told = list(healing)
    reasons = []
    if joint:
        left = sum(info.get("merging", 0) for info in told)
        message = f"the ring is being changed; its new owners have still to merge {left} partitions"
        reasons.append({"code": "ring_changing", "message": message})
    fetching = sum(info.get("fetching", 0) for info in told)
    if fetching:
        message = f"the chunks of {fetching} partitions are still to be fetched by their new owners"
        reasons.append({"code": "chunks_moving", "message": message})
    return reasons
