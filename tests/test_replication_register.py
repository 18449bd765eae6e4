"""Changes and reads over three owners, on schedules written by hand (R1 and R2 of register.py).

What a coordinator that died leaves behind is planted straight into one owner; `KEY` is owned by all three peers.
"""

from __future__ import annotations

import asyncio

import pytest

from peer.errors import AtollError, Conflict, Unavailable
from peer.replication.ballot import NONE
from peer.replication.messages import ACCEPT, BALLOT, CONFLICT, OK, PREPARE, READ
from peer.replication.registers import turns
from peer.replication.registers.register import Current, Keep
from peer.replication.value import encode_side
from tests.replication_world import KEY, SPACE, Peer, World, appended, create, error_of, rot, simulate, until

SECOND_US = 1_000_000


# --- the plain case


def test_put_get_delete_through_any_peer() -> None:
    """Goal: what one peer stored, with its inline bytes, another reads; a deletion is absence; all owners agree."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        assert await a.get() is None
        await a.put(b"one", side=b"inline")
        found = await b.replica.registers.read(KEY, want_side=True)
        assert (found.payload, found.side) == (b"one", b"inline")
        assert await c.get() == b"one"
        await c.put(None)
        assert await a.get() is None
        await until(lambda: len({peer.stored() for peer in world.peers}) == 1)
        assert [len(peer.disk.tables["side"]) for peer in world.peers] == [0, 0, 0]

    simulate(scenario)


def test_agreement_costs_one_round() -> None:
    """Goal: a read of an agreed key sends one value request and ballots only, and changes nothing."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"v")
        await until(lambda: world.holding(b"v") == 3)
        with world.lost(PREPARE, ACCEPT, READ):
            assert await b.get() == b"v"
        assert b.counts["identities"] == 0

    simulate(scenario)


# --- R1: a change starts from the accepted value of the highest ballot


def test_r1_a_change_builds_on_the_highest_accepted_value() -> None:
    """Goal (R1): of the values a majority shows, the one under the highest ballot is judged."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        low, high = world.ballot(-2 * SECOND_US), world.ballot(-SECOND_US)
        await a.plant(b"high,", high)
        await b.plant(b"low,", low)
        world.isolate(c)
        assert (await a.change(appended(b"mine"))).payload == b"high,mine"
        world.join_up()
        assert await c.get() == b"high,mine"

    simulate(scenario)


@pytest.mark.parametrize("seed_key", range(3))
def test_r1_racing_increments_are_all_counted(seed_key: int) -> None:
    """Goal (R1): no update is lost among coordinators that race for one key."""
    key = SPACE.row_key(b"counter %d" % seed_key)

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        with world.late(0.003, ACCEPT, to=world.peers[seed_key]):
            await asyncio.gather(*(peer.change(appended(b"x"), key) for peer in (a, b, c) * 4))
        assert await a.get(key) == b"x" * 12

    simulate(scenario)


def test_two_racing_creators_one_wins() -> None:
    """Goal (P3): create-if-absent from every peer at once: one succeeds, the others are told that it exists."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        tasks = (peer.change(create(peer.id.encode())) for peer in (a, b, c))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        created = [result for result in results if isinstance(result, Current)]
        assert len(created) == 1
        assert sum(isinstance(result, Conflict) for result in results) == 2
        assert await b.get() == created[0].payload

    simulate(scenario)


# --- R2: answers come from chosen values only


def test_r2_a_minority_value_that_was_read_is_never_unread() -> None:
    """Goal (R2): a read that meets a value on one owner makes it chosen before it answers."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.plant(b"left behind", world.ballot())
        world.isolate(a)
        assert await b.get() is None
        world.join_up()
        world.isolate(c)
        assert await b.get() == b"left behind"
        world.join_up()
        a.crash()
        assert await c.get() == b"left behind"
        assert await b.get() == b"left behind"

    simulate(scenario)


def test_r2_absence_on_one_owner_is_disagreement() -> None:
    """Goal (R2): an owner that holds nothing does not outvote, nor is it ignored: the read repairs it."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        with world.lost(ACCEPT, to=c):
            await a.put(b"v", side=b"inline")
        world.isolate(a)
        assert c.stored().ballot == NONE
        assert await c.get() == b"v"
        assert c.counts["identities"] == 1
        assert c.stored() == b.stored()._replace(side_id=c.stored().side_id)
        assert c.disk.tables["side"][c.stored().side_id] == encode_side(KEY, b"inline")

    simulate(scenario)


def test_r2_a_read_that_cannot_repair_gives_no_answer() -> None:
    """Goal (R2): owners disagree and the identity change cannot be accepted: 503, not one of the values."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.plant(b"left behind", world.ballot())
        world.isolate(c)
        with world.lost(ACCEPT):
            error = await error_of(a.get())
        assert isinstance(error, Unavailable)
        assert error.state_changed is False, "a repair changes no value"

    simulate(scenario)


def test_r2_a_refusal_judged_on_an_unchosen_value_makes_it_chosen() -> None:
    """Goal (R2): "it exists" is said only after the value that exists is held by a majority."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.plant(b"left behind", world.ballot())
        world.isolate(c)
        with pytest.raises(Conflict):
            await b.change(create(b"mine"))
        world.join_up()
        a.crash()
        assert await c.get() == b"left behind"

    simulate(scenario)


def test_r2_a_refusal_that_cannot_be_settled_is_503() -> None:
    """Goal (R2): without a majority that accepts the judged value, the condition is not decided."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.plant(b"left behind", world.ballot())
        world.isolate(c)
        with world.lost(ACCEPT):
            error = await error_of(a.change(create(b"mine")))
        assert isinstance(error, Unavailable)
        assert error.state_changed is False

    simulate(scenario)


def test_a_refusal_on_a_chosen_value_needs_no_second_round() -> None:
    """Goal: identical ballots on a majority are proof enough; a failed condition then writes nothing."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"v")
        await until(lambda: world.holding(b"v") == 3)
        with world.lost(ACCEPT) as accepts, pytest.raises(Conflict):
            await b.change(create(b"mine"))
        assert accepts.hits == 0

    simulate(scenario)


# --- damaged rows


def test_a_rotten_row_is_outvoted_and_replaced_by_the_next_change() -> None:
    """Goal (A4): two good owners serve; a change replaces the bad row, which then counts again."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"v")
        await until(lambda: world.holding(b"v") == 3)
        a.crash()
        rot(a.disk, "rows", KEY)
        a.open()
        await a.start()
        assert await a.get() == b"v"
        await asyncio.sleep(3)  # a restarted owner counts as having promised all ballots of some seconds (H2)
        await a.put(b"w")
        await until(lambda: world.holding(b"w") == 3)
        world.isolate(b)
        assert await c.get() == b"w"

    simulate(scenario)


def test_lost_inline_bytes_do_not_keep_a_change_for_ever() -> None:
    """Goal: the only owner of the highest ballot lost its side row: it abstains, the others answer, in time.

    The value there was never chosen, so what the majority holds stands.
    """

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"chosen", side=b"bytes")
        await until(lambda: world.holding(b"chosen") == 3)
        await a.plant(b"left behind", world.ballot(), side=b"lost")
        a.disk.tables["side"].pop(a.stored().side_id)
        start_s = world.now
        stands = await a.change(lambda _: Keep)
        assert world.now - start_s < 5
        assert stands.payload == b"chosen"
        await b.put(b"next", side=b"bytes")
        await until(lambda: world.holding(b"next") == 3)

    simulate(scenario)


# --- slow and silent owners


@pytest.mark.parametrize("first", ["read", "change"])
def test_a_silent_owner_costs_a_hedge_and_then_nothing(first: str) -> None:
    """Goal: a frozen owner that gossip believes alive delays the first request a little and the next not at all."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"v")
        silent = next(p for p in world.peers if p.id == a.replica.prefer(o.id for o in world.owners(KEY))[1])
        silent.env.pause()
        kinds = ["read", "change"] if first == "read" else ["change", "read"]
        for kind, most_s in zip(kinds * 2, (0.5, 0.1, 0.1, 0.1), strict=True):
            start_s = world.now
            await (a.get() if kind == "read" else a.put(b"w"))
            assert world.now - start_s < most_s
        silent.env.resume()

    simulate(scenario)


def test_a_read_whose_value_does_not_come_takes_it_from_another_owner() -> None:
    """Goal: the owner asked for the value dies; ballots of the others are there, so one of them gives it."""

    async def scenario(world: World, *peers: Peer) -> None:
        await peers[0].put(b"v")
        owners = world.owners(KEY)
        reader = next(peer for peer in peers if peer not in owners)
        await until(lambda: all(owner.holds() == b"v" for owner in owners))
        first = reader.replica.prefer(owner.id for owner in owners)[0]
        with world.lost(READ, to=next(owner for owner in owners if owner.id == first)):
            start_s = world.now
            assert await reader.get() == b"v"
            assert world.now - start_s < 0.5

    simulate(scenario, peers=5)


def test_a_peer_that_owns_nothing_of_a_key_coordinates_it() -> None:
    """Goal: any peer answers for any key; the row lies on the owners and nowhere else."""

    async def scenario(world: World, *peers: Peer) -> None:
        owners = world.owners(KEY)
        for peer in peers:
            await peer.change(appended(b"x"))
        assert [await peer.get() for peer in peers] == [b"xxxxx"] * 5
        assert all((peer.stored().ballot != NONE) == (peer in owners) for peer in peers)

    simulate(scenario, peers=5)


# --- one change at a time, and a bound


def test_one_coordinator_does_not_race_itself() -> None:
    """Goal: changes of one key through one peer queue up: no conflict, each done, in the order they came."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await asyncio.gather(*(a.change(appended(b"%d" % n)) for n in range(10)))
        assert await b.get() == b"0123456789"
        assert a.counts["conflicts"] == 0

    simulate(scenario)


def test_the_queue_has_a_bound_and_says_slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (P8): beyond the bound a change is refused at once; other keys are not concerned."""
    monkeypatch.setattr(turns, "QUEUE_MOST", 4)

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        tasks = [asyncio.ensure_future(a.change(appended(b"x"))) for _ in range(7)]
        other = asyncio.ensure_future(a.put(b"v", SPACE.row_key(b"other")))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [result for result in results if isinstance(result, AtollError)]
        assert [error.code for error in refused] == ["SlowDown"] * 2
        assert await b.get() == b"xxxxx"
        assert (await other).payload == b"v"

    simulate(scenario)


def test_a_queued_change_keeps_its_budget() -> None:
    """Goal: waiting counts: whoever stood behind a change that failed is answered within five seconds, too."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        world.isolate(a)
        first = asyncio.ensure_future(a.put(b"1"))
        await asyncio.sleep(0.1)
        started_s = world.now
        results = await asyncio.gather(*(a.put(b"n") for _ in range(5)), return_exceptions=True)
        assert all(isinstance(result, Unavailable) for result in results)
        assert world.now - started_s <= 5.0
        assert isinstance(await error_of(first), Unavailable)
        world.join_up()
        await a.put(b"later")
        assert await b.get() == b"later"

    simulate(scenario)


def test_a_cancelled_change_lets_the_next_one_in() -> None:
    """Goal: a client that goes away, whether its change runs or waits, does not block the key."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        running, queued, last = (asyncio.ensure_future(a.change(appended(b"%d" % n))) for n in range(3))
        await asyncio.sleep(0)
        queued.cancel()
        running.cancel()
        assert (await last).payload in (b"2", b"02")
        assert len(a.replica.registers._turns) == 0

    simulate(scenario)


# --- an owner seen from outside


def test_a_prepare_on_a_pending_commit_waits_for_it() -> None:
    """Goal (A2): a coordinator that meets a commit under way builds on it once it is durable."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        a.rows.traits.commit_s = 0.2
        accept = asyncio.ensure_future(a.plant(b"first,", world.ballot()))
        await asyncio.sleep(0.01)
        assert not accept.done()
        world.isolate(c)
        assert (await a.change(appended(b"second"))).payload == b"first,second"

    simulate(scenario)


def test_duplicates_of_every_message_change_nothing() -> None:
    """Goal: at-least-once delivery of each request is harmless."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        world.network.weather.duplicate = 1.0
        await asyncio.gather(*(peer.change(appended(b"x")) for peer in (a, b, c) * 3))
        world.network.weather.duplicate = 0.0
        assert await a.get() == b"x" * 9

    simulate(scenario)


def test_late_accepts_of_a_dead_coordinator_do_not_undo_what_followed() -> None:
    """Goal: accepts that were held in the network arrive after the key went on, and are refused."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        old = world.ballot(-SECOND_US)
        await b.put(b"went on")
        value = b"\x01op-id-99late"
        for peer in world.peers:
            assert (await peer.ask(ACCEPT, KEY, old, value, None, -1))[0] == CONFLICT
            assert (await peer.ask(BALLOT, KEY, -1))[0] == OK
        assert await c.get() == b"went on"

    simulate(scenario)


@pytest.mark.parametrize("coordinator", [0, 1])
def test_an_owner_with_damaged_inline_bytes_still_says_its_ballot(coordinator: int) -> None:
    """Goal: one owner's inline bytes are bad, another owner is cut off: the third one's value is agreed by two ballots."""

    async def scenario(world: World, *peers: Peer) -> None:
        a, b, c = peers
        await a.put(b"v", side=b"inline")
        await until(lambda: world.holding(b"v") == 3)
        world.isolate(c)
        rot(b.disk, "side", b.stored().side_id)  # type: ignore[arg-type]
        registers = peers[coordinator].replica.registers
        assert (await registers.read(KEY, want_side=True)).side == b"inline"
        assert registers.counts["identities"] == 0

    simulate(scenario)
