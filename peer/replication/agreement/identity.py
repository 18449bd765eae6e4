"""Identity and amnesia: a peer that lost its memory must not vote under its old name.

Every start increments a durable boot counter. All peers remember, durably, the highest (boot, commit sequence)
they have seen of each other, and pass that on. Before it votes on anything, a starting peer asks the others what
they have seen of it.

I1  A peer whose own record is below what anybody has seen of it never votes under that id again.
I2  A peer votes only after a majority of the voters (itself counted) have durably recorded its new boot. It asks all
    of them and waits a second for the rest, so that one dead peer does not keep a restarted one from serving.
I3  What a peer knows of third ones is merged in every exchange, so the majorities of two starts meet in knowledge.
I4  A peer keeps the list of its own starts, its **lineage** of (boot, nonce), and sends it along. What is known of a
    peer is a set of starts, merged by union; only a start whose lineage holds them takes older ones out. Whoever knows
    a start or a commit of that peer that is not in the lineage keeps what it knows: however often an old copy is
    started, and whichever way the news of it travels, the evidence against it stays.
I5  A peer whose start is not confirmed speaks of itself only when it asks, never in an answer.
I6  Who becomes a voter is told of every running peer's start, with all that peer has seen of others: only voters' answers
    count, so only voters need be told, whatever the size of the ring.
I7  Who was in neither of the last two rings is forgotten: it votes on nothing. The table does not grow with all that ever
    joined. (One that joins may be known before its ring is; one ring given up and made anew has the same newcomer.)

The gap that remains: a peer counts itself, so in a ring of three an old copy passes if the only peer that knows a later
start is down while the copy starts. Asking for two others instead would keep two restarted peers of three from serving.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from peer.errors import AtollError
from peer.replication import meta
from peer.replication.env import Env, Reply, RowStore
from peer.replication.messages import BOOTS, OK, status_of
from peer.replication.quorum import Poll, Send
from ring.epoch import Epoch

GRACE_S = 1.0
ASK_S = 2.0
RETRY_S = 0.25
REPORT_EVERY_S = 5.0
PERSIST_EVERY_S = 60.0
MEMBERS_KEPT = 4096
OTHERS_ASKED = 16  # besides the voters: each that knows better convicts an old copy
_BOOT = b"boot"
_SEEN = b"boots"
_CONVICTED = b"amnesiac"
LINEAGE_KEPT = 64
STARTS_KEPT = 16

Start = tuple[int, int]
"""(boot, nonce) of one start of a peer."""


class Amnesia(AtollError):
    """This data directory is older than what the cluster has seen of this peer. It must not vote again."""

    code = "Amnesia"


class Identity:
    """Who this peer is, how often it started, and what it has seen of the others."""

    def __init__(
        self, env: Env, rows: RowStore, me: str, send: Send, unsafe: frozenset[str] = frozenset()
    ) -> None:
        self._env = env
        self._rows = rows
        self._send = send
        self.me = me
        stored = meta.load(rows, _BOOT)
        self._lineage: list[tuple[int, int]] = (
            [(boot, nonce) for boot, nonce in msgpack.unpackb(stored)] if stored else []
        )
        last_boot = self._lineage[-1][0] if self._lineage else 0
        self._before = rows.sequence if stored else 0
        self.boot = last_boot + 1
        self._nonce = env.rng.getrandbits(63)
        self._lineage = [*self._lineage[1 - LINEAGE_KEPT :], (self.boot, self._nonce)]
        self._seen: dict[str, dict[Start, int]] = {}  # member -> its starts -> highest sequence seen in each
        self.confirmed = False
        self.amnesiac = meta.load(rows, _CONVICTED) is not None
        self.on_amnesia: Callable[[Amnesia], None] = lambda _: None
        self._unchecked = "no_amnesia_check" in unsafe
        self._told: dict[str, int] = {}  # who has answered in this start -> our commit sequence that it knows
        self._strangers: set[str] = set()  # seen, and no members when the ring last changed
        self._persisted_s = env.now()
        self._starts_noted = self._starts_durable = 0
        for member, *seen in msgpack.unpackb(meta.load(rows, _SEEN) or b"\x90"):
            self._note(member, *seen)
        self._starts_durable = self._starts_noted

    async def begin(self) -> None:
        """Make this start's boot counter durable. Must end before anything else is sent under it."""
        future = self._env.future()
        self._rows.commit([meta.write(_BOOT, bytes(msgpack.packb(self._lineage)))], future.set_result)
        error = await future
        if error is not None:
            raise error

    async def confirm(self, ring: Callable[[], Epoch]) -> None:
        """Return once a majority of the voters of the present ring know this boot (I2). Raises Amnesia (I1).

        Runs until it succeeds; a peer that cannot reach a majority just does not vote.
        """
        if self.amnesiac and not self._unchecked:
            raise self._amnesia("an earlier start of it found that out")
        while not self.confirmed:
            epoch = ring()
            others = [voter for voter in epoch.voters() if voter != self.me]
            voters = len(epoch.voters())
            needed = voters // 2 + 1 - (1 if self.me in epoch.voters() else 0)
            asked = sorted([*others, *self._some_others(epoch)])
            if await self._ask(asked, set(others), needed):
                self.confirmed = True
                return
            await self._env.sleep(RETRY_S * (0.5 + self._env.rng.random()))

    def _some_others(self, epoch: Epoch) -> list[str]:
        """Members that are no voters, OTHERS_ASKED of them in a row, from anywhere."""
        without = {self.me, *epoch.voters()}
        others = [member.id for member in epoch.members if member.id not in without]
        first = int(self._env.rng.random() * len(others)) if len(others) > OTHERS_ASKED else 0
        return [*others[first:], *others[:first]][:OTHERS_ASKED]

    async def _ask(self, asked: list[str], voters: set[str], needed: int) -> bool:
        if self._unchecked or not asked:
            return needed <= 0 or self._unchecked
        one = await self._spoken(asked, GRACE_S)
        return sum(1 for member, _ in one.oks if member in voters) >= needed

    async def _judge(self, answers: Poll) -> None:
        """Learn what the others have seen, of us above all. Raises Amnesia (I1), once that is durable."""
        for _, reply in answers.oks:
            for member, boot, sequence, nonce in reply[1]:
                if member != self.me:
                    self._note(member, boot, sequence, nonce)
                elif not _continues((boot, nonce), sequence, self._before, self._lineage):
                    raise await self._convicted(boot, sequence)

    async def _convicted(self, boot: int, sequence: int) -> Amnesia:
        self.amnesiac = True
        self.confirmed = False  # it may have been given before this became known
        future = self._env.future()
        self._rows.commit([meta.write(_CONVICTED, b"1")], future.set_result)
        await future
        known = f"start {self._lineage[-2][0] if len(self._lineage) > 1 else 0}, commit {self._before}"
        return self._amnesia(
            f"it remembers {known}, the cluster has seen start {boot}, commit {sequence} of it"
        )

    @staticmethod
    def _amnesia(why: str) -> Amnesia:
        return Amnesia(f"this data directory is an old copy ({why}). It must not vote under its old id")

    def _message(self) -> tuple[object, ...]:
        mine = (self.me, self.boot, self._rows.sequence, self._nonce)
        return (BOOTS, 0, [mine, *self._known()], self._before, self._lineage)

    def on_boots(self, message: Any, reply: Reply) -> None:
        """Record the sender's table durably; answer with what was known before."""
        _, _, table, sender_before, pairs = message
        lineage = [(boot, nonce) for boot, nonce in pairs]
        before = self._known()
        if self.confirmed:  # I5
            before.append((self.me, self.boot, self._rows.sequence, self._nonce))
        sender = table[0][0]
        known = self._seen.get(sender, {})
        if not all(_continues(start, seq, sender_before, lineage) for start, seq in known.items()):
            return reply((OK, before))  # an old copy: keep what convicts it (I4)
        for member, *seen in table:
            if member != self.me:
                self._note(member, *seen)
        self._succeed(sender, sender_before, lineage)
        # What is noted may still be under way, or have met a full disk: that does not count.
        if self._starts_durable == self._starts_noted:
            return reply((OK, before))

        def done(error: AtollError | None) -> None:
            reply((status_of(error),) if error is not None else (OK, before))

        self._persist(done)
        return None

    def _note(self, member: str, boot: int, sequence: int, nonce: int) -> None:
        """Add a start, or raise its sequence (I4)."""
        starts = self._seen.get(member)
        if starts is None:
            if len(self._seen) >= MEMBERS_KEPT:
                return
            starts = self._seen[member] = {}
        known = starts.get((boot, nonce))
        if known is not None:
            starts[boot, nonce] = max(known, sequence)
            return
        starts[boot, nonce] = sequence
        self._starts_noted += 1
        if len(starts) > STARTS_KEPT:
            del starts[min(starts)]

    def _succeed(self, member: str, before: int, lineage: list[Start]) -> None:
        """Forget the starts that the member's own present one continues: it convicts whatever they would."""
        starts = self._seen.get(member, {})
        for start in [start for start in starts if start != lineage[-1]]:
            if lineage[-1] in starts and _continues(start, starts[start], before, lineage):
                del starts[start]

    def ring_changed(self, everybody: frozenset[str]) -> None:
        """Forget who is no member and was none at the last change either (I7)."""
        strangers = self._seen.keys() - everybody
        for member in strangers & self._strangers:
            del self._seen[member]
            self._told.pop(member, None)
        self._strangers = strangers - self._strangers

    def _known(self) -> list[tuple[str, int, int, int]]:
        """What this peer has seen of others, one row a start: member, boot, sequence, nonce."""
        return [
            (member, boot, sequence, nonce)
            for member, starts in self._seen.items()
            for (boot, nonce), sequence in starts.items()
        ]

    def _persist(self, done: Callable[[AtollError | None], None]) -> None:
        table = self._known()
        starts = self._starts_noted
        self._persisted_s = self._env.now()

        def committed(error: AtollError | None) -> None:
            if error is None:
                self._starts_durable = max(self._starts_durable, starts)
            done(error)

        self._rows.commit([meta.write(_SEEN, bytes(msgpack.packb(table)))], committed)

    async def report(self, voters: Callable[[], list[str]]) -> None:
        """For ever: tell the voters how far we are, so that a rollback within one boot is noticed too. Those who know are
        left in peace."""
        while True:
            await self._env.sleep(REPORT_EVERY_S * (0.8 + 0.4 * self._env.rng.random()))
            await self.tell([voter for voter in voters() if self._told.get(voter) != self._rows.sequence])
            if self._env.now() - self._persisted_s > PERSIST_EVERY_S and self._seen:
                self._persist(lambda _: None)

    async def introduce(self, voters: list[str]) -> None:
        """Tell those who have not answered in this start yet (I6). Raises Amnesia."""
        await self.tell([voter for voter in voters if voter not in self._told])

    async def tell(self, members: list[str]) -> None:
        """One report, now. Raises Amnesia."""
        others = [member for member in members if member != self.me]
        try:
            if others:
                await self._spoken(others, ASK_S)
        except Amnesia as error:
            self.on_amnesia(error)
            raise

    async def _spoken(self, members: list[str], patience_s: float) -> Poll:
        """Tell these what we know, and judge what they answer. Raises Amnesia."""
        sequence = self._rows.sequence
        one = Poll(self._env, self._send, self._message(), members, patience_s)
        await one.run()
        if len(self._told) < MEMBERS_KEPT:
            self._told.update(dict.fromkeys((member for member, _ in one.oks), sequence))
        await self._judge(one)
        return one


def _continues(known: Start, sequence: int, before: int, lineage: list[Start]) -> bool:
    """Whether a peer with this lineage, which had committed `before` when it started, may have had the start known."""
    if known == lineage[-1]:
        return True
    if known[0] >= lineage[0][0] and known not in lineage:
        return False
    return sequence <= before
