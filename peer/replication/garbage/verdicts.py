"""Verdicts on attempts: does a head name it, may one still come to, or is what it stored garbage (architecture §7)?

An attempt is **dead** when no head names it and none ever will. That is known in two ways:

V1  First hand: the coordinator of a change knows which payload its accept, the one that was chosen, took the place of. The
    attempt named there is dead. Its own coordinator cannot bring it back: each later value of that register remembers its
    operation, or is so far on that the outcome must be called unknown (`register`, R3).
V2  By judgement: its coordinator says that it is over, and an identity change of the head's register, begun after that,
    finds another attempt or none (T3 of `attempts`). A plain read would not do: an accept under way can still be chosen.

Everything else keeps the data: an owner that cannot be reached, a gate that is moving, a head of an unknown format.
"Named" may be believed from any one owner, for keeping too much harms nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from peer.errors import AtollError, Corrupt
from peer.replication.env import Env, Reply, Ring
from peer.replication.keys import OBJECT, gate_key_of, partition_in
from peer.replication.messages import ATTEMPTS, NAMED, NO_GATE, OK
from peer.replication.quorum import Round, Send
from peer.replication.registers.gates import gate_passed
from peer.replication.registers.register import Registers
from peer.replication.value import Accepted, payload_of

from .attempts import ASKED_MOST, OVER, Attempts, coordinator_of

ASK_S = 3.0
PAIRS_MOST = 512
AT_ONCE = 16
DEAD_KEPT = 16_384

Pair = tuple[bytes, bytes]
"""(row key of the head a reference points back to, attempt)."""


class Preferring(Ring, Protocol):
    def prefer(self, owners: Iterable[str]) -> list[str]: ...


class Verdicts:
    """What one peer knows, and finds out, about attempts. `attempt_in` reads the attempt out of a head's payload."""

    def __init__(
        self, env: Env, ring: Preferring, registers: Registers, send: Send, attempts: Attempts,
        stored: Callable[[bytes], tuple[Accepted, bytes | None]], attempt_in: Callable[[bytes], bytes],
        unsafe: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self._env = env
        self._ring = ring
        self._registers = registers
        self._send = send
        self._attempts = attempts
        self._stored = stored
        self._attempt_in = attempt_in
        self._dead: dict[bytes, None] = {}
        self.silent: tuple[str, ...] = ()
        """Names of the coordinators that could not be asked in the last judgement: what they left has to wait."""
        self._never_ask = "attempt_not_asked" in unsafe
        self._plain_read = "attempt_only_read" in unsafe
        self.counts = {"named": 0, "open": 0, "dead": 0, "undecided": 0}

    def learn(self, attempt: bytes) -> None:
        """This attempt is dead; that never changes. The latest are kept."""
        self._dead[attempt] = None
        if len(self._dead) > DEAD_KEPT:
            del self._dead[next(iter(self._dead))]

    def is_dead(self, attempt: bytes) -> bool:
        """Known to be; False proves nothing."""
        return attempt in self._dead

    # --- what owners of heads answer

    def on_named(self, message: Any, reply: Reply) -> None:
        """(NAMED, tag, [[head's row key, attempt]]) -> OK, [whether the head this owner holds names it]."""
        reply((OK, [self._names(back, attempt) for back, attempt in message[2][:PAIRS_MOST]]))

    def _names(self, back: bytes, attempt: bytes) -> bool:
        try:
            return self._named_in(payload_of(self._stored(back)[0].value), attempt)
        except Corrupt:
            return False

    def _named_in(self, payload: bytes | None, attempt: bytes) -> bool:
        if payload is None:
            return False
        try:
            return self._attempt_in(payload) == attempt
        except Corrupt:
            return True  # of a newer format, perhaps: what it names cannot be told

    # --- what holders of chunks ask

    async def named(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """For each, whether the head names it by what one owner holds; None: nobody could be asked."""
        found: dict[Pair, bool | None] = dict.fromkeys(pairs)
        batches: dict[str, list[Pair]] = {}
        for pair in found:
            order = self._ring.prefer(self._ring.epoch.table.owners(partition_in(pair[0])))
            batches.setdefault(order[0], []).append(pair)
        for member, batch in batches.items():
            for at in range(0, len(batch), PAIRS_MOST):
                some = batch[at : at + PAIRS_MOST]
                reply = await self._ask(member, (NAMED, self._ring.tag, some))
                if reply is not None:
                    found.update(zip(some, reply, strict=True))
        return [found[pair] for pair in pairs]

    async def wanted(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """For each, whether the chosen head names it now; None: it cannot be told at the moment."""
        answers = await self.named(pairs)
        doubtful = [at for at, answer in enumerate(answers) if not answer]
        for at in range(0, len(doubtful), AT_ONCE):
            some = doubtful[at : at + AT_ONCE]
            for index, answer in zip(
                some, await self._all(self._read, [pairs[i] for i in some]), strict=True
            ):
                answers[index] = answer
        return answers

    async def judge(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """For each, whether it is dead (V2): True for good, False as long as a head names it or may come to; None: it
        cannot be told at the moment."""
        over = await self._over({attempt for _, attempt in pairs})
        verdicts: dict[Pair, bool | None] = dict.fromkeys(pairs)
        asked: list[Pair] = []
        for pair in verdicts:
            if self.is_dead(pair[1]):
                verdicts[pair] = True
            elif over.get(pair[1]):
                asked.append(pair)
            elif pair[1] in over:
                self.counts["open"] += 1
                verdicts[pair] = False
        for at in range(0, len(asked), AT_ONCE):
            some = asked[at : at + AT_ONCE]
            verdicts.update(zip(some, await self._all(self._sentence, some), strict=True))
        self.counts["undecided"] += sum(1 for verdict in verdicts.values() if verdict is None)
        return [verdicts[pair] for pair in pairs]

    # --- inside

    async def _all(self, find: Callable[[Pair], Any], pairs: Sequence[Pair]) -> list[bool | None]:
        tasks = [self._env.spawn(find(pair), "verdict") for pair in pairs]
        return list(await asyncio.gather(*tasks))

    async def _over(self, attempts: set[bytes]) -> dict[bytes, bool]:
        """Attempt -> whether it is over (T1, T2); those nobody could tell about are left out."""
        if self._never_ask:
            return dict.fromkeys(attempts, True)
        members = {member.id for member in self._ring.epoch.members}
        over: dict[bytes, bool] = {}
        asked: dict[str, list[bytes]] = {}
        for attempt in sorted(attempts):
            coordinator = coordinator_of(attempt)
            if coordinator and coordinator not in members:
                over[attempt] = True
            elif coordinator:
                asked.setdefault(coordinator, []).append(attempt)
        silent = set()
        for coordinator, batch in asked.items():
            for at in range(0, len(batch), ASKED_MOST):
                some = batch[at : at + ASKED_MOST]
                states = await self._ask(coordinator, (ATTEMPTS, self._ring.tag, some))
                if states is None:
                    silent.add(coordinator)
                for attempt, state in zip(some, states or (), strict=states is not None):
                    if state:
                        over[attempt] = state == OVER
        known = {member.id: member.name for member in self._ring.epoch.members}
        self.silent = tuple(sorted(known.get(one, "") or one for one in silent))
        return over

    async def _sentence(self, pair: Pair) -> bool | None:
        """The identity change of V2."""
        back, attempt = pair
        try:
            gate = await self._gate(back)
            if gate is None:
                return None
            if self._plain_read:
                current = await self._registers.read(back, gate=gate)
            else:
                current = await self._registers.settle(back, gate=gate, above=b"")
        except AtollError:
            return None
        if self._named_in(current.payload, attempt):
            self.counts["named"] += 1
            return False
        self.counts["dead"] += 1
        self.learn(attempt)
        return True

    async def _read(self, pair: Pair) -> bool | None:
        back, attempt = pair
        try:
            gate = await self._gate(back)
            if gate is None:
                return False
            return self._named_in((await self._registers.read(back, gate=gate)).payload, attempt)
        except AtollError:
            return None

    async def _gate(self, back: bytes) -> int | None:
        """The configuration generation under which the head's owners answer, be the bucket open or being deleted. None:
        there is no gate, so no head; its owners were lost together, and an operator said to go on without them."""
        if back[0] < OBJECT:
            return NO_GATE
        gate = await self._registers.read(gate_key_of(back))
        return None if gate.payload is None else gate_passed(gate.payload)

    async def _ask(self, member: str, message: tuple[Any, ...]) -> Any | None:
        """The answer's list; None if it did not come."""
        one = Round(self._env, self._send, message, 1, ASK_S)
        if await one.start([member]) and len(one.oks[0][1][1]) == len(message[2]):
            return one.oks[0][1][1]
        return None
