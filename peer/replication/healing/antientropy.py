"""Anti-entropy: each owner pulls what it lacks from the others, partition by partition, for ever (architecture §8).

A pass goes over all partitions this peer shares with each other owner. One begins at the start, when a peer comes back,
and every PASS_EVERY_S, with those whose last one is over; whoever is or was away is first. Reading, hedging and hints only
shorten what this guarantees: after a fault ends, all owners come to hold the same.

After each change of the ring, chunks of partitions that this peer gained come first: from those that own them with it, and
from their former owners. Registers are left alone while their owners change: `merging` takes them over, and says why not as
here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from peer.errors import AtollError
from peer.replication.copying.registersync import REGISTERS
from peer.replication.copying.sync import Copies, Pulled
from peer.replication.env import Env
from peer.replication.workers import Worker
from ring.changes import differing
from ring.epoch import Epoch

BATCH = 128
GAINED_BATCH = 16
"""Of partitions of which everything may have to be fetched: a step is to be short (W1)."""
SOON_MOST = 1000
PASS_EVERY_S = 60.0
BEAT_S = 1.0
STOOD_STILL_S = 4.0
"""What was sent to a process that stood still for longer was given up by those who sent it (registers.register)."""
RETRY_S, RETRY_MOST_S = 0.5, 30.0


@dataclass(slots=True)
class _Task:
    member: str
    side: int
    partitions: list[int]
    since_s: float
    former: bool = False  # the member does not own them any more
    gained: bool = False  # this peer has not owned them for long: it may hold nothing of them


class AntiEntropy(Worker):
    """One peer's pulls. `alive(member)` says whom it makes sense to ask, `former(partition)` who owned it before
    and does no more."""

    name = "anti-entropy"
    every_s = 1.0

    def __init__(
        self, env: Env, me: str, copies: Copies, epoch: Callable[[], Epoch | None], alive: Callable[[str], bool],
        former: Callable[[int], Sequence[str]] = lambda partition: (),
    ) -> None:  # fmt: skip
        super().__init__(env)
        self._me = me
        self._copies = copies
        self._epoch = epoch
        self._alive = alive
        self._former = former
        self._seen: Epoch | None = None
        self._moving = 0  # partitions whose chunks were to come with the last ring
        self._moves_at_first = 0
        self._tasks: deque[_Task] = deque()
        self._doing: _Task | None = None
        self._soon: dict[tuple[str, int, int], float] = {}  # (member, side, partition) -> since when
        self._began_s = self._beat_s = float("-inf")
        self._asked_not_before_s: dict[str, float] = {}
        self._failures: dict[str, int] = {}  # in a row
        self._compared: dict[str, float] = {}  # when the last comparison that was completed began
        # Members not wholly compared with since they, or we, were away; since when.
        self._unsure: dict[str, float] = {}
        self.detail = {"compared": 0, "differed": 0, "settled": 0, "passes": 0, "fetching": 0}

    # --- what happened

    def returned(self, member: str) -> None:
        """A member can be reached again, or has started anew: compare with it first."""
        if member == self._me:
            return
        self._asked_not_before_s.pop(member, None)
        self._failures.pop(member, None)
        self._tasks = deque(t for t in self._tasks if t.member != member or t.former or t.gained)
        tasks = self._of(member)
        self._tasks.extendleft(reversed(tasks))
        if tasks:
            self._unsure.setdefault(member, self.env.now())
        else:
            self._sure_of(member, self.env.now())
        self.wake()

    def _beat(self) -> None:
        """Notice when this process stood still: it was away, though it saw nobody go, and others may have given it up."""
        now, epoch = self.env.now(), self._epoch()
        if now - self._beat_s > BEAT_S + STOOD_STILL_S and epoch is not None:
            for member in epoch.members:
                self.returned(member.id)
        self._beat_s = now
        self.env.call_later(BEAT_S, self._beat)

    def soon(self, member: str, side: int, partition: int) -> None:
        """Somebody found that this peer lacks something there which `member` has: pull that before anything else. Beyond
        SOON_MOST it is left to the passes."""
        if len(self._soon) < SOON_MOST and member != self._me:
            self._soon.setdefault((member, side, partition), self.env.now())
            self.wake()

    def try_again(self) -> None:
        """What failed may go well now: ask at once whom it was to ask later."""
        self._failures.clear()
        self._asked_not_before_s.clear()

    @property
    def behind(self) -> bool:
        """Whether this peer may lack what was written while it was away: it has not compared with most of the others
        since, or has not begun to. (One that stayed with a majority lacks nothing, whoever comes back to it.)"""
        epoch = self._epoch()
        others = {member.id for member in epoch.members} - {self._me} if epoch is not None else set()
        if not self.detail["passes"]:
            return bool(others) and epoch is not None and epoch.table.partitions_of(self._me) > 0
        return 2 * len(others & self._unsure.keys()) > len(others)

    @property
    def compared_s(self) -> float | None:
        """Seconds since the beginning of the last comparison with everybody who is alive; None before the first."""
        epoch = self._epoch()
        if epoch is None:
            return None
        others = [m.id for m in epoch.members if m.id != self._me and self._alive(m.id)]
        began = [self._compared.get(member) for member in others]
        known = [at_s for at_s in began if at_s is not None]
        return self.env.now() - min(known, default=self.env.now()) if len(known) == len(others) else None

    # --- Worker

    def start(self) -> None:
        """Begin a pass now, unless one is under way."""
        self._began_s = float("-inf")
        self.wake()

    def queue(self) -> int:
        return sum(len(task.partitions) for task in self._tasks) + len(self._soon)

    def oldest_s(self) -> float | None:
        since = [*(task.since_s for task in self._tasks), *self._soon.values()]
        return self.env.now() - min(since) if since else None

    def due_s(self) -> float:
        return self.env.now() if self._tasks else self._began_s + PASS_EVERY_S

    async def step(self) -> bool:
        epoch = self._epoch()
        if epoch is None:
            return False
        now = self.env.now()
        if self._beat_s == float("-inf"):
            self._beat_s = now
            self._beat()
        if epoch is not self._seen:
            self._changed(epoch)
        if self._soon:
            await self._pull_soon()
            return True
        if now - self._began_s >= PASS_EVERY_S:
            self._begin(epoch)
        task = self._next(now)
        if task is None:
            return False
        self._doing = task
        try:
            await self._compare(task, epoch)
        finally:
            self._doing = None
            self.detail["fetching"] = self.fetching
        return True

    async def _compare(self, task: _Task, epoch: Epoch) -> None:
        """Do a task; again later if it fails, or if something was found missing that was to be here."""
        try:
            pulled = await self._copies.pull(task.side, task.member, task.partitions)
        except AtollError as error:
            self.last_error = str(error)
            failed = self._failures.get(task.member, 0)
            self._failures[task.member] = failed + 1
            self._again(task, epoch, min(RETRY_MOST_S, RETRY_S * 2 ** min(failed, 9)))
            return
        self.last_error = ""
        self._failures.pop(task.member, None)
        self._count(pulled)
        if (task.former or task.gained) and pulled.missing:  # nobody may be let go before all of it is here
            self._again(task, epoch, RETRY_S)
        if not task.former and not any(t.member == task.member and not t.former for t in self._tasks):
            self._sure_of(task.member, task.since_s)

    def _again(self, task: _Task, epoch: Epoch, after_s: float) -> None:
        """Put a task off, unless the ring is another one by now; nothing is asked of its member meanwhile."""
        if self._epoch() is epoch:
            self._tasks.append(task)
        self._asked_not_before_s[task.member] = self.env.now() + after_s

    def _sure_of(self, member: str, began_s: float) -> None:
        """All that is shared with a member, which may be nothing, was compared since `began_s`."""
        self._unsure.pop(member, None)
        self._compared[member] = began_s

    def _changed(self, epoch: Epoch) -> None:
        """Another ring: other partitions, and chunks to fetch from those who had them."""
        before = self._seen
        self._seen = epoch
        self.try_again()  # what failed was the change itself: who was asked knew of it already, or did not yet
        still = {(task.member, p) for task in self._tasks if task.gained for p in task.partitions}
        self._tasks.clear()
        members = {member.id for member in epoch.everybody}
        self._unsure = {member: since_s for member, since_s in self._unsure.items() if member in members}
        self._began_s = float("-inf")
        now = self.env.now()
        gained: dict[str, list[int]] = {}
        wanted: dict[str, list[int]] = {}
        for partition in range(1 << epoch.partition_power):
            owners = epoch.table.owners(partition)
            if self._me not in owners:
                continue
            for member in self._former(partition):
                wanted.setdefault(member, []).append(partition)
            old = self._old(epoch, partition) or (before.table.owners(partition) if before else owners)
            for member in owners:
                if member != self._me and (self._me not in old or (member, partition) in still):
                    gained.setdefault(member, []).append(partition)
        self._tasks.extend(self._of_chunks(gained, _Task("", 0, [], now, gained=True)))
        self._tasks.extend(self._of_chunks(wanted, _Task("", 0, [], now, former=True)))
        self._moving = len({p for some in (*gained.values(), *wanted.values()) for p in some})
        self._moves_at_first = self._moves()
        self.detail["fetching"] = self.fetching

    def _of_chunks(self, wanted: dict[str, list[int]], like: _Task) -> list[_Task]:
        """Tasks for these members' partitions, of all but registers; a batch of each member in turn, so that no member has
        to send everything at once."""
        tasks: list[tuple[int, _Task]] = []
        for member in sorted(wanted):
            some = wanted[member]
            for side in self._copies.numbers:
                if side != REGISTERS:
                    tasks += [
                        (at, replace(like, member=member, side=side, partitions=some[at : at + GAINED_BATCH]))
                        for at in range(0, len(some), GAINED_BATCH)
                    ]
        return [task for _, task in sorted(tasks, key=lambda one: one[0])]

    @staticmethod
    def _old(epoch: Epoch, partition: int) -> Sequence[str]:
        return () if epoch.previous is None else epoch.previous.owners(partition)

    def to_fetch(self, gone: Collection[str]) -> int:
        """Partitions whose chunks were not yet compared with all who owned them before; members that left do not count. Nor
        do those that are `gone`, but then what has just been gained must have been compared with its other owners, or after
        a restart, which forgets what was gained, everything with everybody."""
        epoch = self._epoch()
        if epoch is not self._seen or (gone and self.compared_s is None):
            return 1
        tasks = (task for task in self._left() if task.former or (gone and task.gained))
        return sum(len(task.partitions) for task in tasks if task.member not in gone)

    @property
    def fetching(self) -> int:
        """About how many partitions' chunks are still to come, by the comparisons left with those who have them; 0 only once
        all of them were compared."""
        left = self._moves()
        about = ceil(self._moving * left / self._moves_at_first) if left else 0
        return about if self._epoch() is self._seen else max(1, about)

    @property
    def pending(self) -> set[int]:
        """The partitions of which chunks are still to come, as far as it is known: see `fetching`."""
        found = {p for task in self._left() if task.former or task.gained for p in task.partitions}
        epoch, seen = self._epoch(), self._seen
        if (
            epoch is not None and seen is not None and epoch is not seen
        ):  # nothing was done about this ring yet
            found.update(p for p in differing(seen.table, epoch.table) if self._me in epoch.table.owners(p))
        return found

    def _moves(self) -> int:
        """Comparisons of partitions that are left before all chunks are where they belong."""
        return sum(len(task.partitions) for task in self._left() if task.former or task.gained)

    def _left(self) -> Iterator[_Task]:
        """What is not done yet, and that includes what is being done."""
        yield from self._tasks
        if self._doing is not None:
            yield self._doing

    async def _pull_soon(self) -> None:
        """One partition out of turn; if that fails, its turn comes."""
        member, side, partition = next(iter(self._soon))
        del self._soon[member, side, partition]
        try:
            self._count(await self._copies.pull(side, member, [partition]))
        except AtollError as error:
            self.last_error = str(error)

    def _begin(self, epoch: Epoch) -> None:
        self._began_s = self.env.now()
        first = self.detail["passes"] == 0
        self.detail["passes"] += 1
        waiting = {
            task.member for task in self._tasks if not (task.former or task.gained)
        }  # one that is dead must not keep us from the others
        for member in epoch.members:
            if member.id != self._me and member.id not in waiting:
                tasks = self._of(member.id)
                self._tasks.extend(tasks)
                if not tasks:
                    self._sure_of(member.id, self._began_s)
                elif first:
                    self._unsure.setdefault(member.id, self._began_s)

    def _of(self, member: str) -> list[_Task]:
        """Everything to compare with a member, in batches."""
        epoch = self._epoch()
        if epoch is None:
            return []
        shared = [
            partition
            for partition in range(1 << epoch.partition_power)
            if self._me in (owners := epoch.table.owners(partition)) and member in owners
        ]
        now = self.env.now()
        settled = [
            p
            for p in shared
            if set(self._old(epoch, p) or epoch.table.owners(p)) == set(epoch.table.owners(p))
        ]
        tasks = []
        for side in self._copies.numbers:
            some = settled if side == REGISTERS else shared
            tasks += [_Task(member, side, some[at : at + BATCH], now) for at in range(0, len(some), BATCH)]
        return tasks

    def _next(self, now: float) -> _Task | None:
        """The first task whose member can be asked, of what this peer gained if there is any; the others keep their
        places."""
        found: int | None = None
        for at, task in enumerate(self._tasks):
            if (found is None or task.gained) and self._may_ask(task.member, now):
                found = at
                if task.gained:
                    break
        if found is None:
            return None
        task = self._tasks[found]
        del self._tasks[found]
        return task

    def _may_ask(self, member: str, now: float) -> bool:
        return self._alive(member) and now >= self._asked_not_before_s.get(member, 0.0)

    def _count(self, pulled: Pulled) -> None:
        self.did(pulled.partitions, pulled.bytes)
        self.detail["compared"] += pulled.partitions
        self.detail["differed"] += pulled.rows + pulled.settled
        self.detail["settled"] += pulled.settled
