"""What a coordinator says when an accept was not answered (R3 of register.py): nothing changed, done, or unknown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from peer.errors import Conflict, Full, NotFound, Unavailable, UnknownOutcome
from peer.replication.ballot import NONE, after
from peer.replication.keys import OBJECT, Space, gate_key_of
from peer.replication.messages import ACCEPT, IS_FULL, PREPARE
from peer.replication.registers.gates import OPEN, gate_payload
from peer.replication.registers.register import Current, Put
from peer.replication.registers.room import FULL_FOR_S
from tests.replication_world import KEY, POWER, Peer, World, appended, create, error_of, simulate, until

HEAD = Space(OBJECT, b"bucket-1", 1, POWER).row_key(b"key")


def test_r3_an_unanswered_accept_is_found_by_its_operation_id() -> None:
    """Goal (R3): the accepts arrived, their answers did not: the change is found done, and not done twice."""
    judged = []

    def judge(current: Current) -> Put:
        judged.append(current.payload)
        return Put((current.payload or b"") + b"x")

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        with world.when(lambda: world.silence(b), ACCEPT, to=b), world.when(c.crash, ACCEPT, to=c):
            task = asyncio.ensure_future(a.change(judge))
            await until(lambda: b.holds() == b"x")
        world.join_up()
        assert (await task).payload == b"x"
        assert judged == [None]
        assert await b.get() == b"x"

    simulate(scenario)


def test_r3_an_overtaken_change_is_found_in_the_history() -> None:
    """Goal (R3): others changed the key on top of ours; the id in their history says that ours happened."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        task = await _unanswered(world, a, b"mine,")
        await b.change(appended(b"theirs"))
        world.join_up()
        assert (await task).payload == b"mine,theirs"
        assert await c.get() == b"mine,theirs"

    simulate(scenario)


def test_r3_beyond_sixteen_changes_the_outcome_is_unknown() -> None:
    """Goal (R3): history keeps 16 ids; when ours may have left it, the answer is 503, not a guess."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        task = await _unanswered(world, a, b"mine,")
        for _ in range(16):
            await b.change(appended(b"x"))
        world.join_up()
        error = await error_of(task)
        assert isinstance(error, UnknownOutcome)
        assert error.state_changed is None
        assert await a.get() == b"mine," + b"x" * 16

    simulate(scenario)


async def _unanswered(world: World, a: Peer, payload: bytes) -> asyncio.Task[Current]:
    """A change of `a` that `b` and `c` accepted, whose answers are lost; `a` is cut off when this returns."""
    b, c = world.peers[1:]
    with world.when(lambda: world.isolate(a), ACCEPT, to=c):
        task = asyncio.ensure_future(a.change(appended(payload)))
        await until(lambda: (b.holds(), c.holds()) == (payload, payload))
    return task


def test_r3_a_long_history_does_not_make_outcomes_unknown() -> None:
    """Goal (R3): a key that changed often before: what our change was to follow is remembered, ours is not there."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for number in range(20):
            await b.put(b"%d," % number)
        await until(lambda: world.holding(b"19,") == 3)
        with world.lost(ACCEPT, sender=a):
            task = asyncio.ensure_future(a.change(appended(b"mine")))
            await until(lambda: a.holds() == b"19,mine")
            world.isolate(a)
            await b.put(b"theirs,")
        world.join_up()
        assert (await task).payload == b"theirs,mine"

    simulate(scenario)


def test_r3_contention_on_a_busy_key_is_no_reason_for_an_unknown_outcome() -> None:
    """Goal (R3): three coordinators race for a key with a long history: every change ends well, each is there once."""

    async def scenario(world: World, *peers: Peer) -> None:
        for _ in range(20):
            await peers[0].change(appended(b"x"))

        async def work(peer: Peer) -> None:
            for _ in range(5):
                await peer.change(appended(b"x"))

        await asyncio.gather(*(work(peer) for peer in peers))
        assert await peers[0].get() == b"x" * 35
        assert sum(peer.counts["conflicts"] for peer in peers) > 0

    simulate(scenario)


def test_r3_a_lost_accept_is_sent_again() -> None:
    """Goal (R3): an accept that reached only its own peer and was overtaken is proposed anew, on the new value."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        with world.lost(ACCEPT, sender=a):
            task = asyncio.ensure_future(a.change(appended(b"mine,")))
            await until(lambda: a.holds() == b"mine,")
            world.isolate(a)
            await b.change(appended(b"theirs,"))
        world.join_up()
        assert (await task).payload == b"theirs,mine,"
        assert await c.get() == b"theirs,mine,"

    simulate(scenario)


def test_r3_once_an_accept_was_sent_silence_is_an_unknown_outcome() -> None:
    """Goal (R3): the coordinator's own copy may be adopted later, so it does not say that nothing changed."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        with world.when(lambda: world.isolate(a), ACCEPT, sender=a):
            error = await error_of(a.put(b"v"))
        assert isinstance(error, UnknownOutcome)
        world.join_up()
        assert await b.get() in (None, b"v")

    simulate(scenario)


def test_r3_before_any_accept_nothing_changed() -> None:
    """Goal (R3): no majority to prepare at: Unavailable within five seconds, and it says nothing changed."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        world.isolate(a)
        start_s = world.now
        error = await error_of(a.put(b"v"))
        assert world.now - start_s <= 5.0
        assert type(error) is Unavailable
        assert error.state_changed is False
        assert [peer.stored().ballot for peer in world.peers] == [NONE] * 3

    simulate(scenario)


def test_r3_a_refusal_after_a_lost_accept_shuts_it_out() -> None:
    """Goal (R3): ours may lie on a silent minority; before "it exists" is said, an accept above ours goes out.

    The outsider judged a tombstone that only the first owner held. Its second prepare is answered by the two others,
    which agree on an older value under one ballot: enough to refuse, were it not that our accept could be adopted.
    """

    async def scenario(world: World, *peers: Peer) -> None:
        first, second, third = world.owners(KEY)
        outsider = next(peer for peer in peers if peer not in (first, second, third))
        for _ in range(20):  # the history is long: that our accept is above all of it decides, not the ids
            await second.put(b"theirs")
        await until(lambda: len({owner.stored().ballot for owner in (first, second, third)}) == 1)
        await first.plant(None, world.ballot())
        world.network.doubted |= {(outsider.id, third.id)}  # so that it asks the first two
        with world.lost(ACCEPT, sender=outsider, to=second), world.lost(ACCEPT, sender=outsider, to=third):
            task = asyncio.ensure_future(outsider.change(create(b"mine")))
            await until(lambda: first.holds() == b"mine")
        world.isolate(first)
        with pytest.raises(Conflict):
            await task
        assert second.stored().ballot > first.stored().ballot
        world.join_up()
        assert await first.get() == b"theirs"

    simulate(scenario, peers=5)


def test_r3_what_was_chosen_above_a_lost_accept_shuts_it_out_already() -> None:
    """Goal (R3): a majority agrees on a value above ours that does not contain it: refused without another accept."""

    async def scenario(world: World, *peers: Peer) -> None:
        first, second, third = world.owners(KEY)
        outsider = next(peer for peer in peers if peer not in (first, second, third))
        with world.lost(ACCEPT, sender=outsider, to=second), world.lost(ACCEPT, sender=outsider, to=third):
            task = asyncio.ensure_future(outsider.change(create(b"mine")))
            await until(lambda: first.holds() == b"mine")
        world.isolate(first)
        await second.put(b"theirs")
        with world.lost(ACCEPT, sender=outsider) as accepts, pytest.raises(Conflict):
            await task
        assert accepts.hits == 0
        world.join_up()
        assert await first.get() == b"theirs"

    simulate(scenario, peers=5)


# --- full disks


async def put_head(peer: Peer, payload: bytes | None = b"v") -> Current:
    return await peer.replica.registers.change(HEAD, lambda _: Put(payload), gate=1)


async def with_room_for_promises(world: World) -> None:
    """A bucket, and a bound at every owner above what the next second needs."""
    await world.peers[0].put(gate_payload(OPEN, 1), gate_key_of(HEAD))
    await asyncio.sleep(0.1)


def fill(*peers: Peer) -> None:
    for peer in peers:
        peer.disk.full = True


def test_r3_full_disks_are_a_certain_refusal() -> None:
    """Goal (R3, A5): no owner has room: "full, nothing changed", at once, and true when there is room again; not 503.
    The third owner is waited for, whoever coordinates and whether or not it was prepared."""

    async def scenario(world: World, *peers: Peer) -> None:
        await with_room_for_promises(world)
        with world.late(0.05, ACCEPT, to=peers[2]):
            fill(*peers)
            begun_s = world.now
            for peer in peers:
                error = await error_of(put_head(peer, b"not to be"))
                assert type(error) is Full and error.state_changed is False, error
            assert world.now - begun_s < 1.0
        for peer in peers:
            peer.disk.full = False
        await asyncio.sleep(FULL_FOR_S)
        for peer in peers:
            assert (await peer.replica.registers.read(HEAD, gate=1)).payload is None

    simulate(scenario)


def test_r3_one_owner_with_room_is_doubt() -> None:
    """Goal (R3): two owners are full, the third took the value: it may yet be chosen, so nobody says that nothing changed.
    Whoever tries next is refused before an accept is sent, which is certain."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_room_for_promises(world)
        fill(b, c)
        assert type(await error_of(put_head(a, b"first"))) is UnknownOutcome
        with world.lost(ACCEPT) as accepts:
            assert type(await error_of(put_head(a, b"second"))) is Full
        assert accepts.hits == 0
        b.disk.full = c.disk.full = False
        assert (await a.replica.registers.read(HEAD, gate=1)).payload == b"first"

    simulate(scenario)


def test_r3_a_silent_owner_beside_full_ones_is_doubt() -> None:
    """Goal (R3): two owners refuse for want of room, the third does not answer and has the value."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_room_for_promises(world)
        fill(a, b)
        with world.when(lambda: world.silence(c), ACCEPT, to=c):
            assert type(await error_of(put_head(a, b"mine"))) is UnknownOutcome
        assert c.holds(HEAD) == b"mine"

    simulate(scenario)


def test_r3_an_earlier_accept_in_doubt_outlives_a_refusal_by_all() -> None:
    """Goal (R3): the first accept was not answered, the second one refused by every owner: the first may still count."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_room_for_promises(world)
        world.network.doubted |= {(a.id, c.id)}
        with (
            world.lost(ACCEPT, to=a),
            world.lost(ACCEPT, to=b),
            world.when(lambda: world.silence(c), ACCEPT, to=c),
        ):
            task = asyncio.ensure_future(put_head(a, b"mine"))
            await until(lambda: c.holds(HEAD) == b"mine")
        fill(a, b, c)
        assert type(await error_of(task)) is UnknownOutcome

    simulate(scenario)


def test_full_disks_do_not_keep_a_majority_from_being_read() -> None:
    """Goal (R2, P2): two owners hold an acknowledged write, the third missed it; no disk has room for its repair. Reads
    answer all the same, through any peer and whichever two of the three are asked first."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_room_for_promises(world)
        with world.lost(ACCEPT, to=c):
            await put_head(a, b"acknowledged")
            await until(lambda: world.holding(b"acknowledged", HEAD) == 2)
        fill(a, b, c)
        for peer in (a, b, c):
            assert (await peer.replica.registers.read(HEAD, gate=1)).payload == b"acknowledged"
        assert c.holds(HEAD) is None

    simulate(scenario)


def test_disks_without_room_leave_a_majority_as_it_is() -> None:
    """Goal (R2, P2): an acknowledged write is on an owner with room and on one without, and the third missed it. Reads,
    refusals and repairs leave it so: a repair that the first owner alone can take leaves the value under two ballots, which
    is a majority of neither. (Two of three disks filled up, one after the other: hundreds of reads ended with "full".)"""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_room_for_promises(world)
        with world.lost(ACCEPT, to=b):
            await put_head(a, b"acknowledged")
            await until(lambda: world.holding(b"acknowledged", HEAD) == 2)
        b.disk.low = c.disk.low = True
        for peer in (a, b, c) * 3:
            registers = peer.replica.registers
            assert (await registers.read(HEAD, gate=1)).payload == b"acknowledged"
            refused = registers.change(HEAD, lambda _: Conflict("it is there"), gate=1)
            assert type(await error_of(refused)) is Conflict
            assert type(await error_of(registers.settle(HEAD, gate=1, above=NONE))) is Full
        assert b.holds(HEAD) is None

    simulate(scenario)


def test_one_disk_with_room_takes_nothing_that_two_cannot() -> None:
    """Goal (R3): a put is refused without doubt when two of three have no room, also where one of the two was not asked to
    promise: else one owner holds what no majority does, and reads of the key wait for room."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_room_for_promises(world)
        await put_head(a, b"small")
        await until(lambda: world.holding(b"small", HEAD) == 3)
        b.disk.low = c.disk.low = True
        for peer in (a, b, c):
            assert type(await error_of(put_head(peer, b"bigger"))) is Full
            assert (await peer.replica.registers.read(HEAD, gate=1)).payload == b"small"
        assert world.holding(b"small", HEAD) == 3

    simulate(scenario)


def test_what_the_ballast_keeps_free_is_for_deletes() -> None:
    """Goal: with room for nothing but deletions, heads are refused without doubt and leave no row, at the owners and in
    copies between them; tombstones and gates go on; with room again so do heads."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_room_for_promises(world)
        await put_head(a, b"big")
        for peer in (a, b, c):
            peer.disk.low = True
        await until(lambda: world.holding(b"big", HEAD) == 3)
        before = [(dict(peer.disk.tables["rows"]), dict(peer.disk.tables["side"])) for peer in (a, b, c)]
        for peer in (a, b, c):
            assert type(await error_of(put_head(peer, b"bigger"))) is Full
        assert before == [
            (dict(peer.disk.tables["rows"]), dict(peer.disk.tables["side"])) for peer in (a, b, c)
        ]
        told: list[Any] = []
        accepted = a.replica.acceptor.stored(HEAD)[0]
        newer = after(a.replica.acceptor.promised(HEAD))
        a.replica.acceptor.merge(HEAD, newer, accepted.value, b"copied", told.append)
        assert told == [(IS_FULL, False)]
        await put_head(b, None)
        await c.put(gate_payload(OPEN, 1), gate_key_of(HEAD))
        for peer in (a, b, c):
            assert (await peer.replica.registers.read(HEAD, gate=1)).payload is None
            peer.disk.low = False
        await asyncio.sleep(FULL_FOR_S)
        await put_head(b, b"bigger")

    simulate(scenario)


def test_full_disks_leave_deletes_and_gates_alone() -> None:
    """Goal: an owner that has just refused a head promises all the same; what gives space back is tried, and works as
    soon as a commit does, while the next head waits for FULL_FOR_S."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_room_for_promises(world)
        await put_head(a, b"big")
        fill(a, b, c)
        assert type(await error_of(put_head(a, b"bigger"))) is Full
        for peer in (a, b, c):  # as after a ballast was given up
            peer.disk.full = False
        assert type(await error_of(put_head(b, b"bigger"))) is Full
        await put_head(b, None)
        await c.put(gate_payload(OPEN, 1), gate_key_of(HEAD))
        with pytest.raises(NotFound):
            await c.replica.registers.change(HEAD, lambda _: NotFound("it is not there"), gate=1)
        await asyncio.sleep(FULL_FOR_S)
        await put_head(b, b"bigger")

    simulate(scenario)


def test_r3_a_local_owner_that_fails_is_one_answer_of_its_round() -> None:
    """Goal (R3): an error raised while this peer handles its own accept is not the change's: the others have accepted."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        def fail(message: object, reply: object) -> None:
            raise Unavailable("the local owner failed")

        a.replica._row_handlers[ACCEPT] = fail
        assert (await a.put(b"v")).payload == b"v"
        assert b.holds() == c.holds() == b"v"

    simulate(scenario)


def test_r3_accepts_that_every_owner_s_queue_refuses_change_nothing() -> None:
    """Goal (R3): all were too busy and said so for good: a definite 503, and no trace of the value."""

    async def scenario(world: World, *peers: Peer) -> None:
        def saturate() -> None:
            for peer in peers:
                peer.rows.traits.queue_hard = 0

        await peers[0].put(b"before")
        with world.when(saturate, PREPARE):
            error = await error_of(peers[0].put(b"v"))
        assert type(error) is Unavailable and "too many writes" in str(error)
        for peer in peers:
            peer.rows.traits.queue_hard = 100
        assert await peers[1].get() == b"before"
        await peers[0].put(b"after")
        assert await peers[2].get() == b"after"

    simulate(scenario)


def test_r4_a_change_that_was_repeated_elsewhere_is_done_once() -> None:
    """Goal (R4): a coordinator stands still, its client repeats the write through another one and then writes something
    else; the first comes to life and does not bring the old value back. Nor does a deletion that was repeated."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for first, again in ((b"old", b"new"), (None, b"newer")):
            operation = bytes(7) + (b"\1" if first else b"\2")
            await b.change(lambda _, first=first: Put(first), operation=operation)  # type: ignore[misc]
            await b.change(lambda _, again=again: Put(again))  # type: ignore[misc]
            late = await a.change(lambda _, first=first: Put(first), operation=operation)  # type: ignore[misc]
            assert late.payload == again and late.replaced is None
            assert await c.get() == again

    simulate(scenario)


def test_r4_two_coordinators_at_once_do_one_change() -> None:
    """Goal (R4): the same operation through two peers at the same moment is in the history once."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        tasks = [
            asyncio.ensure_future(one.change(appended(b"x"), operation=b"the same")) for one in (a, b, c)
        ]
        assert {(await task).payload for task in tasks} == {b"x"}
        assert await a.get() == b"x"

    simulate(scenario)
