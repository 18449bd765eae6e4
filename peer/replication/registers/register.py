"""Registers: a key whose value changes only by consensus among its owners (CASPaxos).

One primitive holds every piece of metadata. `change` prepares at a majority, judges or transforms the current
value, and accepts at a majority, durable, before it returns: promises P2 and P3 of docs/architecture.md.
There is no leader; racing coordinators are ordered by ballots.

R1  A coordinator proposes f(current) only for the accepted value of the highest ballot in a majority.
R2  A read or a refusal is answered only from a chosen value: identical ballots on a majority, or an
    accept of the same value by a majority (the identity change, which is also read repair).
    In a joint epoch "a majority" is one of the old owners and one of the new, and the ballots of both are identical.
R3  "Nothing changed" is said only if no accept of ours can ever be chosen.
R4  Who repeats a change through another coordinator gives both the same operation id: the one that comes later finds it in
    the history, and does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from peer.errors import AtollError, Full, ReadOnly, Unavailable, UnknownOutcome
from peer.replication.ballot import NONE, BallotClock
from peer.replication.env import Done, Env
from peer.replication.messages import (
    ACCEPT,
    BALLOT,
    FENCED,
    GATE_REFUSED,
    IS_FULL,
    NO_GATE,
    PREPARE,
    READ,
    READ_ONLY,
    STALE,
)
from peer.replication.owners import Owners
from peer.replication.quorum import (
    HEDGE_S,
    ReadRound,
    Round,
    accept_round,
    agreed_by_both,
    agreed_by_most,
    ask_majority,
)
from peer.replication.value import NEVER_WRITTEN, names_operation, newest_operation, payload_of, wrap

from .gates import GateRefused
from .judged import Current, Judge, Keep, Put
from .room import Room, needs_room, too_full
from .turns import Turns

BUDGET_S = 4.5
ROUND_S = 2.0
BACKOFF_S = 0.004
BACKOFF_MOST_S = 0.25
CHOSEN_KEPT = 4096


class Ring(Protocol):
    """What a coordinator must know of the ring right now."""

    @property
    def tag(self) -> int: ...
    @property
    def is_member(self) -> bool: ...
    def owners_of_row(self, row_key: bytes) -> Owners: ...
    async def catch_up(self, tag: int) -> None:
        """Learn the epoch `tag` from somebody, or wait a little."""

    async def lift_fence(self) -> None:
        """Owners wait for the next epoch: see that it is decided."""


class Registers:
    """Coordinates changes and reads of registers; one per peer."""

    def __init__(
        self, env: Env, me: str, boot: int, ring: Ring, send: Callable[[str, tuple[Any, ...], float, Done], None],
        prefer: Callable[[Iterable[str]], list[str]], late: Callable[[str], None],
        unsafe: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self._env = env
        self._me = me
        self._ring = ring
        self._send = send
        self._prefer = prefer
        self._late = late
        self._clock = BallotClock(env, me, boot)
        self._turns = Turns(env)
        self._room = Room(env)
        self._last_chosen: dict[bytes, bytes] = {}
        self.on_missed: Callable[[str, bytes, bytes], None] | None = None  # see AcceptRound
        self._skip_identity = "no_identity_round" in unsafe
        self._refuse_unchosen = "failed_condition_unchosen" in unsafe
        self.counts = {
            "changes": 0, "reads": 0, "conflicts": 0, "identities": 0, "unknown": 0, "hedges": 0, "joint": 0,
        }  # fmt: skip

    async def change(
        self, key: bytes, judge: Judge, *, gate: int = NO_GATE, want_side: bool = False,
        budget_s: float = BUDGET_S, operation: bytes = b"",
    ) -> Current:  # fmt: skip
        """Apply `judge` to the register and return what stands afterwards.

        `judge` is pure and may run several times. An error it returns is raised once the value it judged is
        chosen. An `operation` (8 bytes) that is in the history, of the last 16 changes, is not judged again (R4).
        Raises Unavailable or ReadOnly (nothing changed), UnknownOutcome (503; it may happen yet), GateRefused, Full.
        """
        until_s = self._env.now() + budget_s
        await self._turns.take(key, budget_s)
        try:
            return await _Change(self, key, judge, gate, want_side, until_s, operation).run()
        finally:
            self._turns.give(key)

    async def settle(self, key: bytes, *, gate: int, above: bytes) -> Current:
        """Have what is chosen accepted once more, under a ballot above `above`: an owner that missed it, and has promised
        no more than that, takes it then. What stands then; no accept begun before can change that. Raises as `change`."""
        await self._turns.take(key, BUDGET_S)
        try:
            one = _Change(self, key, lambda _: Keep, gate, False, self._env.now() + BUDGET_S)
            one.highest, one.anew = above, True
            return await one.run()
        finally:
            self._turns.give(key)

    async def read(self, key: bytes, *, gate: int = NO_GATE, want_side: bool = False) -> Current:
        """The chosen value. One owner gives the value, the rest of a majority their ballots; when these
        differ, the identity change runs first, so that reads never go backwards (R2).

        Raises Unavailable or GateRefused. May repair replicas, never changes the value.
        """
        self.counts["reads"] += 1
        until_s = self._env.now() + BUDGET_S
        answer = await self._read_once(key, gate, want_side, until_s)
        if answer is not None:
            return answer
        self.counts["identities"] += 1
        left_s = max(0.2, until_s - self._env.now())
        try:
            return await self.change(key, lambda _: Keep, gate=gate, want_side=want_side, budget_s=left_s)
        except (Full, ReadOnly):
            answer = await self._agreed(key, gate, want_side)
            if answer is None:
                raise
            return answer

    async def _agreed(self, key: bytes, gate: int, want_side: bool) -> Current | None:
        """What any majority holds under one ballot, so it is chosen (R2): a repair writes, an answer need not."""
        owners, message = self._ring.owners_of_row(key), (READ, self._ring.tag, key, gate, want_side)
        most = await agreed_by_most(self._env, self._send, owners, message, ROUND_S)
        return None if most is None else Current(most[1], payload_of(most[2]), most[3])

    async def _read_once(self, key: bytes, gate: int, want_side: bool, until_s: float) -> Current | None:
        """The value if a majority holds it under one ballot; None if they differ."""
        while True:
            ring = self._ring
            owners = ring.owners_of_row(key)
            left_s = min(ROUND_S, until_s - self._env.now())
            value = (READ, ring.tag, key, gate, want_side)
            if owners.joint:
                both = await agreed_by_both(self._env, self._send, owners, value, left_s)
                return None if both is None else Current(both[1], payload_of(both[2]), both[3])
            ballot = (BALLOT, ring.tag, key, gate)
            one = ReadRound(self._env, self._send, value, ballot, owners.need, left_s, self._late)
            agreed = await one.start(self._prefer(owners.everyone))
            if one.value is not None and (agreed or (self._skip_identity and one.disagree)):
                return Current(one.value[1], payload_of(one.value[2]), one.value[3])
            if one.disagree:
                return None
            await self._after_refusal([one], until_s, sent=False)

    async def _after_refusal(self, rounds: Sequence[Round | ReadRound], until_s: float, sent: bool) -> None:
        """Make of failed rounds what they are: catch up and return to try again, or raise."""
        for status in (STALE, FENCED):
            for one in rounds:
                refusal = one.refused_with(status)
                if refusal is None:
                    continue
                if self._env.now() >= until_s:
                    break
                if status == STALE:
                    return await self._ring.catch_up(refusal[1])
                return await self._ring.lift_fence()
        story = "; ".join(one.story() for one in rounds)
        if sent:
            raise UnknownOutcome(
                f"the write may or may not have happened ({story}); read before you repeat it"
            )
        for one in rounds:
            gate = one.refused_with(GATE_REFUSED)
            if gate is not None:
                raise GateRefused(gate[1], gate[2])
        if any(one.refused_with(IS_FULL) for one in rounds):
            raise Full(too_full(story))
        error = ReadOnly if any(one.refused_with(READ_ONLY) for one in rounds) else Unavailable
        raise error(f"no majority of the owners of this key answered ({story}); try again")

    def _remember_chosen(self, key: bytes, op_id: bytes) -> None:
        """The newest operation known to be chosen: a fixed point in the history of a busy key, so that a change which
        lost a race can tell that it is not part of it (R3). Only the most recent keys are kept."""
        self._last_chosen.pop(key, None)
        self._last_chosen[key] = op_id
        if len(self._last_chosen) > CHOSEN_KEPT:
            del self._last_chosen[next(iter(self._last_chosen))]


class _Change:
    """One change in progress: what it sent, what it saw."""

    def __init__(
        self, registers: Registers, key: bytes, judge: Judge, gate: int, want_side: bool, until_s: float,
        operation: bytes = b"",
    ) -> None:  # fmt: skip
        self.r = registers
        self.key = key
        self.judge = judge
        self.gate = gate
        self.want_side = want_side
        self.op_id = operation or registers._env.rng.getrandbits(64).to_bytes(8, "big")
        self.shared = bool(operation)  # another coordinator may do the same change
        self.sent = NONE  # the first ballot under which we sent accepts of a new value that may yet be chosen
        self.last_sent = NONE
        self.follows = b""  # the newest operation before that of which we knew that it was chosen
        self.highest = NONE
        self.anew = False  # accept the judged value once more, also where it is chosen
        self.tries = 0
        self.prepared: Round  # in which owners promised the present ballot
        self.until_s = until_s
        self.tag = -1  # of the epoch whose owners this attempt asks: both of its rounds carry it
        self.owners = Owners(())

    async def run(self) -> Current:
        self.r.counts["changes"] += 1
        while True:
            done = await self._attempt()
            if done is not None:
                return done
            await self._back_off()

    async def _attempt(self) -> Current | None:
        """One prepare and accept; None means: try again with a higher ballot."""
        r = self.r
        if not r._ring.is_member:  # T2 of attempts
            gone = UnknownOutcome if self.sent else Unavailable
            raise gone("this peer is not in the ring any more; ask another one")
        self.owners, self.tag = r._ring.owners_of_row(self.key), r._ring.tag
        r.counts["joint"] += self.owners.joint
        ballot = r._clock.next(self.highest)
        self.highest = ballot
        message = (PREPARE, self.tag, self.key, ballot, self.gate, self.want_side)
        order = r._prefer(self.owners.everyone)
        prepare = ask_majority(r._env, r._send, message, self.owners, order, self._round_s(), r._late)
        if not await prepare.future:
            await self._failed(prepare)
            return None
        for owner, reply in prepare.oks:
            r._room.note(owner, reply[4])
        self.prepared = prepare
        member, best = max(prepare.oks, key=lambda ok: ok[1][1])
        chosen = all(reply[1] == best[1] for _, reply in prepare.oks)
        if chosen:
            r._remember_chosen(self.key, newest_operation(best[2]))
        if self.sent and max(reply[5] for _, reply in prepare.oks) >= self.sent:
            raise UnknownOutcome(  # F4: the history that would tell may be gone
                "this write was followed by a deletion long ago before its outcome was known; read the key"
            )
        if self.sent:
            mine = best[1] >= self.sent and names_operation(best[2], self.op_id, self.follows)
            if mine is None:
                raise UnknownOutcome(
                    "this write was overtaken by many others before its outcome was known; read the key"
                )
            if mine:
                return await self._identity(ballot, member, best, chosen)
            if chosen and best[1] > self.last_sent:
                self.sent = NONE  # chosen above all we sent, without it: ours can never come back
            else:
                chosen = False  # a minority may still hold ours: only an accept above it settles that (R3)
        elif self.shared and names_operation(best[2], self.op_id):
            return await self._identity(ballot, member, best, chosen)  # R4
        return await self._decide(ballot, member, best, chosen)

    async def _decide(self, ballot: bytes, member: str, best: Any, chosen: bool) -> Current | None:
        current = Current(best[1], payload_of(best[2]), best[3])
        wanted = self.judge(current)
        if isinstance(wanted, Put):
            await self._refuse_for_want_of_room(wanted, ballot)
            value = wrap(wanted.payload, best[2], self.op_id)
            if await self._accept(ballot, value, wanted.side, new=True):
                self.r._remember_chosen(self.key, self.op_id)
                return Current(ballot, wanted.payload, wanted.side, current.payload)
            return None
        if isinstance(wanted, AtollError) and self.r._refuse_unchosen:
            raise wanted
        stands = await self._identity(ballot, member, best, chosen and not self.anew)
        if stands is not None and isinstance(wanted, AtollError):
            raise wanted
        return stands

    async def _refuse_for_want_of_room(self, wanted: Put, ballot: bytes) -> None:
        """Full or Unavailable, if too many owners could not store this just now to expect that a majority can.

        R3: it is said before an accept is sent and while none of ours is in doubt, so it is certain. What owners said is a
        guess at what a commit would find; a wrong one costs a few seconds of refusals.
        """
        if self.sent:
            return
        if refusal := await self._want_of_room(wanted.payload, ballot):
            raise refusal

    async def _want_of_room(self, payload: bytes | None, ballot: bytes) -> AtollError | None:
        """Why a majority is not expected to accept this payload for want of room (`Room.refusal`), if so."""
        if not needs_room(self.key, payload):
            return None
        message = (PREPARE, self.tag, self.key, ballot, self.gate, False)
        return await self.r._room.refusal(self.r._send, message, self.owners, self.prepared)

    async def _identity(self, ballot: bytes, member: str, best: Any, chosen: bool) -> Current | None:
        """See that the judged value is chosen: by identical ballots, or by accepting it anew (R2)."""
        if chosen:
            return Current(best[1], payload_of(best[2]), best[3])
        if refusal := await self._want_of_room(payload_of(best[2]), ballot):
            agreed = await self.r._agreed(self.key, self.gate, self.want_side)
            if agreed is not None and agreed.ballot == best[1]:
                if self.anew:
                    raise refusal
                return agreed
        side = best[3]
        if best[1] == NONE:
            stands = Current(ballot, None, None)
            return stands if await self._accept(ballot, NEVER_WRITTEN, None) else None
        if side is None and not self.want_side:
            held = await self._side_of(member, best[1])
            if held is None:
                self.want_side = True  # should its inline bytes be lost, it abstains from the next prepare
                return None
            side = held[3]
        if await self._accept(ballot, best[2], side):
            return Current(ballot, payload_of(best[2]), side)
        return None

    async def _side_of(self, member: str, ballot: bytes) -> Any | None:
        """The whole accepted value from the owner that told us its ballot, if it still holds that."""
        r = self.r
        fetch = Round(r._env, r._send, (READ, self.tag, self.key, self.gate, True), 1, self._round_s())
        if await fetch.start([member]) and fetch.oks[0][1][1] == ballot:
            return fetch.oks[0][1]
        return None

    async def _accept(self, ballot: bytes, value: bytes, side: bytes | None, *, new: bool = False) -> bool:
        """Whether a majority accepted; `new`: a value of ours, whose fate is open from now on.

        R3: unless every owner refused it for want of room. None of them holds it then, and none ever will, as each
        promised a ballot above it first (A5): no prepare will find it, and nothing changed. One owner that took it, was
        silent, or might forget its refusal is enough for doubt, so a majority of full disks is not.
        """
        r = self.r
        doubts = self.sent, self.last_sent
        if new:
            self.last_sent = ballot
            if not self.sent:
                self.sent = ballot
                self.follows = r._last_chosen.get(self.key, b"")
        message = (ACCEPT, self.tag, self.key, ballot, value, side, self.gate)
        accept = accept_round(r._env, r._send, message, self.owners, self._round_s(), r._late, r.on_missed)
        if await accept.start(self.owners.everyone):
            return True
        if new and accept.shut_out():
            self.sent, self.last_sent = doubts
        for member, reply in accept.refusals:
            if reply[0] == IS_FULL:
                r._room.note(member, True)
        await self._failed(accept)
        return False

    async def _failed(self, one: Round) -> None:
        """A round without quorum: remember what stands against us, or give up."""
        r = self.r
        seen = one.conflict()
        if seen is not None:
            r.counts["conflicts"] += 1
            self.highest = max(self.highest, seen)
            if r._env.now() < self.until_s:
                return
            if not self.sent:
                raise Unavailable(
                    "other requests keep changing this key; slow down and try again", code="SlowDown"
                )
        elif self.sent and r._env.now() + HEDGE_S < self.until_s and self.tries < 3:
            return  # unknown outcome: prepare again and look
        if self.sent:
            r.counts["unknown"] += 1
        await r._after_refusal([one], self.until_s, sent=bool(self.sent))

    async def _back_off(self) -> None:
        self.tries += 1
        env = self.r._env
        most = min(BACKOFF_MOST_S, BACKOFF_S * 2**self.tries)
        await env.sleep(most * (0.5 + env.rng.random() / 2) * (0.2 if self.tries == 1 else 1.0))

    def _round_s(self) -> float:
        return max(0.05, min(ROUND_S, self.until_s - self.r._env.now()))


__all__ = ["Current", "GateRefused", "Judge", "Keep", "Put", "Registers", "Ring"]
