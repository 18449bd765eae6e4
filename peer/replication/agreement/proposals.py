"""Having the next epoch decided: the proposer of Paxos among the voters of the present one.

A change of owners is two epochs: **joint**, with the old table and the new one, then **final**, with the new one alone.

J1  In a joint epoch every prepare, accept and read of a partition whose owners change needs a majority of the old owners and
    one of the new, each answering under the joint tag.
J2  Final is proposed only when every new owner, retained ones included, has merged what a majority of the old owners held,
    each of these having been in joint before it was asked (`transition`).
J3  A joint epoch, a final one after a joint one, and an epoch that alters no set of owners need no fence: a majority of the
    voters decides them.

Why J3 is safe. A member answers for one tag only and never goes back. Let an operation of epoch e be chosen: by a
majority of the old owners, each at tag e then. Whoever prepares under joint reaches a majority of the old owners at the
joint tag; the two majorities share a member, which answered at e before it moved on: so the prepare sees what was chosen,
or has stopped it. Among operations of joint the same holds in either set. An operation of final needs a majority of the
new owners. What was chosen in joint a majority of these has accepted; what was chosen in e they have merged (J2), as any
majority of the old owners has a member of the one that chose it. An abort is final with the old table: operations of joint
had majorities of the old owners, too, so nothing need be merged. Where no set of owners differs, majorities of e and e+1
meet anyway.

A change of owners in one step, for a ring without rows, needs fences (E1). A value of that kind, accepted by some voter, may
have been decided: so it is decided by whoever finds it, behind fences again, unless a member holds rows: then its fence was
released since, which happens only when the value cannot be decided any more (E2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from peer.errors import AtollError, Conflict, Unavailable, UnknownOutcome
from peer.replication.ballot import NONE, BallotClock
from peer.replication.env import Env
from peer.replication.messages import EPOCH_ACCEPT, EPOCH_DECIDED, EPOCH_PREPARE, EPOCH_RELEASE, STALE
from peer.replication.quorum import Poll, Round, Send
from ring.changes import joint_of, same_owners
from ring.epoch import Epoch

from .epochs import Epochs, tag_of

PROPOSE_S = 10.0
ROUND_S = 2.0
TELL_S = 0.5

Transform = Callable[[Epoch], Epoch]


class RingRefused(Conflict):
    """The ring does not change so. Nothing changed; `code` says why."""

    status = 409


class _NoFence(Exception):
    """Some member holds rows (`holds`), or is out of reach: the ring cannot change in one step."""

    def __init__(self, holds: bool, story: str) -> None:
        super().__init__(story)
        self.holds = holds


class _FenceFirst(Exception):
    """A voter has accepted a change in one step, which may be decided: only who fences everybody may finish it."""


class _Course:
    """How one proposal goes about it, learnt on the way, for one base."""

    def __init__(self, tag: int, joint: bool) -> None:
        self.tag = tag
        self.joint = joint  # in two steps
        self.fence = False  # finish somebody's change in one step
        self.dead: set[bytes] = set()  # values found accepted that cannot be decided any more


class Proposals:
    """Proposes epochs for one peer."""

    def __init__(
        self, env: Env, me: str, boot: int, epochs: Epochs, send: Send, holds_rows: Callable[[], bool]
    ) -> None:  # fmt: skip
        self._env = env
        self._me = me
        self._epochs = epochs
        self._send = send
        self._holds_rows = holds_rows
        self._clock = BallotClock(env, me, boot)
        self._lifting = False

    async def propose(self, transform: Transform, budget_s: float = PROPOSE_S) -> Epoch:
        """Have `transform(current)` decided; return the epoch that then stands.

        `transform` gives the epoch that is wanted, final, or its argument when there is nothing left to do; it is applied
        anew when another change wins. Where sets of owners differ, and the ring holds rows, what is decided and returned is
        the joint epoch on the way there; `transition` completes it.
        Raises Unavailable (it may yet be decided by somebody else, if a voter accepted it), or what transform raises.
        """
        until_s = self._env.now() + budget_s
        highest = NONE
        course = _Course(-1, False)
        while True:
            base = self._epochs.current
            assert base is not None, "found or join first"
            wanted = transform(base)
            if wanted is base:
                return base
            if course.tag != tag_of(base):
                course = _Course(tag_of(base), self._holds_rows())
            ballot = self._clock.next(highest)
            highest = max(ballot, await self._attempt(base, wanted, ballot, course))
            if self._env.now() >= until_s:
                raise Unavailable("other changes of the ring kept winning; try again")
            if course.tag == self._epochs.tag:
                await self._env.sleep(0.02 + 0.2 * self._env.rng.random())

    async def _attempt(self, base: Epoch, wanted: Epoch, ballot: bytes, course: _Course) -> bytes:
        """One try, in the way that `course` says; what stands against it, or NONE. Learns for the next one."""
        plain = needs_no_fence(base, wanted)
        if not plain and course.joint:
            wanted, plain = joint_of(base, wanted), True
        try:
            return await self._try(base, wanted, ballot, course, fence=course.fence or not plain)
        except _FenceFirst:
            course.fence = True
        except _NoFence as error:
            if not error.holds and stays(base, wanted):
                raise Unavailable(
                    f"while the ring holds no data every peer must be reachable for another to join ({error}); start the"
                    f" missing peers, or remove them, and try again"
                ) from error
            if course.fence and not error.holds:
                raise Unavailable(
                    f"a change of the ring was begun while it held no data, and every peer must be reachable to finish it"
                    f" ({error}); start the missing peers and try again"
                ) from error
            course.joint, course.fence = True, False
        return ballot

    async def _try(self, base: Epoch, wanted: Epoch, ballot: bytes, course: _Course, *, fence: bool) -> bytes:
        """One Paxos attempt on top of `base`. NONE: something was decided and installed; else what conflicts."""
        tag = tag_of(base)
        voters = set(base.voters())
        majority = len(voters) // 2 + 1
        asked = [member.id for member in base.members] if fence else sorted(voters)
        need = len(asked) if fence else majority
        prepare = Round(self._env, self._send, (EPOCH_PREPARE, tag, ballot, fence), need, ROUND_S)
        enough = await prepare.start(asked)
        newer = prepare.refused_with(STALE)
        if newer is not None and newer[1] > tag:  # another change won, and its announcement did not reach us
            await self._epochs.catch_up(newer[1])
            return NONE if self._epochs.tag > tag else ballot
        conflict = prepare.conflict()
        if conflict is not None:
            return conflict
        accepted = [reply for member, reply in prepare.oks if member in voters and reply[1] != NONE]
        holds = any(reply[3] for _, reply in prepare.oks)
        value = max(accepted, key=lambda reply: reply[1])[2] if accepted else b""
        if fence and (holds or not enough):
            heard = {member for member, _ in prepare.oks}
            if len(accepted) + len(voters - heard) < majority:
                await self._release(asked, tag, ballot)
            if holds and value:
                course.dead.add(value)
            if self._epochs.tag > tag:
                return NONE
            raise _NoFence(holds, prepare.story())
        if not enough:
            raise Unavailable(
                f"no majority of the voters of this ring answered ({prepare.story()}); try again"
            )
        if value and not fence and not needs_no_fence(base, Epoch.decode(value)):
            if not holds and value not in course.dead:
                raise _FenceFirst
            value = b""
        value = value or wanted.encode()
        accept = Round(self._env, self._send, (EPOCH_ACCEPT, tag, ballot, value), majority, ROUND_S)
        if not await accept.start(sorted(voters)):
            return accept.conflict() or ballot
        await self._announce(base, Epoch.decode(value))
        return NONE

    async def _release(self, members: list[str], tag: int, ballot: bytes) -> None:
        release = Round(self._env, self._send, (EPOCH_RELEASE, tag, ballot), len(members), ROUND_S)
        await release.start(members)

    async def _announce(self, base: Epoch, epoch: Epoch) -> None:
        """Use it here and tell the others, those who leave as well. A proposer whose disk has no room tells them all the
        same, then says so."""
        failed = None
        try:
            await self._epochs.installed(epoch)
        except AtollError as error:
            failed = error
        others = sorted({member.id for member in (*base.everybody, *epoch.everybody)} - {self._me})
        message: tuple[Any, ...] = (EPOCH_DECIDED, 0, epoch.encode())
        await Poll(self._env, self._send, message, others, TELL_S).run()
        if failed is not None:
            raise UnknownOutcome(
                f"a ring change was decided, but this peer cannot keep it ({failed}); free space there, or ask another peer"
            )

    async def hand_on(self) -> None:
        """Return when a majority of the present epoch's voters have it on disk. A peer that is in it no more leaves only
        then: it may be one of those that decided it, and the only one who knows."""
        epoch = self._epochs.current
        assert epoch is not None
        voters = [voter for voter in epoch.voters() if voter != self._me]
        need = len(epoch.voters()) // 2 + 1 - (self._me in epoch.voters())
        message: tuple[Any, ...] = (EPOCH_DECIDED, 0, epoch.encode())
        while not await Round(self._env, self._send, message, need, ROUND_S).start(voters):
            await self._env.sleep(TELL_S)

    async def lift_fence(self) -> None:
        """A proposer left members fenced: decide the same ring again; the next epoch has no fences.

        In a joint epoch nobody is: who says so waits for the commit of a newer one (E3). The same ring again would be final,
        and before anybody had merged (J2).
        """
        current = self._epochs.current
        if self._lifting or current is None or current.kind == "joint":
            await self._env.sleep(0.05)
            return
        self._lifting = True
        tag = self._epochs.tag
        try:
            await self._env.sleep(0.3 * self._env.rng.random())
            if self._epochs.tag == tag:
                await self.propose(lambda base: again(base) if tag_of(base) == tag else base, ROUND_S)
        except AtollError:
            return
        finally:
            self._lifting = False


def stays(base: Epoch, wanted: Epoch) -> bool:
    """Whether nobody leaves. Such a change of a ring without data can wait until all are there, and is then done in one
    step: of peers that found a cluster together not all are up when the first ones join."""
    return {member.id for member in base.members} <= {member.id for member in wanted.members}


def needs_no_fence(base: Epoch, wanted: Epoch) -> bool:
    """Whether `wanted` may follow `base` though rows are being written (J3)."""
    return base.kind == "joint" or wanted.kind == "joint" or same_owners(base.table, wanted.table)


def again(base: Epoch) -> Epoch:
    """The same ring under the next number."""
    assert base.kind == "final", "a joint epoch is completed or aborted"
    return replace(base, number=base.number + 1, kind="final", previous=None, previous_members=())
