"""After the operator's override: merge what every survivor holds before voting in the new generation (architecture §5).

The override names the survivors and gives up the rest. A survivor may own partitions now of which it holds nothing, and a
majority of such owners would answer "absent" for what another survivor has. So:

O1  In a generation that it has not merged a peer answers for no row (N4); it only lets others copy.
O2  It has merged when it has pulled every partition it owns from every other member, each in this epoch. A member that
    cannot be reached holds it up: it is started, or called lost, too, by another override.
O3  What is pulled is applied below promises, too. They were made to coordinators of an older generation, whose accepts no
    member of this one takes (N1); and nobody votes here yet.
"""

from __future__ import annotations

from peer.errors import AtollError
from peer.replication.copying.registersync import REGISTERS, RegisterSide
from peer.replication.env import Env
from peer.replication.node import Replica
from peer.replication.workers import Worker

BATCH = 128


class Recovery(Worker):
    """Merges, then lets the replica vote, then fetches chunks from members that own them no more."""

    name = "recovery"
    every_s = 5.0

    def __init__(self, env: Env, replica: Replica) -> None:
        super().__init__(env)
        self._replica = replica
        self._tag = -1
        self._left: list[tuple[int, str, list[int]]] = []  # (side, member, partitions)
        self._since_s = env.now()
        self.detail = {"merged": 0, "unreadable": 0}

    def queue(self) -> int:
        return sum(len(partitions) for _, _, partitions in self._left)

    def oldest_s(self) -> float | None:
        return self.env.now() - self._since_s if self._left else None

    async def step(self) -> bool:
        replica = self._replica
        if replica.epochs.current is None or not (replica.recovering or self._left):
            return False
        if self._tag != replica.tag:
            self._begin()
        if replica.recovering and not any(side == REGISTERS for side, _, _ in self._left):
            await replica.recovered(replica.epoch.generation)
            self._void(False)
            return True
        side, member, partitions = self._left[0]
        self._void(replica.recovering)
        try:
            pulled = await replica.copies.pull(side, member, partitions)
        except AtollError:
            self._left.append(self._left.pop(0))  # another one may be there
            raise
        self._left.remove((side, member, partitions))
        self.did(len(partitions), pulled.bytes)
        self.detail["merged"] += pulled.rows
        self.detail["unreadable"] += pulled.settled
        return True

    def _begin(self) -> None:
        replica = self._replica
        epoch = replica.epoch
        table = epoch.table
        mine = [p for p in range(1 << epoch.partition_power) if replica.me in table.owners(p)]
        others = [member.id for member in epoch.members if member.id != replica.me]
        self._tag, self._since_s = replica.tag, self.env.now()
        self._left = [
            (side, member, mine[at : at + BATCH])
            for side in replica.copies.numbers  # registers first
            for member in others
            for at in range(0, len(mine), BATCH)
        ]

    def _void(self, void: bool) -> None:
        side = self._replica.copies.side(REGISTERS)
        assert isinstance(side, RegisterSide)
        side.void_promises = void
