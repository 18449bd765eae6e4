"""Epochs: one peer's view of the decided ring, and its vote on the next one. Who asks for votes is in `proposals`.

Epoch e+1 is decided by Paxos among the voters of epoch e. An epoch is persisted before it is used, and every
replica message carries its sender's epoch **tag** (generation and number in one integer).

A ring that holds rows changes in two epochs, joint and final (`proposals` says why that is safe). One that holds none may
change in one, and this module sees to it that it stays without rows meanwhile:

E1  A member that answers EPOCH_PREPARE with `fence`, without holding rows, is **fenced**: it takes no row of epoch e from
    that commit on. A proposer that fences goes on to accept only when every member of e is fenced, not just the voters:
    with four members or more, the owners of a row may be a minority of the voters.
E2  A fence is released only by a proposer that knows no value of a lower ballot was or can be decided.
E3  While a newer epoch waits for its commit, rows of the old one are refused, so the check is in commit order.
E4  The tables of earlier epochs are kept, in the commit that installs the next: chunks may lie where they say.
E5  An epoch of another cluster, partition power or chunk size is no successor of ours, whatever its number: it is neither
    accepted nor installed. What is fixed when a cluster is founded says where everything lies and what it is called.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from typing import Any

import msgpack

from peer.errors import AtollError, Refused
from peer.replication import meta
from peer.replication.ballot import NONE
from peer.replication.env import Env, Reply, RowStore, Write
from peer.replication.messages import CONFLICT, EPOCH_GET, FAILED, OK, status_of
from peer.replication.quorum import Round, Send
from ring.epoch import Epoch

from .earlier import Earlier

HISTORY_KEPT = 1000
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


def alien(current: Epoch | None, epoch: Epoch) -> Refused | None:
    """Why `epoch` cannot follow the current one (E5); None if it can."""
    if current is None:
        return None
    for what, mine, theirs in (
        ("cluster", current.cluster_id, epoch.cluster_id),
        ("partition power", current.partition_power, epoch.partition_power),
        ("chunk size", current.chunk_bytes, epoch.chunk_bytes),
    ):
        if mine != theirs:
            return Refused(f"this ring's {what} is {mine}, not {theirs}", code="WrongRing")
    return None


def _mark(tag: int, encoded: bytes) -> bytes:
    return tag.to_bytes(8, "big") + zlib.crc32(encoded).to_bytes(4, "big")


class Epochs:
    """The current epoch of one peer; acceptor of the next."""

    def __init__(
        self,
        env: Env,
        rows: RowStore,
        me: str,
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
        self._installing = 0
        self._catching_up: list[Any] = []
        stored = meta.load(rows, _CURRENT)
        self.current: Epoch | None = Epoch.decode(stored) if stored else None
        self.earlier = Earlier(rows)
        self.tag = tag_of(self.current) if self.current else -1
        self.mark = _mark(self.tag, stored) if stored else b""
        """The tag and a checksum of the ring it stands for; b"" before there is one. Two rings of one number differ."""
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
        """Promise, and fence (if that is asked for) if this peer holds no rows."""
        _, _, ballot, fence = message
        if ballot <= self._promised:
            return reply((CONFLICT, self._promised))
        holds = self._holds_rows()
        self._promised = ballot
        self._fenced = self._fenced or (fence and not holds)
        self._persist(lambda: reply((OK, self._accepted, self._value, holds)), reply)
        return None

    def on_accept(self, message: Any, reply: Reply) -> None:
        _, _, ballot, value = message
        if ballot < self._promised:
            return reply((CONFLICT, self._promised))
        if error := alien(self.current, Epoch.decode(value)):
            return reply((FAILED, error.code, str(error)))
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
        def installed(error: AtollError | None) -> None:
            if isinstance(error, Refused):
                return reply((FAILED, error.code, str(error)))
            return reply((status_of(error),) if error else (OK,))

        self.install(Epoch.decode(message[2]), installed)

    def on_get(self, message: Any, reply: Reply) -> None:
        assert self.current is not None
        reply((OK, self.current.encode()))

    def install(self, epoch: Epoch, then: Callable[[AtollError | None], None]) -> None:
        """Persist a decided epoch and use it, unless ours is as new; `then` runs in either case, with the error if
        the disk had no room for it, or Refused if it is none of this cluster's (E5)."""
        tag = tag_of(epoch)
        if tag <= self.tag:
            return then(None)
        if error := alien(self.current, epoch):
            return then(error)
        self._installing = max(self._installing, tag)
        keep, kept = self.earlier.keeping(self.current, epoch)

        def done(error: AtollError | None) -> None:
            if error is None and tag > self.tag:
                kept()
                self.current = epoch
                self.tag = tag
                self.mark = _mark(tag, epoch.encode())
                self._promised, self._accepted, self._value, self._fenced = NONE, NONE, b"", False
                self._installed(epoch)
            elif error is not None:
                self._installing = self.tag
            then(error)

        return self._rows.commit([*writes_of(epoch), *keep], done)

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
            others = [m.id for m in self.current.everybody if m.id not in (self._me, first)]
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
