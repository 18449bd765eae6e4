"""One round of messages to owners: a counter and a future, no task per call.

A round asks `targets` first and turns to `spares` when one of them fails, refuses or is late (a hedge), so that
a dead or frozen owner costs one hedge delay and not a deadline.

While the ring changes, some rows have two sets of owners (a joint epoch): a round about such a row asks everybody of both
and needs a majority of each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from peer.errors import AtollError

from .env import Cancellable, Done, Env
from .messages import ABSTAIN, CONFLICT, FAILED, NO_ROOM, OK, WORDS
from .owners import Owners

HEDGE_S = 0.12

Send = Callable[[str, tuple[Any, ...], float, Done], None]


class Answers:
    """What a round heard besides OK, in words and by status."""

    refusals: list[tuple[str, Any]]
    silent: list[tuple[str, AtollError]]

    def conflict(self) -> bytes | None:
        """The highest ballot that stood against the round, if any did."""
        ballots = [reply[1] for _, reply in self.refusals if reply[0] == CONFLICT]
        return max(ballots) if ballots else None

    def refused_with(self, status: int) -> Any | None:
        """The first refusal with this status."""
        return next((reply for _, reply in self.refusals if reply[0] == status), None)

    def story(self) -> str:
        """Who said no and why, for an error message."""
        parts = [f"{member}: {_words(reply)}" for member, reply in self.refusals]
        parts += [f"{member}: {error}" for member, error in self.silent]
        return "; ".join(parts[:5]) or "no answer in time"


class Round(Answers):
    """Sends one message until `need` owners said OK, or no longer can. `await round.future` never raises
    for replies: it gives True (quorum) or False; `oks`, `refusals` and `silent` tell the rest."""

    def __init__(
        self, env: Env, send: Send, message: tuple[Any, ...], need: int, deadline_s: float,
        late: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.env = env
        self.future: asyncio.Future[bool] = env.future()
        self.oks: list[tuple[str, Any]] = []
        self.refusals = []
        self.silent = []
        self.sent: set[str] = set()
        self.late = late
        self._send = send
        self._message = message
        self._need = need
        self._left = 0
        self._spares: list[str] = []
        self._until_s = env.now() + deadline_s
        self._hedge: Cancellable | None = None

    def start(self, targets: Sequence[str], spares: Sequence[str] = ()) -> asyncio.Future[bool]:
        """Ask all targets; keep the spares. Returns the future."""
        self._spares = list(spares)
        self._left += len(targets)
        if self._spares:
            self._hedge = self.env.call_later(HEDGE_S, self._hedge_now)
        for member in targets:
            self._ask(member)
        if not targets and not self.future.done():
            self._settle()
        return self.future

    def _ask(self, member: str) -> None:
        self.sent.add(member)
        left_s = max(0.01, self._until_s - self.env.now())
        self._send(member, self._message, left_s, lambda reply: self._got(member, reply))

    def _got(self, member: str, reply: Any) -> None:
        self._left -= 1
        self.sent.discard(member)
        if isinstance(reply, AtollError):
            self.silent.append((member, reply))
        elif reply[0] == OK:
            self.oks.append((member, reply))
            if self._enough():
                self._finish(True)
            return
        else:
            self.refusals.append((member, reply))
        if not self.future.done():
            if self._spares:
                self._ask_spare()
            else:
                self._settle()

    def _ask_spare(self) -> None:
        self._left += 1
        self._ask(self._spares.pop(0))

    def _hedge_now(self) -> None:
        self._hedge = None
        if self.late is not None:
            for member in self.sent:
                self.late(member)
        while self._spares and not self.future.done():
            self._ask_spare()

    def _settle(self) -> None:
        if self._hopeless():
            self._finish(False)

    def _enough(self) -> bool:
        return len(self.oks) >= self._need

    def _hopeless(self) -> bool:
        return len(self.oks) + self._left < self._need

    def _finish(self, result: bool) -> None:
        if not self.future.done():
            self.future.set_result(result)
        if self._hedge is not None:
            self._hedge.cancel()
            self._hedge = None


class _Joint(Round):
    """A round that needs a majority of each of two sets of owners."""

    def __init__(
        self, env: Env, send: Send, message: tuple[Any, ...], owners: Owners, deadline_s: float,
        late: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(env, send, message, 0, deadline_s, late)
        self._owners = owners

    def _enough(self) -> bool:
        return self._owners.majority({member for member, _ in self.oks})

    def _hopeless(self) -> bool:
        failed = {member for member, _ in (*self.refusals, *self.silent)}
        return not self._owners.majority(set(self._owners.everyone) - failed)


class JointRound(_Joint):
    """One message to all owners of both sets."""


def ask_majority(
    env: Env, send: Send, message: tuple[Any, ...], owners: Owners, order: Sequence[str], deadline_s: float,
    late: Callable[[str], None] | None = None,
) -> Round:  # fmt: skip
    """A round, started, that ends when a majority of the owners (of each set) said OK. `order`: whom to ask first."""
    if owners.joint:
        joint = JointRound(env, send, message, owners, deadline_s, late)
        joint.start(order)
        return joint
    one = Round(env, send, message, owners.need, deadline_s, late)
    one.start(order[: owners.need], order[owners.need :])
    return one


async def agreed_by_most(
    env: Env, send: Send, owners: Owners, message: tuple[Any, ...], deadline_s: float
) -> Any | None:
    """Every owner's answer to a READ is waited for: one of those that a majority (of each set) gave under one ballot."""
    everyone = Poll(env, send, message, owners.everyone, deadline_s)
    await everyone.run()
    return _one_ballot(everyone, owners)


async def agreed_by_both(
    env: Env, send: Send, owners: Owners, message: tuple[Any, ...], deadline_s: float
) -> Any | None:
    """Of the first majorities of both sets that answer a READ: an answer, if these gave the same ballot; else None."""
    one = ask_majority(env, send, message, owners, owners.everyone, deadline_s)
    return _one_ballot(one, owners) if await one.future else None


def _one_ballot(one: Round, owners: Owners) -> Any | None:
    """An answer to a READ that a majority (of each set) gave under one ballot."""
    for _, reply in one.oks:
        if owners.majority({member for member, other in one.oks if other[1] == reply[1]}):
            return reply
    return None


class AcceptRound(Round):
    """Accepts at all owners. While all who refused it have no room for it, on the disk or in the queue, it waits for the
    rest: when everybody has said so, it is certain that nobody holds the value, which two of three cannot know of the
    third.

    `missed(member, row key, ballot)` is told of each owner that did not take what a majority took, also after the end;
    not of one at which a higher ballot stands: whoever proposes under it brings the value along.
    """

    def __init__(
        self, env: Env, send: Send, message: tuple[Any, ...], need: int, deadline_s: float,
        late: Callable[[str], None] | None = None, missed: Callable[[str, bytes, bytes], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(env, send, message, need, deadline_s, late)
        self._missed = missed
        self._told: set[str] | None = None

    def _got(self, member: str, reply: Any) -> None:
        super()._got(member, reply)
        self._settle()
        if (self.silent or self.refusals) and self._missed is not None and self._enough():
            self._tell(self._missed)

    def _tell(self, missed: Callable[[str, bytes, bytes], None]) -> None:
        self._told = self._told or set()
        lacking = [member for member, _ in self.silent]
        lacking += [member for member, reply in self.refusals if reply[0] != CONFLICT]
        for member in lacking:
            if member not in self._told:
                self._told.add(member)
                missed(member, self._message[2], self._message[3])

    def _settle(self) -> None:
        no_room = self.refusals and all(reply[0] in NO_ROOM for _, reply in self.refusals)
        if self._left and no_room and not self.oks and not self.silent:
            return
        super()._settle()

    def shut_out(self) -> bool:
        """Every owner refused for want of room, and none can take it later, not even after a restart (A5)."""
        asked = len(self.oks) + len(self.silent) + len(self.refusals) + self._left
        return asked == sum(1 for _, reply in self.refusals if reply[0] in NO_ROOM and reply[1])


class JointAcceptRound(_Joint, AcceptRound):
    """Accepts at all owners of both sets."""

    def __init__(
        self, env: Env, send: Send, message: tuple[Any, ...], owners: Owners, deadline_s: float,
        late: Callable[[str], None] | None = None, missed: Callable[[str, bytes, bytes], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(env, send, message, owners, deadline_s, late)
        self._missed = missed


def accept_round(
    env: Env, send: Send, message: tuple[Any, ...], owners: Owners, deadline_s: float,
    late: Callable[[str], None] | None = None, missed: Callable[[str, bytes, bytes], None] | None = None,
) -> AcceptRound:  # fmt: skip
    """Accepts at all owners, to be started."""
    if owners.joint:
        return JointAcceptRound(env, send, message, owners, deadline_s, late, missed)
    return AcceptRound(env, send, message, owners.need, deadline_s, late, missed)


class Poll(Round):
    """Asks everybody and waits for each answer, whatever the others say; `oks` is what counts then."""

    def __init__(
        self, env: Env, send: Send, message: tuple[Any, ...], members: Sequence[str], deadline_s: float
    ) -> None:
        super().__init__(env, send, message, max(1, len(members)), deadline_s)
        self._members = members

    def run(self) -> asyncio.Future[bool]:
        """True when all of them said OK; False when all have answered or were given up."""
        return self.start(self._members)

    def _got(self, member: str, reply: Any) -> None:
        super()._got(member, reply)
        self._settle()

    def _settle(self) -> None:
        if self._left == 0:
            self._finish(len(self.oks) == len(self._members))


class ReadRound(Answers):
    """Asks one owner for a value and others for their ballots, until a majority agrees or somebody differs.

    `await start(...)` gives True when `need` owners, the value's giver among them, hold one ballot. Otherwise
    `disagree` tells a difference from a lack of answers. After a failure or a hedge everybody is asked for the value. Who
    abstains, perhaps only because its inline bytes are damaged, is asked for its ballot still: the value is another's.
    """

    def __init__(
        self, env: Env, send: Send, value: tuple[Any, ...], ballot: tuple[Any, ...], need: int, deadline_s: float,
        late: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.future: asyncio.Future[bool] = env.future()
        self.refusals = []
        self.silent = []
        self.value: Any = None
        self.disagree = False
        self._env = env
        self._send = send
        self._messages = (value, ballot)
        self._need = need
        self._until_s = env.now() + deadline_s
        self._ballots: dict[str, bytes] = {}
        self._outstanding: set[str] = set()
        self._left = 0
        self._spares: list[str] = []
        self._late = late
        self._hedge: Cancellable | None = None

    def start(self, order: Sequence[str]) -> asyncio.Future[bool]:
        """`order`: all owners, the ones to ask first in front."""
        self._spares = list(order[self._need :])
        self._hedge = self._env.call_later(HEDGE_S, self._hedge_now)
        first = order[: self._need]
        self._left = len(first)
        for member in first[1:]:
            self._ask(member, 1)
        self._ask(first[0], 0)
        return self.future

    def _ask(self, member: str, kind: int) -> None:
        self._outstanding.add(member)
        left_s = max(0.01, self._until_s - self._env.now())
        self._send(member, self._messages[kind], left_s, lambda reply: self._got(member, kind, reply))

    def _got(self, member: str, kind: int, reply: Any) -> None:
        self._left -= 1
        self._outstanding.discard(member)
        if self.future.done():
            return
        if isinstance(reply, AtollError):
            self.silent.append((member, reply))
        elif reply[0] != OK:
            self.refusals.append((member, reply))
            if kind == 0 and reply[0] == ABSTAIN:
                self._left += 1
                self._ask(member, 1)
        else:
            self._ballots[member] = reply[1]
            if kind == 0 and self.value is None:
                self.value = reply
            return self._judge()
        self._replace()

    def _judge(self) -> None:
        ballots = self._ballots.values()
        first = next(iter(ballots))
        if any(ballot != first for ballot in ballots):
            self.disagree = True
            self._finish(False)
        elif len(ballots) >= self._need and self.value is not None:
            self._finish(True)
        elif len(ballots) >= self._need or self._left == 0:
            self._replace()

    def _replace(self) -> None:
        """Somebody failed: ask a spare, or, lacking only the value, those whose ballots we have."""
        if self._spares:
            self._left += 1
            self._ask(self._spares.pop(0), 0)
            return
        failed = {member for member, _ in (*self.silent, *self.refusals)}
        for member in [m for m in self._ballots if m not in failed | self._outstanding]:
            if self.value is None and len(self._ballots) >= self._need and not self.future.done():
                self._left += 1
                self._ask(member, 0)
        if self._left == 0 and not self.future.done():
            self._finish(False)

    def _hedge_now(self) -> None:
        self._hedge = None
        if self._late is not None:
            for member in self._outstanding:
                self._late(member)
        while self._spares and not self.future.done():
            self._left += 1
            self._ask(self._spares.pop(0), 0)

    def _finish(self, result: bool) -> None:
        if not self.future.done():
            self.future.set_result(result)
        if self._hedge is not None:
            self._hedge.cancel()
            self._hedge = None


def _words(reply: Any) -> str:
    if reply[0] == FAILED:
        return str(reply[2])
    if reply[0] == ABSTAIN:
        return f"it abstains ({reply[1]})"
    return WORDS.get(reply[0], f"status {reply[0]}")
