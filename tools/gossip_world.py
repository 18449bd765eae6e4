"""A cluster of gossip state machines in virtual time: the world that `tools/gossip_sim.py` experiments on.

A seed repeats a run exactly. The network and the machines are those of `tools/gossip_air.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from typing import Final

from gossip.config import Config
from gossip.host import Stats
from gossip.keyring import Keyring
from gossip.members import Member
from gossip.messages import DEAD, SUSPECT
from gossip.record import Record, encode_record
from gossip.swim import Swim
from tools.gossip_air import Air, Node, address_of

CLUSTER: Final = "5e" * 16
KEY: Final = bytes(range(32))


@dataclass(slots=True)
class Sightings:
    """When the crashed member was first suspected, and each survivor's notice of its death, in seconds."""

    suspected: float | None = None
    deaths: dict[int, float] = field(default_factory=dict)


class World(Air):
    """`size` members that know each other from the start.

    `encrypted` seals every datagram as the runtime does; without it only their size is counted.
    """

    def __init__(
        self,
        size: int,
        loss: float,
        seed: int,
        config: Config | None = None,
        *,
        encrypted: bool = False,
        drain_first: bool = True,
    ) -> None:
        super().__init__(loss, random.Random(seed), drain_first=drain_first)
        self.config = config or Config()
        self.victim: int | None = None
        self.sightings = Sightings()
        # (subject, boot, incarnation) of members that were neither crashed nor ever stalled, yet believed
        # dead, or suspected, by anyone.
        self.false_deaths: set[tuple[int, int, int]] = set()
        self.false_suspicions: set[tuple[int, int, int]] = set()
        # The island of each member, while the network is split; nothing passes between two.
        self.islands: list[int] | None = None
        nodes = [self._node(index, seed, encrypted) for index in range(size)]
        records = [encode_record(node.swim.me) for node in nodes]
        for node in nodes:
            node.swim.learn(0.0, records)
            self.place(node)

    def _node(self, index: int, seed: int, encrypted: bool) -> Node:
        host, port = address_of(index)
        me = Record(f"{index:016x}", f"peer-{index}", host, port, 7400, 7401, 1, 0, "0.1.0", 1)
        rng = random.Random(f"{seed}/{index}")
        swim = Swim(me, CLUSTER, self.config, rng, 0.0)
        return Node(index, swim, Keyring([KEY], CLUSTER, rng.randbytes) if encrypted else None)

    # Experiments act through these, and `run` and `stall`.

    def crash(self, index: int) -> None:
        """Member `index` is gone; sightings of its death are noted from now on."""
        self.victim = index
        self.end(self.nodes[index])

    def stats(self) -> Stats:
        """The sum over all members."""
        sums = {}
        for name in (item.name for item in fields(Stats)):
            sums[name] = sum(getattr(node.swim.stats, name) for node in self.nodes.values())
        return Stats(**sums)

    def noted(self, node: Node, member: Member) -> None:
        subject = int(member.id, 16)
        boot, incarnation, state = member.belief
        if subject == self.victim:
            if state == SUSPECT and self.sightings.suspected is None:
                self.sightings.suspected = self.now
            elif state == DEAD:
                self.sightings.deaths.setdefault(node.index, self.now)
        elif state in (SUSPECT, DEAD) and not self.nodes[subject].was_stalled:
            wrong = self.false_deaths if state == DEAD else self.false_suspicions
            wrong.add((subject, boot, incarnation))

    def reaches(self, one: int, other: int) -> bool:
        return self.islands is None or self.islands[one] == self.islands[other]
