"""Epochs: one peer's view of the decided ring, and its part in deciding the next one.

Epoch e+1 is decided by Paxos among the voters of epoch e. An epoch is persisted before it is used, and every
replica message carries its sender's epoch **tag** (generation and number in one integer).

Until the joint change exists, a ring changes only while it holds no rows, and this module sees to it:

E1  A member that answers EPOCH_PREPARE without holding rows is **fenced**: it takes no row of epoch e from
    that commit on. A proposer goes on to accept only when every member of e is fenced, not just the voters:
    with four members or more, the owners of a row may be a minority of the voters.
E2  A fence is released only by a proposer that knows no value of a lower ballot was or can be decided.
E3  While a newer epoch waits for its commit, rows of the old one are refused, so the check is in commit order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack

from peer.errors import AtollError, Conflict, Unavailable, UnknownOutcome
from ring.epoch import Epoch

from . import meta
from .ballot import NONE, BallotClock
from .env import Env, Reply, RowStore, Write
from .messages import (
    CONFLICT,
    EPOCH_ACCEPT,
    EPOCH_DECIDED,
    EPOCH_GET,
    EPOCH_PREPARE,
    EPOCH_RELEASE,
    OK,
    STALE,
    status_of,
)
from .quorum import Round, Send

HISTORY_KEPT = 1000
PROPOSE_S = 10.0
ROUND_S = 2.0
_CURRENT = b"epoch"
_PAXOS = b"paxos"
_HISTORY = b"epochs/"


def tag_of(epoch: Epoch) -> int:
    """Generation and number as one integer that orders as they do."""
    return epoch.generation << 40 | epoch.number


def writes_of(epoch: Epoch) -> list[Write]:
    """What a commit takes to make this the current epoch."""
    tag = tag_of(epoch)
    names = [member.name for member in epoch.members]
    summary = msgpack.packb((epoch.generation, epoch.number, epoch.kind, names, epoch.replicas))
    return [
        meta.write(_CURRENT, epoch.encode()),
        meta.write(_HISTORY + tag.to_bytes(8, "big"), bytes(summary)),
        meta.remove(_HISTORY + max(0, tag - HISTORY_KEPT).to_bytes(8, "big")),
    ]


class HoldsRows(Conflict):
    """The ring cannot change this way any more: it holds rows. Nothing changed."""

    code = "RingHoldsData"
    status = 409


class Epochs:
    """The current epoch of one peer; proposer and acceptor of the next."""

    def __init__(
        self,
        env: Env,
        rows: RowStore,
        me: str,
        boot: int,
        send: Send,
        holds_rows: Callable[[], bool],
        installed: Callable[[Epoch], None],
    ) -> None:
        self._env = env
        self._rows = rows
        self._me = me
        self._send = send
        self._holds_rows = holds_rows
        self._installed = installed
        self._clock = BallotClock(env, me, boot)
        self._installing = 0
        self._proposing = False
        self._catching_up: list[Any] = []
        stored = meta.load(rows, _CURRENT)
        self.current: Epoch | None = Epoch.decode(stored) if stored else None
        self.tag = tag_of(self.current) if self.current else -1
        self._load_paxos()

    def _load_paxos(self) -> None:
        stored = meta.load(self._rows, _PAXOS)
        self._promised, self._accepted, self._value, self._fenced = NONE, NONE, b"", False
        if stored:
            tag, promised, accepted, value, fenced = msgpack.unpackb(stored)
            if tag == self.tag:
                self._promised, self._accepted, self._value, self._fenced = promised, accepted, value, fenced

    @property
    def fenced(self) -> bool:
        """Rows of the current epoch are refused (E1, E3)."""
        return self._fenced or self._installing > self.tag

    # --- acceptor

    def on_prepare(self, message: Any, reply: Reply) -> None:
        """Promise, and fence if this peer holds no rows."""
        ballot = message[2]
        if ballot <= self._promised:
            return reply((CONFLICT, self._promised))
        holds = self._holds_rows()
        self._promised = ballot
        self._fenced = self._fenced or not holds
        self._persist(lambda: reply((OK, self._accepted, self._value, holds)), reply)
        return None

    def on_accept(self, message: Any, reply: Reply) -> None:
        _, _, ballot, value = message
        if ballot < self._promised:
            return reply((CONFLICT, self._promised))
        self._promised = self._accepted = ballot
        self._value = value
        self._persist(lambda: reply((OK,)), reply)
        return None

    def on_release(self, message: Any, reply: Reply) -> None:
        """The proposer of `ballot` gave up and knows that nothing was decided (E2)."""
        ballot = message[2]
        if ballot != self._promised:
            return reply((CONFLICT, self._promised))
        self._fenced = False
        self._persist(lambda: reply((OK,)), reply)
        return None

    def _persist(self, durable: Callable[[], None], reply: Reply) -> None:
        state = (self.tag, self._promised, self._accepted, self._value, self._fenced)

        def done(error: AtollError | None) -> None:
            if error is not None:
                reply((status_of(error),))
            else:
                durable()

        self._rows.commit([meta.write(_PAXOS, bytes(msgpack.packb(state)))], done)

    # --- learner

    def on_decided(self, message: Any, reply: Reply) -> None:
        self.install(Epoch.decode(message[2]), lambda error: reply((status_of(error),) if error else (OK,)))

    def on_get(self, message: Any, reply: Reply) -> None:
        assert self.current is not None
        reply((OK, self.current.encode()))

    def install(self, epoch: Epoch, then: Callable[[AtollError | None], None]) -> None:
        """Persist a decided epoch and use it, unless ours is as new; `then` runs in either case, with the error if
        the disk had no room for it."""
        tag = tag_of(epoch)
        if tag <= self.tag:
            return then(None)
        self._installing = max(self._installing, tag)

        def done(error: AtollError | None) -> None:
            if error is None and tag > self.tag:
                self.current = epoch
                self.tag = tag
                self._promised, self._accepted, self._value, self._fenced = NONE, NONE, b"", False
                self._installed(epoch)
            elif error is not None:
                self._installing = self.tag
            then(error)

        return self._rows.commit(writes_of(epoch), done)

    async def installed(self, epoch: Epoch) -> None:
        """Install and wait until it is durable. Raises Full or Unavailable if the disk cannot keep it: nothing changed."""
        future = self._env.future()
        self.install(epoch, future.set_result)
        error = await future
        if error is not None:
            raise error

    def history(self) -> list[dict[str, Any]]:
        """The epochs this peer has used, oldest first, the last thousand."""
        rows = meta.scan(self._rows, _HISTORY, HISTORY_KEPT + 1)
        fields = ("generation", "number", "kind", "members", "replicas")
        return [dict(zip(fields, msgpack.unpackb(value), strict=True)) for value in rows]

    async def catch_up(self, tag: int, first: str = "") -> None:
        """Fetch a newer epoch, from `first` or any member; returns after one round of asking, newer or not.

        Nor does a disk that cannot keep it now raise: whoever waits here may have sent accepts, and an error of ours would
        say of them that nothing changed (R3).
        """
        if self.tag >= tag or self.current is None:
            return
        waiter = self._env.future()
        self._catching_up.append(waiter)
        if len(self._catching_up) > 1:
            await waiter
            return
        try:
            others = [member.id for member in self.current.members if member.id not in (self._me, first)]
            for member in [first, *others] if first else others:
                one = Round(self._env, self._send, (EPOCH_GET, 0), 1, ROUND_S)
                if await one.start([member]):
                    with contextlib.suppress(AtollError):
                        await self.installed(Epoch.decode(one.oks[0][1][1]))
                if self.tag >= tag:
                    return
            await self._env.sleep(0.05)
        finally:
            waiters, self._catching_up = self._catching_up, []
            for one_waiter in waiters:
                if not one_waiter.done():
                    one_waiter.set_result(None)

    # --- proposer

    async def propose(self, transform: Callable[[Epoch], Epoch], budget_s: float = PROPOSE_S) -> Epoch:
        """Decide `transform(current)`; it is applied anew on top when another change wins, and returns its
        argument when there is nothing left to do. Raises HoldsRows, Unavailable, or what transform raises."""
        until_s = self._env.now() + budget_s
        highest = NONE
        while True:
            base = self.current
            assert base is not None
            wanted = transform(base)
            if wanted is base:
                return base
            ballot = self._clock.next(highest)
            highest = ballot
            seen = await self._try(base, wanted, ballot)
            highest = max(highest, seen)
            if self._env.now() >= until_s:
                raise Unavailable("other changes of the ring kept winning; try again")
            if seen:
                await self._env.sleep(0.02 + 0.2 * self._env.rng.random())

    async def _try(self, base: Epoch, wanted: Epoch, ballot: bytes) -> bytes:
        """One Paxos attempt on top of `base`. NONE: something was decided and installed; else what conflicts."""
        tag = tag_of(base)
        members = [member.id for member in base.members]
        voters = set(base.voters())
        majority = len(voters) // 2 + 1
        prepare = Round(self._env, self._send, (EPOCH_PREPARE, tag, ballot), len(members), ROUND_S)
        everybody = await prepare.start(members)
        newer = prepare.refused_with(STALE)
        if newer is not None and newer[1] > tag:  # another change won, and its announcement did not reach us
            await self.catch_up(newer[1])
            return NONE if self.tag > tag else ballot
        conflict = prepare.conflict()
        if conflict is not None:
            return conflict
        holds = any(reply[3] for _, reply in prepare.oks)
        accepted = [reply for member, reply in prepare.oks if member in voters and reply[1] != NONE]
        heard = {member for member, _ in prepare.oks}
        if holds or not everybody:
            if self.tag > tag:
                return ballot
            if len(accepted) + len(voters - heard) < majority:
                await self._release(members, tag, ballot)
            if holds:
                raise HoldsRows(
                    "this cluster already holds data; joining or changing it then needs the two-step (joint) ring"
                    " change, which this version does not implement yet. Start all peers before the first bucket"
                    " is made. Nothing changed."
                )
            raise Unavailable(
                f"until the joint ring change exists every peer must be reachable to change the ring"
                f" ({prepare.story()}); start the missing peers and try again. Nothing changed."
            )
        value = max(accepted, key=lambda reply: reply[1])[2] if accepted else wanted.encode()
        accept = Round(self._env, self._send, (EPOCH_ACCEPT, tag, ballot, value), majority, ROUND_S)
        if not await accept.start(sorted(voters)):
            return accept.conflict() or ballot
        await self._announce(Epoch.decode(value))
        return NONE

    async def _release(self, members: list[str], tag: int, ballot: bytes) -> None:
        release = Round(self._env, self._send, (EPOCH_RELEASE, tag, ballot), len(members), ROUND_S)
        await release.start(members)

    async def _announce(self, epoch: Epoch) -> None:
        """Use it here and tell the others. A proposer whose disk has no room tells them all the same, then says so."""
        failed = None
        try:
            await self.installed(epoch)
        except AtollError as error:
            failed = error
        others = [member.id for member in epoch.members if member.id != self._me]
        told = Round(self._env, self._send, (EPOCH_DECIDED, 0, epoch.encode()), len(others), 0.5)
        await told.start(others)
        if failed is not None:
            raise UnknownOutcome(
                f"a ring change was decided, but this peer cannot keep it ({failed}); free space there, or ask another peer"
            )

    async def lift_fence(self) -> None:
        """A proposer left members fenced: decide the same ring again, or release them."""
        if self._proposing:
            await self._env.sleep(0.05)
            return
        self._proposing = True
        tag = self.tag
        try:
            await self._env.sleep(0.3 * self._env.rng.random())
            if self.tag == tag:
                await self.propose(lambda base: again(base) if tag_of(base) == tag else base, ROUND_S)
        except (HoldsRows, Unavailable):
            return
        finally:
            self._proposing = False


def again(base: Epoch) -> Epoch:
    """The same ring under the next number."""
    return replace(base, number=base.number + 1, kind="final", previous=None)
