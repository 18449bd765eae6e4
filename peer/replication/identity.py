"""Identity and amnesia: a peer that lost its memory must not vote under its old name.

Every start increments a durable boot counter. All peers remember, durably, the highest (boot, commit sequence)
they have seen of each other, and pass that on. Before it votes on anything, a starting peer asks the others what
they have seen of it.

I1  A peer whose own record is below what anybody has seen of it never votes under that id again.
I2  A peer votes only after a majority of the voters (itself counted) have durably recorded its new boot. It asks all
    of them and waits a second for the rest, so that one dead peer does not keep a restarted one from serving.
I3  What a peer knows of third ones is merged in every exchange, so the majorities of two starts meet in knowledge.
I4  A peer keeps the list of its own starts, its **lineage** of (boot, nonce), and sends it along. Whoever knows a start
    or a commit of that peer that is not in the lineage keeps what it knows: however often an old copy is started,
    the evidence against it stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from peer.errors import AtollError, Unavailable
from ring.epoch import Epoch

from .env import Done, Env, Reply, RowStore
from .messages import BOOTS, IS_FULL, OK
from .quorum import Round

GRACE_S = 1.0
ASK_S = 2.0
RETRY_S = 0.25
REPORT_EVERY_S = 5.0
PERSIST_EVERY_S = 60.0
MEMBERS_KEPT = 4096
_BOOT = b"boot"
_SEEN = b"boots"
_CONVICTED = b"amnesiac"
LINEAGE_KEPT = 64

Seen = tuple[int, int, int]
Send = Callable[[str, tuple[Any, ...], float, Done], None]


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
        stored = rows.get("meta", _BOOT)
        self._lineage: list[tuple[int, int]] = (
            [(boot, nonce) for boot, nonce in msgpack.unpackb(stored)] if stored else []
        )
        last_boot = self._lineage[-1][0] if self._lineage else 0
        self._before = rows.sequence if stored else 0
        self.boot = last_boot + 1
        self._nonce = env.rng.getrandbits(63)
        self._lineage = [*self._lineage[1 - LINEAGE_KEPT :], (self.boot, self._nonce)]
        self._seen: dict[str, Seen] = {}
        kept = rows.get("meta", _SEEN)
        if kept:
            self._seen = {member: (boot, seq, nonce) for member, boot, seq, nonce in msgpack.unpackb(kept)}
        self.confirmed = False
        self.amnesiac = rows.get("meta", _CONVICTED) is not None
        self.on_amnesia: Callable[[Amnesia], None] = lambda _: None
        self._unchecked = "no_amnesia_check" in unsafe
        self._persisted_s = env.now()
        self._starts_noted = self._starts_durable = 0

    async def begin(self) -> None:
        """Make this start's boot counter durable. Must end before anything else is sent under it."""
        future = self._env.future()
        self._rows.commit([("meta", _BOOT, bytes(msgpack.packb(self._lineage)))], future.set_result)
        error = await future
        if error is not None:
            raise error

    def _mine(self) -> Seen:
        return self.boot, self._rows.sequence, self._nonce

    async def confirm(self, epoch: Epoch) -> None:
        """Return once a majority of the voters know this boot (I2). Raises Amnesia (I1).

        Runs until it succeeds; a peer that cannot reach a majority just does not vote.
        """
        if self.amnesiac and not self._unchecked:
            raise self._amnesia("an earlier start of it found that out")
        while not self.confirmed:
            others = [voter for voter in epoch.voters() if voter != self.me]
            everybody = sorted({member.id for member in epoch.members} - {self.me})
            voters = len(epoch.voters())
            needed = voters // 2 + 1 - (1 if self.me in epoch.voters() else 0)
            if await self._ask(everybody, set(others), needed):
                self.confirmed = True
                return
            await self._env.sleep(RETRY_S * (0.5 + self._env.rng.random()))

    async def _ask(self, everybody: list[str], voters: set[str], needed: int) -> bool:
        if self._unchecked or not everybody:
            return needed <= 0 or self._unchecked
        one = Round(self._env, self._send, self._message(), len(everybody), GRACE_S)
        await one.start(everybody)
        for _, reply in one.oks:
            self._judge(reply[1])
        return sum(1 for member, _ in one.oks if member in voters) >= needed

    def _judge(self, table: list[Any]) -> None:
        """Learn what another peer has seen, of us above all."""
        for member, boot, sequence, nonce in table:
            if member != self.me:
                self._note(member, (boot, sequence, nonce))
                continue
            strange = not self._is_mine(boot, nonce)
            if strange or (nonce != self._nonce and sequence > self._before):
                self.amnesiac = True
                self.confirmed = False  # it may have been given before this became known
                self._rows.commit([("meta", _CONVICTED, b"1")], lambda _: None)
                known = (
                    f"start {self._lineage[-2][0] if len(self._lineage) > 1 else 0}, commit {self._before}"
                )
                raise self._amnesia(
                    f"it remembers {known}, the cluster has seen start {boot}, commit {sequence} of it"
                )

    def _is_mine(self, boot: int, nonce: int) -> bool:
        return (boot, nonce) in self._lineage or boot < self._lineage[0][0]

    @staticmethod
    def _amnesia(why: str) -> Amnesia:
        return Amnesia(
            f"this data directory is an old copy ({why}). It must not vote under its old id. Returning as a new member"
            " needs the joint ring change, which this version does not implement yet"
        )

    def _message(self) -> tuple[object, ...]:
        return (BOOTS, 0, self._table(), self._before, self._lineage)

    def on_boots(self, message: Any, reply: Reply) -> None:
        """Record the sender's table durably; answer with what was known before."""
        _, _, table, sender_before, lineage = message
        before = self._table()
        sender = table[0][0]
        known = self._seen.get(sender)
        if known is not None and not _continues(known, sender_before, lineage):
            return reply((OK, before))  # an old copy: keep what convicts it (I4)
        for member, boot, sequence, nonce in table:
            if member != self.me:
                self._note(member, (boot, sequence, nonce))
        # What is noted may still be under way, or have met a full disk: that does not count.
        if self._starts_durable == self._starts_noted:
            return reply((OK, before))

        def done(error: AtollError | None) -> None:
            reply((IS_FULL,) if error is not None else (OK, before))

        self._persist(done)
        return None

    def _note(self, member: str, seen: Seen) -> None:
        """Keep the highest boot and the highest sequence, each by itself (I4)."""
        old = self._seen.get(member)
        if old is None:
            if len(self._seen) < MEMBERS_KEPT:
                self._seen[member] = seen
                self._starts_noted += 1
            return
        newer_start = seen[0] > old[0]
        boot, nonce = (seen[0], seen[2]) if newer_start else (old[0], old[2])
        self._seen[member] = (boot, max(old[1], seen[1]), nonce)
        self._starts_noted += newer_start

    def _table(self) -> list[tuple[str, int, int, int]]:
        return [(self.me, *self._mine()), *((member, *seen) for member, seen in self._seen.items())]

    def _persist(self, done: Callable[[AtollError | None], None]) -> None:
        table = [(member, *seen) for member, seen in self._seen.items()]
        starts = self._starts_noted
        self._persisted_s = self._env.now()

        def committed(error: AtollError | None) -> None:
            if error is None:
                self._starts_durable = max(self._starts_durable, starts)
            done(error)

        self._rows.commit([("meta", _SEEN, bytes(msgpack.packb(table)))], committed)

    async def report(self, members: Callable[[], list[str]]) -> None:
        """For ever: tell the others how far we are, so that a rollback within one boot is noticed too."""
        while True:
            await self._env.sleep(REPORT_EVERY_S * (0.8 + 0.4 * self._env.rng.random()))
            others = [member for member in members() if member != self.me]
            one = Round(self._env, self._send, self._message(), max(1, len(others)), ASK_S)
            await one.start(others)
            try:
                for _, reply in one.oks:
                    self._judge(reply[1])
            except Amnesia as error:
                self.on_amnesia(error)
                raise
            if self._env.now() - self._persisted_s > PERSIST_EVERY_S and self._seen:
                self._persist(lambda _: None)


def _continues(known: Seen, before: int, lineage: list[list[int]]) -> bool:
    """Whether a peer with this lineage, which had committed `before` when it started, can be the one known."""
    boot, sequence, nonce = known
    if boot >= lineage[0][0] and [boot, nonce] not in [list(start) for start in lineage]:
        return False
    return nonce == lineage[-1][1] or sequence <= before


def need_confirmed(identity: Identity) -> None:
    """Raise Unavailable while this peer may not vote."""
    if not identity.confirmed:
        raise Unavailable(
            "this peer is starting: the others have not yet confirmed its identity; try another peer"
        )
