"""Directed schedules for changes of the ring.

The first ones break a promise if, and only if, one safeguard of architecture.md, section 5, is missing. The last four
are plays of which every one must end well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from peer.errors import AtollError
from peer.replication.keys import partition_in
from peer.replication.messages import (
    ACCEPT,
    COPY_DIGESTS,
    COPY_FETCH,
    COPY_LEAVES,
    COPY_LIST,
    EPOCH_ACCEPT,
    EPOCH_DECIDED,
    EPOCH_GET,
    PREPARE,
)
from peer.replication.value import BALLOT_SLICE
from ring.changes import drained, joined, replaced, undrained
from ring.epoch import Epoch
from tools.sim import linear
from tools.sim.cluster import SimPeer
from tools.sim.workload import SPACE

if TYPE_CHECKING:
    from tools.sim.world import World

LOST = -1.0
COPIES = (COPY_DIGESTS, COPY_LEAVES, COPY_LIST, COPY_FETCH)
PATIENCE_S = 40.0
GIVEN_UP_S = 6.0  # after so long no coordinator goes on with a change


async def old_owners_alone(world: World) -> None:
    """In joint, with everything merged, a put reaches two of the old owners and one of the new. Final comes, that one dies.

    Whoever counts old owners only has acknowledged a write that the new ones do not hold.
    """
    x, a, b, d, key = await _joining(world)
    network, work = world.cluster.network, world.workload
    d.start()
    network.rule = lambda *what: LOST if what[2] == EPOCH_ACCEPT and world.cluster.whole is False else None
    await _until(world, lambda: d.serving and all(_merged(peer) for peer in world.cluster.peers))
    closed = {(x.id, b.id), (x.id, d.id)}
    network.rule = lambda *what: (
        LOST if what[2] == EPOCH_ACCEPT or (what[2] == ACCEPT and what[:2] in closed) else None
    )
    await work.operate("c1", x, linear.PUT, key, patience_s=5.0)
    network.rule = lambda *what: LOST if what[2] in COPIES else None
    await _until(world, lambda: world.cluster.whole)
    world.story.fault("crash", a.name, "takes what only it knows of the new owners with it")
    a.crash()
    await work.operate("c2", b, linear.GET, key)
    a.start()


async def stale_source(world: World) -> None:
    """A put is chosen without A. A new owner takes the place of another one, from A alone or waiting for nobody, and
    B dies."""
    x, a, b, d, key = await _joining(world)
    network, work = world.cluster.network, world.workload
    network.rule = lambda *what: LOST if what[1] == a.id and what[2] in (ACCEPT, *COPIES) else None
    await work.operate("c1", b, linear.PUT, key)
    d.start()
    hidden = {b.id, x.id}
    network.rule = lambda *what: (
        LOST if what[2] in COPIES and ((what[0] == d.id and what[1] in hidden) or what[0] == a.id) else None
    )
    await _until(world, lambda: d.serving and world.cluster.whole)
    network.rule = lambda *what: LOST if what[2] in COPIES else None
    world.story.fault("crash", b.name, "takes its copy with it")
    b.crash()
    await work.open_gates()  # a new owner that merged nothing has them then
    for reader in (a, d):
        await work.operate("c2", reader, linear.GET, key)
    b.start()


async def two_halves(world: World) -> None:
    """Two creators leave what they made on one old owner each, K's above M's and made without it. D takes X's place.

    D merges M and X, who differ. If it just takes the higher value, two of three new owners hold M's, and a reader takes
    that for chosen; the next one meets K's.
    """
    _x, m, k, d, key = await _joining(world)
    network, work = world.cluster.network, world.workload
    network.rule = lambda *what: (
        LOST if (what[2] == ACCEPT and what[0] == m.id) or what[2] in COPIES else None
    )
    await work.operate("c1", m, linear.PUT_IF_ABSENT, key, patience_s=4.0)
    await asyncio.sleep(GIVEN_UP_S)
    network.rule = lambda *what: (
        LOST
        if (what[0] == k.id and (what[2] == ACCEPT or what[1:] == (m.id, PREPARE))) or what[2] in COPIES
        else None
    )
    await work.operate("c2", k, linear.PUT_IF_ABSENT, key, patience_s=4.0)
    await asyncio.sleep(GIVEN_UP_S)
    apart = {(d.id, k.id), (m.id, k.id), (k.id, m.id)}
    network.rule = lambda *what: LOST if what[2] in COPIES and what[:2] in apart else None
    d.start()
    await _until(world, lambda: d.serving and world.cluster.whole)
    network.rule = lambda *what: LOST if what[2] in COPIES else None
    network.doubted |= {(m.id, k.id), (k.id, m.id)}
    for number, reader in enumerate((m, k)):
        await work.operate(f"r{number}", reader, linear.GET, key)


async def ballots_of_former_times(world: World) -> None:
    """D, its clock an hour ahead, accepts what nobody else does, and drains. Others write. Then D owns the key again.

    If it still holds what it accepted then, its ballot is the highest.
    """
    cluster, work, network = world.cluster, world.workload, world.cluster.network
    for _ in range(2):
        cluster.add().start()
        await _until(world, lambda: all(peer.serving for peer in cluster.peers) and cluster.whole)
    key = world.rng.choice(work.keys)
    d, o, other = (cluster.by_id(owner) for owner in _owners(world, key))
    d.skew_s += 3600
    assert d.env is not None
    d.env.skew_s = d.skew_s
    network.rule = lambda *what: (
        LOST if what[0] == d.id and (what[2] == ACCEPT or what[1:] == (other.id, PREPARE)) else None
    )
    network.doubted.add((d.id, other.id))
    await work.operate("c1", d, linear.PUT_IF_ABSENT, key, patience_s=2.0)
    await asyncio.sleep(GIVEN_UP_S)
    world.story.fault("crash", d.name, "its disk keeps what it accepted")
    d.crash()
    d.skew_s -= 3600
    network.rule = None
    for leaver in (d, o):
        await _change(world, other, lambda base, leaver=leaver: drained(base, leaver.id))  # type: ignore[misc]
    await work.operate("c2", other, linear.PUT, key)
    d.start()
    await _until(world, lambda: d.serving)
    await _change(world, other, lambda base: undrained(base, d.id))
    third = next(owner for owner in _active(world) if owner not in (d.id, other.id))
    await _change(world, other, lambda base: drained(base, third))
    for reader in (other, d):
        await work.operate("c3", reader, linear.GET, key)


async def restart_with_one_behind(world: World) -> None:
    """Puts miss one member. Everybody restarts, that one stays down, a new one joins, and one member does not hear of it:
    clients work through all. The one that was down comes back, the ring is final, and another one dies."""
    cluster, work, network = world.cluster, world.workload, world.cluster.network
    down, behind, up = world.rng.sample(cluster.peers, 3)
    network.rule = lambda *what: LOST if what[1:] == (down.id, ACCEPT) else None
    for key in work.keys:
        await work.operate("c1", up, linear.PUT, key)
    for peer in (down, behind, up):
        peer.crash()
    cluster.sweeping = True
    for peer in (behind, up):
        peer.start()
    await _until(world, lambda: up.serving and behind.serving)
    network.rule = lambda *what: (
        LOST if what[1:] == (behind.id, EPOCH_DECIDED) or (what[2] in COPIES and cluster.whole) else None
    )
    network.doubted.add((cluster.peers[0].id, behind.id))
    joiner = cluster.add()
    joiner.start()
    await _until(world, lambda: joiner.serving)
    for key in work.keys[::2]:
        for peer in (behind, up, joiner):
            await work.operate("c2", peer, linear.PUT_IF_MATCH, key)
            await work.operate("c2", peer, linear.GET, key)
    world.story.event("world", "the last one comes back")
    down.start()
    await _until(world, lambda: down.serving and cluster.whole)
    world.story.fault("crash", behind.name, "what was put before the restart is read without it")
    behind.crash()
    await work.open_gates()  # a new owner that merged nothing has them then
    for key in work.keys:
        for peer in (down, joiner, up):
            await work.operate("c3", peer, linear.GET, key)
    behind.start()


async def there_and_back(world: World) -> None:
    """Partitions move from L to D and back, and each time one of the two hears of it late: what it takes for its own, or for
    the other's, is not what the other does. Clients work through both, and both let go of what they do not own."""
    cluster, work = world.cluster, world.workload
    leaver, through, _ = world.rng.sample(cluster.peers, 3)
    cluster.sweeping = True
    for peer in cluster.peers:
        peer.crash()
        peer.start()
    d = cluster.add()
    d.start()
    await _until(world, lambda: all(peer.serving for peer in cluster.peers) and cluster.whole)
    for mover, change in ((leaver, drained), (leaver, undrained), (d, drained), (d, undrained)) * 2:
        deaf = world.rng.choice((leaver, d))
        _deafen(world, deaf)
        world.story.event("world", f"{mover.name} is {change.__name__}, {deaf.name} does not hear of it")
        changing = world.loop.create_task(
            _change(world, through, partial(change, member_id=mover.id)), name="change"
        )
        hears_s = world.loop.time() + 0.2 + 2.0 * world.rng.random()
        while not (changing.done() and world.loop.time() > hears_s):
            if world.loop.time() > hears_s:
                cluster.network.rule = None
            for peer in (deaf, world.rng.choice((leaver, d)), through):
                kind = world.rng.choice((linear.GET, linear.PUT, linear.PUT_IF_ABSENT, linear.DELETE))
                await work.operate("c1", peer, kind, world.rng.choice(work.keys), patience_s=1.0)
        cluster.network.rule = None
        await changing


async def accepted_on_two(world: World) -> None:
    """Puts are accepted on A and B, and perhaps read; A dies, mostly before it can say so, and for good. D takes its place,
    and does not reach B at first. One key is read all the time, the other one only when all is done."""
    cluster, work, network = world.cluster, world.workload, world.cluster.network
    a, b, c = world.rng.sample(cluster.peers, 3)
    keys = work.keys[:2]
    for key in keys:
        await work.operate("c1", c, linear.PUT, key)
    network.rule = lambda *what: LOST if what[:2] == (a.id, c.id) and what[2] == ACCEPT else None
    puts = [
        world.loop.create_task(work.operate(f"c{key}", a, linear.PUT, key), name="scheduled request") for key in keys
    ]  # fmt: skip
    await asyncio.sleep(0.004 + 0.003 * world.rng.random())
    for key in keys:
        row = SPACE.row_key(key.encode())
        held = [peer.disk.tables["rows"].get(row, b"")[BALLOT_SLICE] for peer in (a, b, c)]
        world.story.safeguards["accepted on two"] += held[0] == held[1] > held[2]
    if world.rng.random() < 0.5:
        network.doubted.add((b.id, c.id))
        for key in keys:
            await work.operate("r0", b, linear.GET, key)
        network.doubted.clear()
    a.crash()
    a.removed = True
    cluster.peers.remove(a)
    d = cluster.add()
    apart = (d.id, b.id)
    network.rule = lambda *what: LOST if what[:2] == apart and what[2] in COPIES else None
    world.loop.call_later(5.0, network.heal)
    change = world.loop.create_task(
        _change(world, b, lambda base: replaced(base, a.id, d.member)), name="replacement"
    )
    await _until(
        world, lambda: d.id in {m.id for peer in (b, c) if peer.replica for m in peer.replica.epoch.members}
    )
    d.start()
    while not (change.done() and d.serving and cluster.whole):
        for number, reader in enumerate((b, c, d)):
            await work.operate(f"r{number}", reader, linear.GET, keys[0])
        await asyncio.sleep(0.2)
    await asyncio.gather(change, *puts)
    network.doubted |= {(d.id, b.id), (c.id, b.id)}
    for number, reader in enumerate((d, c, b)):
        for key in keys:
            await work.operate(f"r{number}", reader, linear.GET, key)


async def dies_over_a_join(world: World) -> None:
    """A machine joins three, and it, or one of the three, dies for good over that: the ring comes to rest without it."""
    cluster, work = world.cluster, world.workload
    for key in work.keys:
        await work.operate("c1", world.rng.choice(cluster.peers), linear.PUT, key)
    joiner = cluster.add()
    victim = world.rng.choice(cluster.peers)
    joiner.start()
    await _until(world, lambda: not cluster.whole)
    await asyncio.sleep(0.02 * world.rng.random())
    world.story.fault("crash", victim.name, "for good")
    victim.crash()
    victim.removed = True
    cluster.peers.remove(victim)
    key = world.rng.choice(work.keys)
    while not (cluster.whole and _is_out(world, victim)) and world.loop.time() < PATIENCE_S:
        await work.operate("c2", world.rng.choice(cluster.peers), linear.PUT, key)
        await asyncio.sleep(0.2)
    if not (cluster.whole and _is_out(world, victim)):
        world.problems.append(f"P7 the ring waits for {victim.name}, which is dead for good")


async def back_from_a_cut(world: World) -> None:
    """Two of five are cut off from the others, for longer than the dead stay. Back again, one of them believes for a moment
    that one of the others is dead, as it did all along. Who counts what it saw while cut off has a living peer removed."""
    cluster, network = world.cluster, world.cluster.network
    for _ in range(2):
        cluster.add().start()
        await _until(world, lambda: all(peer.serving for peer in cluster.peers) and cluster.whole)
    first, *others = sorted(cluster.peers, key=lambda peer: peer.id)  # whose turn is first
    world.rng.shuffle(others)
    second, other = others[:2]
    far = {(one.id, two.id) for one in (first, second) for two in others[1:]}
    network.cut |= far | {(b, a) for a, b in far}
    world.story.fault("partition", first.name, f"and {second.name} are cut off")
    await asyncio.sleep(cluster.evict_after_s + 4.0 + 4.0 * world.rng.random())
    network.doubted.add((first.id, other.id))
    network.cut.clear()
    await asyncio.sleep(4.0)
    network.doubted.clear()
    await asyncio.sleep(2.0)
    if _is_out(world, other):
        world.problems.append(f"P6 {other.name} was removed, and had not been away")


# --- inside


def _deafen(world: World, deaf: SimPeer) -> None:
    """It learns of no epoch, told or asked for."""
    world.cluster.network.rule = lambda *what: (
        LOST
        if what[1:] == (deaf.id, EPOCH_DECIDED) or (what[0] == deaf.id and what[2] == EPOCH_GET)
        else None
    )


async def _joining(world: World) -> tuple[SimPeer, SimPeer, SimPeer, SimPeer, str]:
    """A machine that will take X's place as an owner of `key` beside A and B: (X, A, B, that machine, key)."""
    cluster, newest = world.cluster, world.cluster.newest()
    assert newest is not None
    d = cluster.add()
    table = joined(newest, d.member).table
    for key in world.workload.keys:
        new = table.owners(partition_in(SPACE.row_key(key.encode())))
        if d.id in new:
            old = _owners(world, key)
            x = next(owner for owner in old if owner not in new)
            a, b = world.rng.sample([owner for owner in old if owner != x], 2)
            cast = [cluster.by_id(owner) for owner in (x, a, b)]
            world.story.event(
                "world", f"X is {cast[0].name}, A {cast[1].name}, B {cast[2].name}, D {d.name}, key {key}"
            )
            return cast[0], cast[1], cast[2], d, key
    raise AssertionError("the new machine gets none of the keys; add more of them")


def _owners(world: World, key: str) -> tuple[str, ...]:
    newest = world.cluster.newest()
    assert newest is not None
    return newest.table.owners(partition_in(SPACE.row_key(key.encode())))


def _is_out(world: World, peer: SimPeer) -> bool:
    newest = world.cluster.newest()
    return newest is not None and newest.member(peer.id) is None


def _active(world: World) -> list[str]:
    newest = world.cluster.newest()
    assert newest is not None
    return [member.id for member in newest.members if newest.table.partitions_of(member.id)]


def _merged(peer: SimPeer) -> bool:
    epoch = peer.replica.epochs.current if peer.replica is not None else None
    transition = peer.transition
    return epoch is not None and epoch.kind == "joint" and transition is not None and transition.merged


async def _change(world: World, through: SimPeer, change: Callable[[Epoch], Epoch]) -> None:
    """Have the ring changed, and wait until that is done."""
    replica = through.replica
    assert replica is not None
    while True:
        try:
            await through.request(lambda: replica.change_ring(change))
            break
        except AtollError:
            await asyncio.sleep(0.2)
    await _until(world, lambda: world.cluster.whole)


async def _until(world: World, condition: Callable[[], bool]) -> None:
    """Wait, for a while: where a safeguard holds things up, the play goes on without."""
    until = world.loop.time() + PATIENCE_S
    while not condition() and world.loop.time() < until:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.02)
