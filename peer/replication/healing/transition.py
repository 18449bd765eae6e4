"""The worker that carries a joint epoch to its end: it merges what this peer is to own, and has final proposed (J2).

Any voter may propose final; they take turns, the first living one at once, each further one five seconds later, so that
mostly one does. Without a majority of them nothing is decided anyway. Everything can be repeated: progress is durable by
partition (`progress`), and two proposals of final are one and the same.

When the ring is final, what this peer holds of registers it no longer owns is taken out, in small steps. A member that is
leaving is removed once every other one has fetched the chunks it had; should it die, once they have all from the living.
A change that needs more than one step goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any

from peer.errors import AtollError, Unavailable
from peer.replication.agreement.epochs import tag_of
from peer.replication.agreement.progress import CLEAN
from peer.replication.agreement.progress import MERGED as IS_MERGED
from peer.replication.copying.sync import PARTITIONS_MOST, CopyFailed
from peer.replication.env import Env, Reply, RowStore, Write
from peer.replication.keys import ranges_of
from peer.replication.messages import FLOORS, MERGED, OK
from peer.replication.node import Replica
from peer.replication.quorum import Poll
from peer.replication.throttle import Throttle
from peer.replication.workers import Worker
from ring.changes import ChangeRefused, completed, differing, rebalanced, removed
from ring.epoch import Epoch
from ring.members import LEAVING

from .merging import Merging

BATCH = 64  # partitions compared at once
AT_ONCE = 4  # partitions merged at once
SLICE_ROWS = 500
ASK_S = 2.0
TURN_S = 5.0
RETRY_S = 0.3
SHUN_S = 30.0
IDLE_S = 5.0


class Transition(Worker):
    """One peer's part in changes of the ring. `alive(member)` says whom it makes sense to ask."""

    name = "transition"

    def __init__(
        self, env: Env, rows: RowStore, replica: Replica, alive: Callable[[str], bool], throttle: Throttle,
        unsafe: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        super().__init__(env)
        self._rows = rows
        self._replica = replica
        self._alive = alive
        self._side = replica.register_side
        self._throttle = throttle
        self._merging = Merging(
            env,
            replica.me,
            replica.copies,
            self._side,
            replica.acceptor,
            replica.send,
            self._may_take,
            throttle.spend,
            unsafe,
        )
        self._tag = -1
        self._voters: tuple[str, ...] = ()
        self._todo: deque[int] = deque()
        self._others: list[str] = []  # new owners of changing partitions besides this peer
        self._unfinished: set[str] = set()  # of the others, when last asked
        self._since_s = env.now()
        self._shunned: dict[str, float] = {}  # old owners that failed, and until when to ask others first
        self._unbalanced = False
        self.fetching: Callable[[Collection[str]], int] = lambda gone: 0
        self._left_over: int | None = 0  # where the search for rows of partitions not owned goes on
        self._unmerged = "final_before_merged" in unsafe
        self._one_source = "merge_one_source" in unsafe
        self._keep_former = "keep_former_rows" in unsafe
        self.detail = {"partitions": 0, "merged": 0, "settled": 0, "discarded": 0, "others": 0}
        replica.serve(MERGED, self._on_merged)
        replica.serve(FLOORS, self._on_floors)

    # --- Worker

    def queue(self) -> int:
        return len(self._todo) if self._began() else 0

    @property
    def pending(self) -> list[int]:
        """The partitions this peer has still to merge under the present epoch."""
        if self._began():
            return list(self._todo)
        epoch = self._replica.epochs.current
        if epoch is None or epoch.previous is None:
            return []
        mine = (
            p for p in differing(epoch.previous, epoch.table) if self._replica.me in epoch.table.owners(p)
        )
        return [p for p in mine if self._replica.progress.state(p) < IS_MERGED]

    @property
    def merged(self) -> bool:
        """Whether this peer has merged all it must under the present epoch."""
        return self._began() and not self._todo

    def oldest_s(self) -> float | None:
        return self.env.now() - self._since_s if self.queue() else None

    async def step(self) -> bool:
        epoch = self._replica.epochs.current
        if epoch is None:
            return False
        if not self._began():
            self._begin(epoch)
        done = epoch.kind == "final" or not (self._todo or self._replica.me in self._voters)
        self.every_s = IDLE_S if done else RETRY_S
        if epoch.kind == "final":
            if not self._keep_former and await self._discard_leftovers():
                return True
            await self._go_on(epoch)
            return False
        if await self._clean():
            return True
        if self._todo and not self._unmerged:
            return await self._merge(epoch)
        await self._finish(epoch)
        return False

    def _began(self) -> bool:
        return self._tag == self._replica.tag

    def _begin(self, epoch: Epoch) -> None:
        self._tag = tag_of(epoch)
        self._voters = epoch.voters()
        self._since_s = self.env.now()
        if epoch.kind == "joint":
            self._unbalanced = True  # one step may not have been enough
        self._left_over = 0
        self._shunned.clear()
        changing = differing(epoch.previous, epoch.table) if epoch.previous is not None else ()
        mine = [p for p in changing if self._replica.me in epoch.table.owners(p)]
        self._others = sorted({o for p in changing for o in epoch.table.owners(p)} - {self._replica.me})
        self._todo = deque(p for p in mine if self._replica.progress.state(p) < IS_MERGED)
        self.detail |= {"partitions": len(mine), "merged": len(mine) - len(self._todo), "others": 0}

    def _here(self, tag: int) -> bool:
        return self._replica.tag == tag == self._tag

    def _may_take(self, tag: int) -> bool:
        return self._replica.tag == tag and not self._replica.epochs.fenced

    # --- before the merge (G1)

    async def _clean(self) -> bool:
        """Forget former times of some partitions. Whether there was anything to do."""
        unclean = [partition for partition in self._todo if self._replica.unclean(partition)]
        if not unclean:
            return False
        tag, done = self._tag, []
        for partition in unclean[: 4 * BATCH]:
            if not self._keep_former and await self._discard(partition):
                break  # enough for one step; it is not empty yet
            done.append(partition)
        await self._advance(tag, done, CLEAN, self._replica.acceptor.floors.forgetting(done))
        return True

    async def _discard(self, partition: int) -> bool:
        """Take out a slice of what is held of a partition. Whether there was anything."""
        for start, end in ranges_of(partition):
            rows = self._rows.scan("rows", start, end, SLICE_ROWS)
            if rows:
                future = self.env.future()
                self._replica.acceptor.discard([key for key, _ in rows], future.set_result)
                if error := await future:
                    raise error
                self._side.digests.drop(partition)
                self.detail["discarded"] += len(rows)
                return True
        self._side.digests.drop(partition)
        return False

    async def _advance(
        self, tag: int, partitions: list[int], state: int, besides: Sequence[Write] = ()
    ) -> None:
        """Make progress durable, with what goes with it, then known (G2)."""
        progress = self._replica.progress
        future = self.env.future()
        self._rows.commit([*besides, *progress.writes(tag, partitions, state)], future.set_result)
        if error := await future:
            raise error
        if self._replica.tag == tag:
            progress.note(tag, partitions, state)
            if state == CLEAN:
                self._replica.cleaned(partitions)

    # --- the merge

    async def _merge(self, epoch: Epoch) -> bool:
        """Merge the next partitions. False: none could be, rest a while."""
        assert epoch.previous is not None
        tag = self._tag
        first = self._sources(epoch, self._todo[0])
        batch = [p for p in islice(self._todo, 8 * BATCH) if self._sources(epoch, p) == first][:BATCH]
        try:
            if not first:
                raise Unavailable("no majority of the old owners of a partition is alive")
            differ = await self._merging.differing(tag, first, batch)
            same = sorted(set(batch).difference(differ))
            await self._merged(tag, first, same)
            if differ:
                await self._merge_some(tag, first, differ[: self._throttle.lanes(AT_ONCE)])
        except AtollError as error:
            self.last_error = str(error)
            self._todo.rotate(-1)
            if isinstance(error, CopyFailed):
                self._shunned[error.member] = self.env.now() + SHUN_S
            return False
        self.last_error = ""
        return True

    async def _merge_some(self, tag: int, sources: tuple[str, ...], partitions: list[int]) -> None:
        """Each in a task of its own; those that succeed count, then the first error is raised."""
        tasks = {p: self.env.spawn(self._merging.merge(tag, sources, p), "merge") for p in partitions}
        failed: AtollError | None = None
        for partition, task in tasks.items():
            try:
                pulled = await task
                self.detail["settled"] += pulled.settled
                self.bytes += pulled.bytes
                await self._merged(tag, sources, [partition])
            except AtollError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    async def _merged(self, tag: int, sources: tuple[str, ...], partitions: list[int]) -> None:
        """Their rows are here: take the floors over, and make it known."""
        if not partitions or not self._here(tag):
            return
        floors = await self._merging.floors(tag, sources, partitions)
        if not self._here(tag):
            return
        await self._advance(tag, partitions, IS_MERGED, floors)
        if self._tag == tag:
            done = set(partitions)
            self._todo = deque(partition for partition in self._todo if partition not in done)
            self.detail["merged"] += len(done)
            self.did(len(done))

    def _sources(self, epoch: Epoch, partition: int) -> tuple[str, ...]:
        """A majority of the old owners, this peer first if it is one (M3), then living ones in turn; () if there is none."""
        assert epoch.previous is not None
        old = epoch.previous.owners(partition)
        need = len(old) // 2 + 1
        me = self._replica.me
        living = sorted(owner for owner in old if owner != me and self._alive(owner))
        turn = partition % len(living) if living else 0
        turned = [*living[turn:], *living[:turn]]
        turned.sort(key=lambda owner: self.env.now() < self._shunned.get(owner, 0.0))
        order = [*([me] if me in old else []), *turned]
        if self._one_source:
            need = 1
        return tuple(order[:need]) if len(order) >= need else ()

    # --- the end

    def _on_merged(self, message: Any, reply: Reply) -> None:
        """(MERGED, tag, gone) -> OK, partitions that this peer has still to merge under that epoch; or, if it is final, the
        chunks of which it has still to fetch from their former owners, but for those that are `gone`."""
        if not self._began():
            self._begin(self._replica.epoch)
        reply((OK, self.fetching(message[2]) if self._replica.epoch.kind == "final" else len(self._todo)))

    def _on_floors(self, message: Any, reply: Reply) -> None:
        """(FLOORS, tag, [partition]) -> OK, [[promised ballot, purge floor]]."""
        floors = self._replica.acceptor.floors
        reply((OK, [floors.known(partition) for partition in message[2][:PARTITIONS_MOST]]))

    async def _finish(self, epoch: Epoch) -> None:
        """Everything is merged here: ask the others, when it is this peer's turn, and have final decided."""
        replica, tag = self._replica, self._tag
        if not self._my_turn():
            return
        left = await self._left(self._others)
        self.detail["others"] = left
        if (left or replica.tag != tag) and not self._unmerged:
            return
        try:
            await replica.proposals.propose(lambda base: completed(base) if tag_of(base) == tag else base)
        except AtollError as error:
            self.last_error = str(error)

    def _my_turn(self) -> bool:
        me = self._replica.me
        if me not in self._voters:
            return False
        living = [voter for voter in self._voters if voter == me or self._alive(voter)]
        return self.env.now() - self._since_s >= TURN_S * living.index(me)

    async def _go_on(self, epoch: Epoch) -> None:
        """Remove who is leaving and holds nothing that is needed, or has died; take the next step towards balance."""
        leaving = [member.id for member in epoch.members if member.state == LEAVING]
        if not self._my_turn() or not (leaving or self._unbalanced):
            return
        gone = [member for member in leaving if not self._alive(member)]
        if 2 * len(gone) >= epoch.table.width:
            gone = []  # what was acknowledged may lie with nobody else
        others = [member.id for member in epoch.members if member.id != self._replica.me]
        if self.fetching(gone) or await self._left(others, gone):
            return
        tag = tag_of(epoch)

        def change(base: Epoch) -> Epoch:
            if tag_of(base) != tag:
                return base
            return removed(base, (gone or leaving)[0]) if leaving else rebalanced(base)

        try:
            stands = await self._replica.proposals.propose(change)
            self._unbalanced = self._unbalanced and stands is not epoch
        except (AtollError, ChangeRefused) as error:
            self.last_error = str(error)

    async def _left(self, others: list[str], gone: Collection[str] = ()) -> int:
        """How many partitions other peers have still to merge, or fetch; 1 for each that does not tell. Those that had some
        when last asked are asked alone until they have none: in a large ring most have done their part long before the last.
        Of those that are `gone` nothing is expected, but should one of them answer it lives, and counts.
        """
        some = [member for member in others if member in self._unfinished]
        left = await self._ask_left(some, gone) if some else 0
        return left or await self._ask_left(others, gone)

    async def _ask_left(self, members: list[str], gone: Collection[str]) -> int:
        poll = Poll(self.env, self._replica.send, (MERGED, self._tag, list(gone)), members, ASK_S)
        await poll.run()
        told = {member: int(reply[1]) + (member in gone) for member, reply in poll.oks}
        left = {member: told.get(member, int(member not in gone)) for member in members}
        self._unfinished = {member for member in members if left[member]}
        return sum(left.values())

    async def _discard_leftovers(self) -> bool:
        """Take out a slice of registers this peer does not own any more. Whether to go on."""
        if self._left_over is None:
            return False
        epoch = self._replica.epoch
        first, end = self._left_over, 1 << epoch.partition_power
        for partition in range(first, min(end, first + 8 * BATCH)):
            if self._replica.me not in epoch.table.owners(partition) and await self._discard(partition):
                self._left_over = partition
                return True
        self._left_over = first + 8 * BATCH if first + 8 * BATCH < end else None
        return self._left_over is not None
