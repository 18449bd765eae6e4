"""Negative controls of garbage collection: one safeguard taken away, and what shows it; by chance, or by a play written
for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from peer.replication.messages import ACCEPT
from tools.sim import linear
from tools.sim.object_world import ObjectOptions, ObjectWorld, Play, run_object_seed
from tools.sim.result import Result


@dataclass(frozen=True)
class ObjectControl:
    """One safeguard removed; caught within `seeds` seeds or not at all."""

    name: str
    breaks: str
    seeds: int
    play: Play | None = None
    peers: int = 3
    without: dict[str, Any] = field(default_factory=dict)  # options that take it away; else `unsafe` does

    def run(self, seed: int, unsafe: bool) -> Result:
        taken = self.without or {"unsafe": frozenset({self.name})}
        options = ObjectOptions(play=self.play, peers=self.peers)
        return run_object_seed(seed, replace(options, **taken) if unsafe else options)


async def slow_put(world: ObjectWorld) -> None:
    """A client uploads for longer than garbage is looked for and kept."""
    world.stall_s = 2 * world.options.grace_s + 3 * world.options.pass_every_s
    await world.operate("c1", world.cluster.peers[0], linear.PUT, "k0", chunks=5)


async def late_accept(world: ObjectWorld) -> None:
    """A put's accepts are on their way for long, its coordinator dies and comes back: the attempt is over, no head names
    it, and yet one may. Only an identity change shuts them out, or finds them."""
    a, b, c = world.cluster.peers
    network = world.cluster.network
    network.noticed = 0.0
    late_s = 25.0
    rules = {(a.id, b.id, ACCEPT): late_s, (a.id, c.id, ACCEPT): late_s}
    network.rule = lambda *what: rules.get(what)
    a.traits.stall, a.traits.stall_s = 0.0, 0.0
    put = world.loop.create_task(world.operate("c1", a, linear.PUT, "k0", chunks=2))
    while not any(accepted for accepted in _accepts_under_way(world)):  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.0002)
    world.story.fault("crash", a.name, "before its own accept is durable")
    a.crash()
    await asyncio.sleep(0.1)
    rules.clear()
    a.start()
    await put
    await asyncio.sleep(late_s + 2.0)


def _accepts_under_way(world: ObjectWorld) -> list[bool]:
    """Whether the first peer queued its own accept of an object's head."""
    replica = world.cluster.peers[0].replica
    return [] if replica is None else [any(key[0] == 3 for key in replica.acceptor._pending)]


async def put_beside_removal(world: ObjectWorld) -> None:
    """Chunks are let go, and wait for their time; shortly before it puts of equal bytes refer to them."""
    peer = world.cluster.peers[0]
    await world.operate("c1", peer, linear.PUT, "k0", chunks=30)
    await asyncio.sleep(1.0)
    await world.operate("c1", peer, linear.DELETE, "k0")
    await asyncio.sleep(world.options.grace_s - 0.5)
    await asyncio.gather(*(world.operate("c2", peer, linear.PUT, key, chunks=4) for key in world.keys))
    await asyncio.sleep(5.0)


async def deleted_while_away(world: ObjectWorld) -> None:
    """An owner is cut off while objects are deleted, and comes back when the others have long forgotten why."""
    a, _, c = world.cluster.peers
    for key in world.keys:
        await world.operate("c1", a, linear.PUT, key, chunks=1)
    await asyncio.sleep(2.0)
    cut = {(c.id, other.id) for other in world.cluster.peers if other is not c}
    world.cluster.network.cut |= cut | {(other, one) for one, other in cut}
    for key in world.keys:
        await world.operate("c1", a, linear.DELETE, key)
    await asyncio.sleep(4 * world.options.purge_s)
    world.cluster.network.cut.clear()
    for key in world.keys:
        await world.operate("c2", c, linear.GET, key)


OBJECT_CONTROLS = {
    control.name: control
    for control in (
        ObjectControl(
            "attempt_not_asked", "a reference is dropped though its put may be committed", 6, play=slow_put
        ),
        ObjectControl(
            "attempt_only_read", "accepts that are under way are not shut out", 4, play=late_accept
        ),
        ObjectControl(
            "remove_unchecked", "a chunk goes though it was referenced meanwhile", 4, play=put_beside_removal, peers=1
        ),
        ObjectControl(
            "purge_by_most", "tombstones go though an owner that was away still holds what they deleted", 4,
            play=deleted_while_away,
        ),
        ObjectControl(
            "no_grace", "bytes go while somebody reads the object they were of", 4, without={"grace_s": 0.0}
        ),
    )
}  # fmt: skip


def hunt(control: ObjectControl) -> tuple[int, str] | None:
    """The first seed whose judges noticed, and what they said."""
    for seed in range(control.seeds):
        for problem in control.run(seed, unsafe=True).problems:
            if problem.startswith(("P2", "P3", "P5")):
                return seed, problem
    return None
