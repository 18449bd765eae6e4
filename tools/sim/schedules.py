"""Directed schedules: violations that chance seldom arranges, arranged.

Each is a short play for three peers that breaks a promise if, and only if, one safeguard is missing. A seed
draws who plays whom, the keys and the exact times. `World` runs a schedule in place of clients and nemesis,
then heals, reads everything and judges as always.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from peer.replication.messages import ACCEPT, PREPARE
from tools.sim import linear
from tools.sim.cluster import SimPeer

if TYPE_CHECKING:
    from tools.sim.world import World

LOST = -1.0
Schedule = Callable[["World"], Awaitable[None]]
Rules = dict[tuple[SimPeer, SimPeer, int], float]


def _cast(world: World) -> tuple[SimPeer, SimPeer, SimPeer]:
    a, b, c = world.rng.sample(world.cluster.peers, 3)
    world.story.event("world", f"cast: A is {a.name}, B is {b.name}, C is {c.name}")
    return a, b, c


def _direct(world: World, rules: Rules) -> None:
    """From now on requests of these (from, to, kind) come so many seconds late, or never."""
    table = {(sender.id, target.id, kind): delay_s for (sender, target, kind), delay_s in rules.items()}
    world.cluster.network.rule = lambda sender, target, kind: table.get((sender, target, kind))


def _prefer(world: World, who: SimPeer, over: SimPeer) -> None:
    """`who` asks `over` last: it believes it dead."""
    world.cluster.network.doubted.add((who.id, over.id))


async def forgotten_promise(world: World) -> None:
    """B promises C's ballot and restarts; A's accept of a lower ballot comes to B only then.

    An owner that forgot the promise takes it, and both creators are told that they won.
    """
    a, b, c = _cast(world)
    rng, work, network = world.rng, world.workload, world.cluster.network
    network.noticed = 0.0
    _prefer(world, a, c)
    _prefer(world, c, a)
    late_s = 0.8 + 0.4 * rng.random()
    _direct(world, {
        (a, b, ACCEPT): late_s, (a, c, ACCEPT): LOST, (c, b, ACCEPT): late_s + 0.5, (c, a, PREPARE): LOST,
    })  # fmt: skip
    for key in work.keys[:2]:
        first = _start(world, work.operate("c1", a, linear.PUT_IF_ABSENT, key))
        await asyncio.sleep(0.02 + 0.02 * rng.random())
        second = _start(world, work.operate("c2", c, linear.PUT_IF_ABSENT, key))
        await asyncio.sleep(0.05)
        world.story.fault("crash", b.name, "forgets what it did not write down")
        b.crash()
        await asyncio.sleep(0.02)
        b.start()
        await asyncio.gather(first, second)


async def refused_by_a_ghost(world: World) -> None:
    """A's accept reaches only A. B's creator is refused because of it; then A dies, and there is nothing.

    The refusal was allowed only after the value it judged was chosen.
    """
    a, b, c = _cast(world)
    work = world.workload
    _direct(world, {(a, b, ACCEPT): LOST, (a, c, ACCEPT): LOST})
    for key in work.keys[:2]:
        _prefer(world, b, c)
        ghost = _start(world, work.operate("c1", a, linear.PUT_IF_ABSENT, key, patience_s=1.0))
        await asyncio.sleep(0.03 + 0.03 * world.rng.random())
        await work.operate("c2", b, linear.PUT_IF_ABSENT, key)
        world.story.fault("crash", a.name, "takes what only it knows with it")
        a.crash()
        world.cluster.network.doubted.clear()
        await asyncio.sleep(0.001)  # after the refusal, not beside it
        await work.operate("c3", c, linear.GET, key)
        a.start()
        await ghost
        await _until_serving(a)


async def copy_of_a_disk(world: World) -> None:
    """A write is chosen by A and B. A comes back on an older copy of its disk, B is cut off: C and A are a
    majority that never heard of it, unless A is told that it has forgotten."""
    a, b, c = _cast(world)
    work, network = world.workload, world.cluster.network
    key = work.keys[0]
    await work.operate("c1", a, linear.PUT, key)
    copy = a.disk.copy()
    a.crash()
    a.start()
    await _until_serving(a)
    _direct(world, {(a, c, ACCEPT): LOST})
    for other in work.keys:
        await work.operate("c1", a, linear.PUT, other)
    a.crash()
    right, a.disk = a.disk, copy
    world.story.fault("old disk", a.name, "comes back on a copy of its disk")
    a.doubtful = True
    a.start()
    await asyncio.sleep(1.0 + world.rng.random())
    network.cut |= {(b.id, a.id), (a.id, b.id), (b.id, c.id), (c.id, b.id)}
    for other in work.keys:
        await work.operate("c2", c, linear.GET, other)
    network.cut.clear()
    if a.running:
        a.crash()
    a.disk = right
    a.start()


async def seen_before_durable(world: World) -> None:
    """A put waits for slow disks; a reader sees it; the power fails before it was durable anywhere."""
    a, b, c = _cast(world)
    work = world.workload
    for key in work.keys[:3]:
        await work.operate("c1", a, linear.PUT, key)
        for peer in (a, b, c):
            peer.traits.stall, peer.traits.stall_s = 1.0, 3.0
        slow = _start(world, work.operate("c1", a, linear.PUT, key, patience_s=2.0))
        await asyncio.sleep(0.02)
        reads = [
            _start(world, work.operate(f"r{n}", peer, linear.GET, key)) for n, peer in enumerate((a, b, c))
        ]
        await asyncio.sleep(0.02)
        world.story.fault("power loss", "world", "every machine at once")
        for peer in (a, b, c):
            peer.crash()
            peer.traits.stall, peer.traits.stall_s = 0.0, 0.0
            peer.start()
        await asyncio.gather(slow, *reads)
        for peer in (a, b, c):
            await _until_serving(peer)
        await work.operate("c2", b, linear.GET, key)


def _start(world: World, work: Any) -> asyncio.Task[Any]:
    return world.loop.create_task(work, name="scheduled request")


async def _until_serving(peer: SimPeer) -> None:
    while not peer.serving:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.02)
