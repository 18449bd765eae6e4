"""The operator's override: survivors of a lost majority merge what they hold before any of them answers."""

from __future__ import annotations

from dataclasses import replace

from peer.errors import Unavailable
from peer.replication.healing.recovery import Recovery
from peer.replication.keys import SYSTEM, Space
from peer.replication.messages import BALLOT, NO_GATE, NOT_OWNER
from peer.replication.workers import Workers
from ring.epoch import Epoch
from ring.placement import place
from tests.replication_chunks import LARGE, Store, name_of, owners_first, simulate_stores
from tests.replication_world import KEY, POWER, Peer, World, error_of, simulate, until
from tests.test_replication_healing import side_of


def override(epoch: Epoch, *survivors: Peer) -> Epoch:
    members = tuple(sorted((peer.member for peer in survivors), key=lambda member: member.id))
    table = place(epoch.table, members, epoch.replicas, POWER)
    return replace(epoch, generation=epoch.generation + 1, number=2, members=members, table=table)


def recovering(peer: Peer) -> Recovery:
    worker = Recovery(peer.env, peer.replica)
    Workers(peer.env, peer.rows).add(worker)
    return worker


async def lose_most(world: World, *peers: Peer) -> tuple[Peer, list[Peer], Epoch]:
    """Write KEY, lose all but one of its owners; that one, two survivors that never held it, and the override."""
    for number in range(40):  # so that everybody has promised something, and is bound by it after a restart
        await peers[0].put(b"other", Space(SYSTEM, b"%08d" % number, 1, POWER).row_key(b"key"))
    await peers[0].put(b"kept", side=b"inline")
    owners = world.owners(KEY)
    await until(lambda: world.holding(b"kept") == 3)
    holder, others = owners[0], [peer for peer in peers if peer not in owners][:2]
    for peer in peers:
        if peer is not holder and peer not in others:
            world.isolate(peer)
            peer.crash()
    return holder, others, override(holder.replica.epoch, holder, *others)


def test_nobody_answers_before_everything_is_merged() -> None:
    """Goal (O1, O2): a majority of new owners that hold nothing does not say "absent" while the one survivor that holds the
    row cannot be reached; when it can, all of them hold it."""

    async def scenario(world: World, *peers: Peer) -> None:
        holder, others, epoch = await lose_most(world, *peers)
        world.isolate(holder)
        for peer in others:
            recovering(peer)
            await peer.replica.epochs.installed(epoch)
        assert isinstance(await error_of(others[0].get()), Unavailable)
        assert await others[0].ask(BALLOT, KEY, NO_GATE) == (NOT_OWNER,)
        recovering(holder)
        world.network.cut = {pair for pair in world.network.cut if holder.id not in pair}
        await others[0].replica.epochs.catch_up(1 << 41)
        await holder.replica.epochs.installed(epoch)
        survivors = (holder, *others)
        await until(lambda: not any(peer.replica.recovering for peer in survivors), 120)
        for peer in survivors:
            assert await peer.get() == b"kept"
            assert peer.holds() == b"kept"
        found = await others[1].replica.registers.read(KEY, want_side=True)
        assert found.side == b"inline"

    simulate(scenario, peers=7)


def test_promises_of_the_generation_before_hold_nothing_up() -> None:
    """Goal (O3): rows below what a survivor had promised are merged all the same, and the promise stands."""

    async def scenario(world: World, *peers: Peer) -> None:
        holder, others, epoch = await lose_most(world, *peers)
        for peer in others:
            await peer.restart()  # everything counts as promised at H now
            assert peer.replica.acceptor.promised(KEY) > holder.stored().ballot
        floors = [peer.replica.acceptor.promised(KEY) for peer in others]
        for peer in (holder, *others):
            recovering(peer)
            await peer.replica.epochs.installed(epoch)
        await until(lambda: not any(peer.replica.recovering for peer in (holder, *others)), 120)
        assert all(peer.holds() == b"kept" for peer in others)
        for peer, floor in zip(others, floors, strict=True):
            assert peer.replica.acceptor.promised(KEY) >= floor
        assert (await others[0].put(b"new")).ballot > max(floors)

    simulate(scenario, peers=7)


def test_a_merge_is_taken_up_again_after_a_restart_and_done_once() -> None:
    """Goal: a survivor that restarts in the middle still owns nothing; one that has merged does not start over."""

    async def scenario(world: World, *peers: Peer) -> None:
        holder, others, epoch = await lose_most(world, *peers)
        for peer in (holder, *others):
            await peer.replica.epochs.installed(epoch)
            assert peer.replica.recovering
        await others[0].restart()
        assert others[0].replica.recovering
        for peer in (holder, *others):
            recovering(peer)
        await until(lambda: not any(peer.replica.recovering for peer in (holder, *others)), 120)
        await others[0].restart()
        assert not others[0].replica.recovering
        await until(lambda: others[0].holds() == b"kept")

    simulate(scenario, peers=7)


def test_one_that_joins_has_nothing_to_merge() -> None:
    """Goal: a new peer whose first epoch is of a later generation votes at once."""

    async def scenario(world: World, *peers: Peer) -> None:
        epoch = replace(override(peers[0].replica.epoch, *peers[:3]), generation=3)
        peers[3].disk.tables["meta"].clear()
        peers[3].crash()
        peers[3].open()
        await peers[3].replica.begin()
        await peers[3].replica.epochs.installed(epoch)
        assert not peers[3].replica.recovering

    simulate(scenario, peers=4)


def test_chunks_come_from_survivors_that_own_them_no_more() -> None:
    """Goal: after the merge each owner of a chunk holds it, though the only survivor that held it may own it no longer."""

    async def scenario(world: World, *stores: Store) -> None:
        ordered = owners_first(stores, name_of(LARGE))
        for store in stores:
            side_of(store)
        name = await ordered[0].put(LARGE)
        await until(lambda: all(store.holds(name) for store in ordered[:3]))
        keeps, lost = [ordered[2], *ordered[3:]], ordered[:2]
        for store in lost:
            world.isolate(store.peer)
        epoch = override(ordered[2].peer.replica.epoch, *(store.peer for store in keeps))
        for store in keeps:
            recovering(store.peer)
            await store.peer.replica.epochs.installed(epoch)
        owners = [store for store in keeps if store.peer.id in ordered[2].chunks.owners_of(name)]
        await until(lambda: all(store.holds(name) for store in owners), 120)
        assert await owners[0].get(name) == LARGE

    simulate_stores(scenario, peers=7)
