"""What one member believes about the others, and the order in which beliefs overrule each other.

A belief is (boot, incarnation, state) and the larger one wins, whoever brings it and in whatever order
(invariant I1). So any two members that heard the same claims believe the same, and a lost, repeated or
late message does no harm. Within one incarnation suspect overrules alive, dead overrules suspect, left
overrules dead; only the member itself can overrule those, with a higher incarnation or boot (invariant I2:
nobody else ever makes one up).

The record, what the member says of itself, follows the same order by its own (boot, incarnation), apart
from the belief: an accusation may be known before the record it is about.
"""

from __future__ import annotations

from math import inf

from gossip.config import Config
from gossip.messages import ALIVE, DEAD, LEFT, STATE_NAMES, SUSPECT, Address
from gossip.record import Record
from gossip.roster import Rng, Roster
from gossip.suspicion import Suspicion
from gossip.timers import Timer

Belief = tuple[int, int, int]


class Member:
    """Another member. Times are awake seconds (`timers.py`)."""

    __slots__ = ("belief", "due", "heard_at", "raw", "record", "seat", "suspicion", "timer")

    def __init__(self, record: Record, raw: bytes, now: float) -> None:
        self.record = record
        self.raw = raw
        self.belief: Belief = (record.boot, record.incarnation, ALIVE)
        self.suspicion: Suspicion | None = None
        self.heard_at = now  # a datagram or an exchange of its own arrived
        self.seat = -1
        self.due = inf  # when its state changes by itself
        self.timer: Timer | None = None  # armed for `due` or earlier

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def address(self) -> Address:
        return self.record.address

    @property
    def state(self) -> int:
        return self.belief[2]

    @property
    def state_name(self) -> str:
        return STATE_NAMES[self.belief[2]]

    @property
    def is_living(self) -> bool:
        """Alive or suspect: a suspect is a full member until its time to refute has passed."""
        return self.belief[2] <= SUSPECT


class Members:
    """All other members known, each in at most one roster according to its state."""

    def __init__(self, config: Config, rng: Rng) -> None:
        self._most = config.max_members
        self.known: dict[str, Member] = {}
        self.living: Roster[Member] = Roster(rng)  # alive or suspect: probed, asked, told
        self.recent: Roster[Member] = Roster(rng)  # dead or left lately: still told
        self.gone: Roster[Member] = Roster(rng)  # dead or left for longer: the dead are tried rarely
        self.refused = 0

    def __len__(self) -> int:
        """Living members, ourselves included: the n of every formula."""
        return len(self.living) + 1

    def add(self, record: Record, raw: bytes, now: float) -> Member | None:
        """A member not known before, alive; None if there is no room and nobody gone to forget."""
        if len(self.known) >= self._most:
            leaver = self.gone.pick() or self.recent.pick()
            if leaver is None:
                self.refused += 1
                return None
            self.forget(leaver)
        member = Member(record, raw, now)
        self.known[record.id] = member
        self.living.add(member)
        return member

    def believe(self, member: Member, belief: Belief) -> bool:
        """Take on a belief that overrules the present one; True if the state changed."""
        assert belief > member.belief, "I1"
        before, state = member.belief[2], belief[2]
        if (before <= SUSPECT) != (state <= SUSPECT):
            self._seat(member, self.living if state <= SUSPECT else self.recent)
        member.belief = belief
        member.suspicion = None
        member.due = inf
        return before != state

    def cool(self, member: Member) -> None:
        """A recent death is recent no more."""
        assert member.state in (DEAD, LEFT)
        self._seat(member, self.gone)

    def forget(self, member: Member) -> None:
        """Remove every trace; news of the member make it known anew."""
        self._unseat(member)
        member.due = inf
        del self.known[member.id]

    def _seat(self, member: Member, roster: Roster[Member]) -> None:
        self._unseat(member)
        roster.add(member)

    def _unseat(self, member: Member) -> None:
        for roster in (self.living, self.recent, self.gone):
            if member in roster:
                roster.remove(member)
                return
