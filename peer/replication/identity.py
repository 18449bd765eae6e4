"""Identity and amnesia: a peer that lost its memory must not vote under its old name.

Every start increments a durable boot counter. All peers remember, durably, the highest (boot, commit sequence)
they have seen of each other, and pass that on. Before it votes on anything, a starting peer asks the others what
they have seen of it.

I1  A peer whose own record is below what anybody has seen of it never votes under that id again.
I2  A peer votes only after a majority of the voters (itself counted) have durably recorded its new boot. It asks all
    of them and waits a second for the rest, so that one dead peer does not keep a restarted one from serving.
I3  What a peer knows of third ones is merged in every exchange, so the majorities of two starts meet in knowledge.
I4  Boots and sequences are kept apart, each at its highest: an old copy that is started twice raises the boot it is
    known by, but never lowers the sequence that convicts it.
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
        last_boot = int.from_bytes(stored, "big") if stored else 0
        self._before: tuple[int, int] = (last_boot, rows.sequence if stored else 0)
        self.boot = last_boot + 1
        self._nonce = env.rng.getrandbits(63)
        self._seen: dict[str, Seen] = {}
        kept = rows.get("meta", _SEEN)
        if kept:
            self._seen = {member: (boot, seq, nonce) for member, boot, seq, nonce in msgpack.unpackb(kept)}
        self.confirmed = False
        self.amnesiac = False
        self.on_amnesia: Callable[[Amnesia], None] = lambda _: None
        self._unchecked = "no_amnesia_check" in unsafe
        self._persisted_s = env.now()

    async def begin(self) -> None:
        """Make this start's boot counter durable. Must end before anything else is sent under it."""
        future = self._env.future()
        self._rows.commit([("meta", _BOOT, self.boot.to_bytes(8, "big"))], future.set_result)
        error = await future
        if error is not None:
            raise error

    def _mine(self) -> Seen:
        return self.boot, self._rows.sequence, self._nonce

    async def confirm(self, epoch: Epoch) -> None:
        """Return once a majority of the voters know this boot (I2). Raises Amnesia (I1).

        Runs until it succeeds; a peer that cannot reach a majority just does not vote.
        """
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
        one = Round(self._env, self._send, (BOOTS, 0, self._table()), len(everybody), GRACE_S)
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
            another_start = boot >= self.boot and nonce != self._nonce
            if another_start or (nonce != self._nonce and sequence > self._before[1]):
                self.amnesiac = True
                self.confirmed = False  # it may have been given before this became known
                raise Amnesia(
                    f"this data directory is an old copy: it remembers start {self._before[0]}, commit"
                    f" {self._before[1]}, but the cluster has seen start {boot}, commit {sequence} of this peer."
                    " It must not vote under its old id. Returning as a new member needs the joint ring change,"
                    " which this version does not implement yet"
                )

    def on_boots(self, message: Any, reply: Reply) -> None:
        """Record the sender's table durably; answer with what was known before."""
        before = self._table()
        news = False
        for member, boot, sequence, nonce in message[2]:
            if member != self.me:
                news |= self._note(member, (boot, sequence, nonce))
        if not news:
            return reply((OK, before))

        def done(error: AtollError | None) -> None:
            reply((IS_FULL,) if error is not None else (OK, before))

        self._persist(done)
        return None

    def _note(self, member: str, seen: Seen) -> bool:
        """Keep the highest boot and the highest sequence, each by itself (I4); True if the boot is new and must be
        made durable."""
        old = self._seen.get(member)
        if old is None:
            if len(self._seen) >= MEMBERS_KEPT:
                return False
            self._seen[member] = seen
            return True
        newer_start = seen[0] > old[0]
        boot, nonce = (seen[0], seen[2]) if newer_start else (old[0], old[2])
        self._seen[member] = (boot, max(old[1], seen[1]), nonce)
        return newer_start

    def _table(self) -> list[tuple[str, int, int, int]]:
        return [(self.me, *self._mine()), *((member, *seen) for member, seen in self._seen.items())]

    def _persist(self, done: Callable[[AtollError | None], None]) -> None:
        table = [(member, *seen) for member, seen in self._seen.items()]
        self._persisted_s = self._env.now()
        self._rows.commit([("meta", _SEEN, bytes(msgpack.packb(table)))], done)

    async def report(self, members: Callable[[], list[str]]) -> None:
        """For ever: tell the others how far we are, so that a rollback within one boot is noticed too."""
        while True:
            await self._env.sleep(REPORT_EVERY_S * (0.8 + 0.4 * self._env.rng.random()))
            others = [member for member in members() if member != self.me]
            one = Round(self._env, self._send, (BOOTS, 0, self._table()), max(1, len(others)), ASK_S)
            await one.start(others)
            try:
                for _, reply in one.oks:
                    self._judge(reply[1])
            except Amnesia as error:
                self.on_amnesia(error)
                raise
            if self._env.now() - self._persisted_s > PERSIST_EVERY_S and self._seen:
                self._persist(lambda _: None)


def need_confirmed(identity: Identity) -> None:
    """Raise Unavailable while this peer may not vote."""
    if not identity.confirmed:
        raise Unavailable(
            "this peer is starting: the others have not yet confirmed its identity; try another peer"
        )
