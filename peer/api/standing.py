"""How every member stands at one moment, as one peer knows it: what gossip believes of it, and what it said last.

Made for one answer and thrown away. What it says of a member is never better than what is known: who is dead, silent, or
lacks something counts as no copy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

from peer.membership import MemberView
from ring.epoch import Epoch
from ring.members import Member

from . import conditions
from .clocks import skews

Info = Mapping[str, Any]
LIVING = ("alive", "suspect")


class Standing:
    """Of the members of `epoch`, as `me` sees them. `views` is what gossip believes, `infos` what each said last, `silent`
    are the living that did not answer when asked last, `offsets` by how many seconds their clocks are ahead of ours."""

    def __init__(
        self, epoch: Epoch, me: str, views: Mapping[str, MemberView], infos: Mapping[str, Info], silent: Collection[str],
        offsets: Mapping[str, float],
    ) -> None:  # fmt: skip
        self.epoch = epoch
        self.me = me
        self.views = views
        self.infos = infos
        self.silent = silent
        self._offsets = offsets

    def state(self, member: str) -> str:
        """What gossip believes, or "unknown" of one not heard of since this peer started."""
        if member == self.me:
            return "alive"
        view = self.views.get(member)
        return view.state if view is not None else "unknown"

    def lives(self, member: str) -> bool:
        return self.state(member) in LIVING

    def info(self, member: str) -> Info:
        """What it said last, be it long ago; {} if nothing."""
        return self.infos.get(member, {})

    def healing(self, member: str) -> Info:
        """Of that, what is out of order there, and what is done about it."""
        healing: Info = self.info(member).get("healing", {})
        return healing

    def number(self, member: str, count: str) -> int:
        return int(self.healing(member).get(count, 0))

    @cached_property
    def living(self) -> tuple[Member, ...]:
        return tuple(member for member in self.epoch.members if self.lives(member.id))

    @cached_property
    def answering(self) -> tuple[Member, ...]:
        """The living that answered just now: what they say is true."""
        return tuple(member for member in self.living if member.id not in self.silent)

    @cached_property
    def dead(self) -> frozenset[str]:
        """Of the old ring, too, while it is being changed."""
        return frozenset(member.id for member in self.epoch.everybody if not self.lives(member.id))

    @cached_property
    def behind(self) -> frozenset[str]:
        """Members that live, but may lack what was written while they were away, or do not say."""
        return frozenset(m.id for m in self.living if m.id in self.silent or self.healing(m.id).get("behind"))

    @cached_property
    def mute(self) -> frozenset[str]:
        """Who votes on nothing: the dead, and those who merge what all survivors of `recover epoch` hold."""
        recovering = {m.id for m in self.epoch.members if self.number(m.id, "recovering")}
        return self.dead | recovering

    @cached_property
    def owed(self) -> frozenset[str]:
        """Members for whom some living one keeps what they missed."""
        return frozenset(owner for m in self.living for owner in self.healing(m.id).get("hints", {}))

    @cached_property
    def damaged(self) -> frozenset[str]:
        """Members that live, but hold some chunks or rows of metadata only damaged, or have lost them."""
        return frozenset(
            m.id for m in self.living if self.number(m.id, "damaged") or self.number(m.id, "damaged_rows")
        )

    @cached_property
    def read_only(self) -> frozenset[str]:
        """Members whose disk takes no writes: what is written now misses a copy there."""
        return frozenset(m.id for m in self.epoch.members if conditions.read_only(self.info(m.id)))

    @cached_property
    def lacking(self) -> frozenset[str]:
        """Whoever counts as no copy."""
        return self.mute | self.behind | self.damaged | self.owed | self.read_only

    @cached_property
    def skews(self) -> dict[str, float]:
        """Member -> by how many seconds its clock is ahead of most clocks, of those that answered just now and say."""
        heard = {m.id: self._offsets[m.id] for m in self.answering if m.id in self._offsets}
        return skews(heard | {self.me: 0.0})

    @cached_property
    def told(self) -> list[conditions.Told]:
        """What the living tell of themselves: to us, or, should they not answer just now, in gossip."""
        told: list[conditions.Told] = []
        for member in self.living:
            view = self.views.get(member.id)
            info = {} if member.id in self.silent else self.info(member.id)
            told.append((member.name, info, view.flags if view is not None else ()))
        return told
