"""Who may vote: starts that a majority knows of, and old copies that never do (I1 to I4 of identity.py)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from peer.replication.agreement.identity import REPORT_EVERY_S, Amnesia
from peer.replication.messages import ABSTAIN, BOOTS, NO_GATE, OK, PREPARE
from ring.changes import removed, revised
from ring.epoch import Epoch
from tests.replication_world import KEY, Peer, World, error_of, simulate, until
from tools.sim.disk import SimDisk


async def votes(peer: Peer) -> bool:
    """Whether it answers a prepare, which is a vote."""
    reply = await peer.ask(PREPARE, KEY, b"\x0f" * 20, NO_GATE, False)
    return bool(reply[0] != ABSTAIN)


async def reports(world: World) -> None:
    """Let everybody tell everybody how far it is."""
    await asyncio.sleep(2 * REPORT_EVERY_S)


def known_durably(by: Peer, of: Peer) -> Any:
    """(boot, sequence, nonce) of a peer, as on another one's disk; None if it is not there."""
    table = msgpack.unpackb(by.disk.kept(b"boots") or b"\x90")
    return next((tuple(seen) for member, *seen in table if member == of.id), None)


def start(peer: Peer, disk: SimDisk | None = None) -> asyncio.Task[None]:
    """Start a process on the peer's disk, or on `disk`."""
    peer.open(disk)
    return asyncio.ensure_future(peer.start())


# --- I2: a majority knows


def test_i2_every_start_raises_the_boot_and_is_durable_before_it_is_used() -> None:
    """Goal (I2): boots count up from one; when a start may vote, the others have it on their disks."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for boot in (1, 2, 3):
            assert a.replica.identity.boot == boot
            assert await votes(a)
            assert all(known_durably(other, a)[0] == boot for other in (b, c))
            await a.restart()

    simulate(scenario)


def test_i2_a_start_that_reaches_no_majority_does_not_vote() -> None:
    """Goal (I2): alone it waits, answers no vote and says so to clients; it is confirmed when others are back."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        a.crash()
        world.isolate(a)
        starting = start(a)
        await asyncio.sleep(20)
        assert not starting.done()
        assert not await votes(a)
        assert not a.replica.identity.confirmed
        world.join_up()
        await starting
        assert a.replica.identity.confirmed
        assert await votes(a)

    simulate(scenario)


def test_i2_one_dead_peer_does_not_keep_another_from_voting() -> None:
    """Goal (I2): with one of three dead the restarted one votes after about a second."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        c.crash()
        a.crash()
        begun_s = world.now
        await start(a)
        assert world.now - begun_s < 2.0
        assert await votes(a)

    simulate(scenario)


def test_i2_a_record_that_is_not_durable_does_not_count() -> None:
    """Goal (I2): the only other voter's disk is full: it must not say that it recorded the start, however often
    it is asked; once there is room it has."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        c.crash()
        a.crash()
        b.disk.full = True
        starting = start(a)
        await asyncio.sleep(10)
        assert not starting.done()
        b.disk.full = False
        await starting
        assert known_durably(b, a)[0] == 2

    simulate(scenario)


def test_i2_a_second_question_waits_for_the_record_of_the_first() -> None:
    """Goal (I2): a repeated BOOTS is not answered before the commit that the first one queued."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        b.rows.traits.commit_s = 1.0
        message = (BOOTS, [["0" * 15 + "9", 1, 1, 77]], 0, [[1, 77]])
        first, second = b.ask(*message, tag=0), b.ask(*message, tag=0)
        assert not second.done()
        assert ((await first)[0], (await second)[0]) == (OK, OK)
        third = b.ask(*message, tag=0)
        assert third.done()

    simulate(scenario)


def test_a_full_disk_is_an_error_at_the_start() -> None:
    """Goal: a start whose boot counter cannot be made durable fails instead of going on under it."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        a.crash()
        a.disk.full = True
        a.open()
        assert (await error_of(a.start())).code == "InsufficientStorage"

    simulate(scenario)


# --- I1, I4: old copies


def test_i1_a_copy_from_an_earlier_start_never_votes() -> None:
    """Goal (I1): the cluster has seen a later start, so the copy is refused and says why."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"v")
        copy = a.disk.copy()
        await a.restart()
        a.crash()
        error = await error_of(start(a, copy))
        assert isinstance(error, Amnesia)
        assert "old copy" in str(error)
        assert not await votes(a)

    simulate(scenario)


def test_i1_a_copy_from_the_same_start_never_votes() -> None:
    """Goal (I1): no restart in between, but commits that the others were told of are missing."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        copy = a.disk.copy()
        for number in range(20):
            await a.put(b"%d" % number)
        await reports(world)
        a.crash()
        assert isinstance(await error_of(start(a, copy)), Amnesia)
        assert not await votes(a)

    simulate(scenario)


def test_i1_the_right_disk_is_never_refused() -> None:
    """Goal: crashes at any moment, reports before and after them, restarts in a row: always confirmed."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for step in range(6):
            tasks = [asyncio.ensure_future(b.put(b"%d" % n)) for n in range(5)]
            await asyncio.sleep(0.001 * step + REPORT_EVERY_S * (step % 2))
            await a.restart()
            await asyncio.gather(*tasks)
        assert await votes(a)

    simulate(scenario)


@pytest.mark.parametrize("starts", [2, 3])
def test_i4_starting_an_old_copy_again_and_again_does_not_help_it(starts: int) -> None:
    """Goal (I4): every start raises the copy's own boot, yet the evidence against it stays."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        copy = a.disk.copy()
        for number in range(20):
            await a.put(b"%d" % number)
        await reports(world)
        await a.restart()
        for _ in range(starts):
            a.crash()
            assert isinstance(await error_of(start(a, copy)), Amnesia)
            assert not await votes(a)

    simulate(scenario)


def test_i4_a_copy_that_nobody_answers_leaves_no_trace_to_stand_on() -> None:
    """Goal (I4): its questions arrive, the answers do not; a later start meets the evidence, not its own traces.

    It starts so often that it has a higher boot and more commits than what it was copied from ever had.
    """

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        a.crash()
        copy = a.disk.copy()
        await start(a)
        a.crash()
        world.network.cut |= {(b.id, a.id), (c.id, a.id)}
        for _ in range(4):
            deaf = start(a, copy)
            await asyncio.sleep(3)
            assert not deaf.done()
            a.crash()
        world.join_up()
        assert isinstance(await error_of(start(a, copy)), Amnesia)
        assert not await votes(a)

    simulate(scenario)


def test_i1_a_copy_that_went_on_alone_is_refused_for_its_start() -> None:
    """Goal (I1): it has committed more than the others know of, but they know of a start that is none of its own."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        a.crash()
        copy = a.disk.copy()
        await start(a)
        a.crash()
        world.isolate(a)
        for _ in range(4):
            start(a, copy)
            await asyncio.sleep(1)
            a.crash()
        world.join_up()
        assert isinstance(await error_of(start(a, copy)), Amnesia)

    simulate(scenario)


def test_a_conviction_is_remembered_by_the_copy_itself() -> None:
    """Goal (I1): once convicted, a copy refuses itself even when nobody who knows is reachable."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        copy = a.disk.copy()
        await a.restart()
        a.crash()
        assert isinstance(await error_of(start(a, copy)), Amnesia)
        await asyncio.sleep(1)
        a.crash()
        world.isolate(a)
        assert isinstance(await error_of(start(a, copy)), Amnesia)

    simulate(scenario)


def test_two_live_copies_the_later_is_refused_and_the_first_goes_on() -> None:
    """Goal (I1): the same directory started twice at once: the second start is not confirmed."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        a.crash()
        copy = a.disk.copy()
        await start(a)
        first, first_env = a.replica, a.env
        assert isinstance(await error_of(start(a, copy)), Amnesia)
        world.network.attach(a.id, first_env, first.handle)
        a.replica = first
        await reports(world)
        assert await votes(a)

    simulate(scenario)


def test_two_live_copies_on_two_sides_of_a_partition_do_not_both_go_on() -> None:
    """Goal (I1): each was confirmed by another peer; with the first report after healing one of them stops voting."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        convicted: list[Amnesia] = []
        a.crash()
        copy = a.disk.copy()
        both = []
        for disk, other in ((a.disk, c), (copy, b)):
            world.isolate(other)
            a.open(disk)
            a.replica.identity.on_amnesia = convicted.append
            await a.start()
            both.append(a.replica)
            world.join_up()
        assert [replica.identity.confirmed for replica in both] == [True, True]
        await reports(world)
        assert len(convicted) >= 1
        assert sum(replica.identity.confirmed for replica in both) <= 1

    simulate(scenario)


# --- I3: knowledge spreads


def test_i3_what_one_peer_knows_the_others_learn() -> None:
    """Goal (I3): b alone saw a's new start; c hears of it from b, so that a's old copy is refused by c alone."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        copy = a.disk.copy()
        a.crash()
        world.network.cut |= {(a.id, c.id), (c.id, a.id)}
        await start(a)
        await reports(world)
        a.crash()
        b.crash()
        world.join_up()
        assert isinstance(await error_of(start(a, copy)), Amnesia)
        assert not await votes(a)

    simulate(scenario)


def test_i3_a_question_carries_what_the_asker_knows() -> None:
    """Goal (I3): who is asked learns of third peers, and tells them on."""
    third = ["0" * 15 + "9", 7, 70, 700]

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await b.ask(BOOTS, [["0" * 15 + "8", 1, 1, 1], third], 0, [[1, 1]], tag=0)
        _, table = await b.ask(BOOTS, [["0" * 15 + "8", 1, 1, 1]], 0, [[1, 1]], tag=0)
        assert tuple(third) in table

    simulate(scenario)


def test_i3_an_answer_carries_what_the_asked_one_knows() -> None:
    """Goal (I3): a peer that starts learns of third peers from the answers, and tells them on."""
    third = ["0" * 15 + "9", 7, 70, 700]

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await b.ask(BOOTS, [third], 0, [[7, 700]], tag=0)
        await c.restart()
        _, table = await c.ask(BOOTS, [["0" * 15 + "8", 1, 1, 1]], 0, [[1, 1]], tag=0)
        assert tuple(third) in table

    simulate(scenario)


def test_what_was_recorded_survives_the_recorder() -> None:
    """Goal: the knowledge that convicts is durable: all peers restart, the copy is still refused."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        copy = a.disk.copy()
        await a.restart()
        for peer in (a, b, c):
            peer.crash()
        restarts = [start(b), start(c)]
        await asyncio.gather(*restarts)
        assert isinstance(await error_of(start(a, copy)), Amnesia)

    simulate(scenario)


def test_a_ring_of_one_confirms_itself() -> None:
    """Goal: a single peer needs nobody, at its first start and later."""

    async def scenario(world: World, a: Peer) -> None:
        await a.put(b"v")
        await a.restart()
        assert await a.get() == b"v"
        await until(lambda: a.replica.identity.confirmed)

    simulate(scenario, peers=1)


# --- I6: the size of the ring


def test_i6_in_a_large_ring_only_voters_are_told_and_only_what_is_new() -> None:
    """Goal (I6): of nine members five vote: an idle ring is silent, a write is reported to voters alone."""

    async def scenario(world: World, *peers: Peer) -> None:
        voters = set(peers[0].replica.epoch.voters())
        await reports(world)
        told: list[str] = []

        def note(_: str, target: str, kind: int) -> None:
            if kind == BOOTS:
                told.append(target)

        world.network.rule = note
        await reports(world)
        assert told == []
        writer = next(peer for peer in peers if peer.id not in voters)
        await writer.replica.identity.begin()  # some commit
        await reports(world)
        assert sorted(told) == sorted(voters)

    simulate(scenario, 9)


def test_i6_who_becomes_a_voter_is_told_of_every_start() -> None:
    """Goal (I6): a voter leaves a ring of seven; the one in its place has all starts on its disk."""

    async def scenario(world: World, *peers: Peer) -> None:
        voters = peers[0].replica.epoch.voters()
        stays = [peer for peer in peers if peer.id != voters[0]]
        await stays[0].replica.change_ring(lambda base: removed(base, voters[0]))
        await until(lambda: all(peer.replica.epoch.member(voters[0]) is None for peer in stays))
        (new,) = set(stays[0].replica.epoch.voters()).difference(voters)
        newcomer = next(peer for peer in stays if peer.id == new)
        await reports(world)
        assert all(known_durably(newcomer, peer)[0] == 1 for peer in stays if peer is not newcomer)

    simulate(scenario, 7)


def test_i7_who_left_the_ring_is_forgotten() -> None:
    """Goal (I7): what is known of peers does not grow with all that ever were in the ring."""

    async def scenario(world: World, *peers: Peer) -> None:
        gone, *stay = peers
        await gone.restart()
        await reports(world)
        assert all(gone.id in known(peer) for peer in stay)
        await stay[0].replica.change_ring(lambda base: removed(base, gone.id))
        await until(lambda: all(peer.replica.epoch.member(gone.id) is None for peer in stay))
        await reports(world)
        assert all(gone.id in known(peer) for peer in stay), (
            "a ring given up and made anew has the same newcomer"
        )
        gone.crash()
        await stay[1].restart()
        for capacity in (2, 3, 4):
            epoch = await change(stay[0], stay[2], capacity)
            await until(lambda number=epoch.number: all(p.replica.epoch.number == number for p in stay))  # type: ignore[misc]
        await reports(world)
        assert not any(gone.id in known(peer) for peer in stay)

    async def change(asked: Peer, whose: Peer, capacity: int) -> Epoch:
        return await asked.replica.change_ring(lambda base: revised(base, whose.id, capacity=capacity))

    def known(peer: Peer) -> set[str]:
        return {member for member, *_ in peer.replica.identity._known()}

    simulate(scenario, 5)
