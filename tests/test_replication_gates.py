"""Gates beside the shards of a bucket, and the creation and deletion of buckets over them (K1, K2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from peer.errors import AtollError, Conflict, NotFound
from peer.objects.buckets import Buckets
from peer.objects.heads import Bucket
from peer.replication.keys import OBJECT, Space, gate_key_of
from peer.replication.messages import ABSTAIN, ACCEPT, GATE_REFUSED, IS_FULL, OK, PREPARE, SCAN
from peer.replication.registers import gates as module
from peer.replication.registers.gates import BEHIND, CLOSED, OPEN, gate_payload
from peer.replication.registers.register import Current, GateRefused, Put
from peer.replication.registers.scan import answer_scan
from peer.replication.value import payload_of
from tests.replication_owner import Owner
from tests.replication_world import POWER, Peer, World, ballot_at, error_of, simulate, until

SPACE = Space(OBJECT, b"bucket-1", 1, POWER)
KEY = SPACE.row_key(b"key")
GATE_KEY = gate_key_of(KEY)


async def set_gate(owner: Owner, counter: int, state: int, generation: int) -> None:
    assert await owner.accept(ballot_at(counter), gate_payload(state, generation), GATE_KEY) == (OK,)


# --- one owner's gate


def test_who_may_pass() -> None:
    """Goal: absent and closed gates refuse; an open one admits its own generation and requests that know a newer."""
    owner = Owner()

    async def scenario() -> None:
        assert await owner.read(KEY, gate=1) == (GATE_REFUSED, "absent", 0)
        await set_gate(owner, 1, OPEN, 5)
        assert await owner.read(KEY, gate=4) == (GATE_REFUSED, "newer", 5)
        for generation in (5, 6):
            assert (await owner.read(KEY, gate=generation))[0] == OK
        assert await owner.read(KEY, gate=BEHIND - 5) == (GATE_REFUSED, "open", 5)
        await set_gate(owner, 2, CLOSED, 6)
        for generation in (5, 6, 7):
            assert await owner.read(KEY, gate=generation) == (GATE_REFUSED, "closed", 6)
        assert (await owner.read(KEY, gate=BEHIND - 6))[0] == OK
        assert await owner.read(KEY, gate=BEHIND - 5) == (GATE_REFUSED, "open", 6)
        assert await owner.accept(ballot_at(3), None, GATE_KEY) == (OK,)
        assert await owner.read(KEY, gate=9) == (GATE_REFUSED, "absent", 0)

    owner.run(scenario())


def test_a_scan_waits_for_the_gate_it_looks_behind() -> None:
    """Goal: a gate that closes behind a put shows a scan that put, though both commits were pending when it came (L4):
    a bucket was found empty and deleted, and then the put was acknowledged."""
    owner = Owner()

    async def scenario() -> None:
        await set_gate(owner, 1, OPEN, 1)
        put = owner.accept(ballot_at(2), b"payload", KEY, gate=1)
        closing = owner.accept(ballot_at(2), gate_payload(CLOSED, 2), GATE_KEY)
        found: asyncio.Future[Any] = owner.loop.create_future()
        message = (SCAN, 0, [SPACE.prefix(0)], b"", b"", 10, BEHIND - 2, 0)
        acceptor = owner.acceptor
        answer_scan(owner.rows, acceptor.gates, acceptor.waits_for, message, found.set_result)
        assert not (put.done() or closing.done() or found.done())
        status, answers = await found
        assert status == OK and put.done() and closing.done()
        assert [key for key, _ in answers[0][2]] == [KEY]

    owner.run(scenario())


def test_every_request_passes_the_gate() -> None:
    """Goal: prepare, accept, read and scan of a shard are all refused; rows without gates are not concerned."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        requests: list[tuple[Any, ...]] = [
            (PREPARE, KEY, world.ballot(), 1, False),
            (ACCEPT, KEY, world.ballot(), b"\0v", None, 1),
            (3, KEY, 1, False),
            (4, KEY, 1),
            (5, [SPACE.prefix(0)], b"", b"", 10, 1, 0),
        ]
        for request in requests:
            assert await a.ask(*request) == (GATE_REFUSED, "absent", 0)
        assert KEY not in a.disk.tables["rows"]
        await a.put(b"no gate is asked for")

    simulate(scenario)


def test_a_gate_holds_from_the_moment_it_is_queued() -> None:
    """Goal (commit order): what is queued behind a closing gate is refused, what was queued before it commits."""
    owner = Owner()

    async def scenario() -> None:
        await set_gate(owner, 1, OPEN, 1)
        before = owner.accept(ballot_at(9), b"before", KEY, gate=1)
        closing = owner.accept(ballot_at(2), gate_payload(CLOSED, 2), GATE_KEY)
        after = owner.accept(ballot_at(10), b"after", KEY, gate=1)
        assert after.done()
        assert after.result() == (GATE_REFUSED, "closed", 2)
        assert await closing == (OK,)
        assert before.done(), "the closed gate is durable, so all it let through is"
        assert payload_of(owner.stored(KEY).value) == b"before"

    owner.run(scenario())


def test_a_prepare_that_waited_meets_the_gate_again() -> None:
    """Goal: a request that waited for a commit is judged by the gate as it is then."""
    owner = Owner()

    async def scenario() -> None:
        await set_gate(owner, 1, OPEN, 1)
        owner.accept(ballot_at(9), b"v", KEY, gate=1)
        waiting = owner.prepare(ballot_at(20), KEY, gate=1)
        closing = owner.accept(ballot_at(2), gate_payload(CLOSED, 2), GATE_KEY)
        assert await waiting == (GATE_REFUSED, "closed", 2)
        assert await closing == (OK,)

    owner.run(scenario())


def test_a_gate_that_did_not_fit_on_the_disk_stays_as_it_was() -> None:
    """Goal: a full disk rolls the gate back, in memory too."""
    owner = Owner()

    async def scenario() -> None:
        await set_gate(owner, 1, OPEN, 1)
        owner.disk.full = True
        assert await owner.accept(ballot_at(2), gate_payload(CLOSED, 2), GATE_KEY) == (IS_FULL, True)
        assert (await owner.read(KEY, gate=1))[0] == OK
        owner.disk.full = False
        await set_gate(owner, 3, CLOSED, 2)
        assert (await owner.read(KEY, gate=1))[0] == GATE_REFUSED

    owner.run(scenario())


def test_a_gate_survives_a_restart() -> None:
    """Goal: the row is the truth; the memory is a cache of it."""
    owner = Owner()

    async def scenario() -> None:
        await set_gate(owner, 1, CLOSED, 3)
        owner.crash()
        assert await owner.read(KEY, gate=3) == (GATE_REFUSED, "closed", 3)

    owner.run(scenario())


def test_a_queued_gate_that_left_the_cache_still_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (commit order): when the cache is full, the old row is not believed while the new one is under way."""
    monkeypatch.setattr(module, "GATES_KEPT", 4)
    owner = Owner()

    async def scenario() -> None:
        await set_gate(owner, 1, OPEN, 1)
        closing = owner.accept(ballot_at(2), gate_payload(CLOSED, 2), GATE_KEY)
        for number in range(8):
            await owner.read(Space(OBJECT, b"%08d" % number, 1, POWER).row_key(b"key"), gate=1)
        late = owner.accept(ballot_at(10), b"late", KEY, gate=1)
        assert not closing.done()
        assert late.result() == (GATE_REFUSED, "closed", 2)
        assert await closing == (OK,)

    owner.run(scenario())


def test_a_damaged_gate_abstains_until_it_is_rewritten() -> None:
    """Goal (A4): a gate that cannot be read is neither open nor absent."""
    owner = Owner()

    async def scenario() -> None:
        await set_gate(owner, 1, OPEN, 1)
        owner.crash()
        owner.rot(GATE_KEY)
        assert (await owner.read(KEY, gate=1))[0] == ABSTAIN
        await set_gate(owner, 10_000_000, OPEN, 1)
        assert (await owner.read(KEY, gate=1))[0] == OK

    owner.run(scenario())


# --- buckets


def buckets_of(peer: Peer) -> Buckets:
    return Buckets(peer.replica)


def row_in(bucket: Bucket, name: bytes = b"key") -> bytes:
    return bucket.objects(POWER).row_key(name)


async def write(peer: Peer, bucket: Bucket, payload: bytes | None = b"v", name: bytes = b"key") -> Current:
    """What an object's put does: a change under the bucket's generation."""
    row = row_in(bucket, name)
    return await peer.replica.registers.change(row, lambda _: Put(payload), gate=bucket.generation)


async def no_look(bucket: Bucket) -> bool:
    """A first look that came before the writers did: the deletion goes on to close the gates."""
    return False


def gates_at(peer: Peer, bucket: Bucket) -> set[bytes | None]:
    """The distinct gate payloads this owner's disk holds for the bucket."""
    space = bucket.objects(POWER)
    return {peer.holds(gate_key_of(space.prefix(shard))) for shard in range(bucket.shards)}


def test_a_bucket_lives_and_dies() -> None:
    """Goal: created once, found through every peer, refused to be deleted while it holds a key, then gone."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        bucket, created = await buckets_of(a).create("photos", 4)
        again, created_again = await buckets_of(b).create("photos", 9)
        assert (created, created_again) == (True, False)
        assert again == bucket == await buckets_of(c).find("photos")
        await write(c, bucket)
        error = await error_of(buckets_of(b).delete("photos"))
        assert (type(error), error.code) == (Conflict, "BucketNotEmpty")
        assert await buckets_of(b).find("photos", fresh=True) == bucket
        await write(a, bucket, None)
        await buckets_of(c).delete("photos")
        assert isinstance(await error_of(buckets_of(a).find("photos", fresh=True)), NotFound)
        assert await buckets_of(a).list() == ([], None)

    simulate(scenario)


def test_racing_creators_get_one_bucket() -> None:
    """Goal (P3): every peer creates the name at once: one of them did, all know the same bucket, its gates open."""

    async def scenario(world: World, *peers: Peer) -> None:
        results = await asyncio.gather(*(buckets_of(peer).create("photos", 2) for peer in peers))
        assert sum(created for _, created in results) == 1
        assert len({bucket.id for bucket, _ in results}) == 1
        await write(peers[1], results[0][0])

    simulate(scenario)


def test_a_new_bucket_of_an_old_name_is_empty() -> None:
    """Goal: a name made anew has a new id, so nothing of the old bucket shows, and old records do not reach in."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        old, _ = await buckets_of(a).create("photos", 2)
        await buckets_of(a).delete("photos")
        new, created = await buckets_of(b).create("photos", 2)
        assert created
        assert new.id != old.id
        error = await error_of(write(c, old))
        assert isinstance(error, GateRefused)
        assert error.state == "closed"

    simulate(scenario)


def test_k1_a_gates_generation_only_rises() -> None:
    """Goal (K1): a finisher that was held up sets its older generation nowhere, neither open nor closed."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        bucket, _ = await buckets_of(a).create("photos", 2)
        await write(a, bucket)
        decides = buckets_of(a)
        decides._surely_holds = no_look  # type: ignore[method-assign]
        await error_of(decides.delete("photos"))  # closed at 2, decided to stay, open again at 3
        stays = await buckets_of(b).find("photos", fresh=True)
        late = buckets_of(c)
        for state, generation in ((CLOSED, 2), (OPEN, 1), (CLOSED, 3)):
            await late._set_gates(bucket, state, generation)
        await until(lambda: gates_at(a, bucket) == gates_at(b, bucket) == {gate_payload(OPEN, 3)})
        await write(c, stays, b"still writable")

    simulate(scenario)


def test_k2_nothing_is_written_between_closing_and_decision() -> None:
    """Goal (K2): while the deletion looks, every write is refused, also by peers that have the bucket cached."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        bucket, _ = await buckets_of(a).create("photos", 2)
        refused = []

        async def knock() -> None:
            error = await error_of(write(c, bucket))
            assert isinstance(error, GateRefused)
            refused.append(error.state)

        decide = buckets_of(a)
        look = decide._is_empty

        async def look_while_somebody_writes(space: Any, generation: int) -> bool:
            await knock()
            empty = await look(space, generation)
            await knock()
            return empty

        decide._is_empty = look_while_somebody_writes  # type: ignore[method-assign]
        await decide.delete("photos")
        assert refused == ["closed", "closed"]
        assert not any(peer.holds(row_in(bucket)) for peer in world.peers)

    simulate(scenario)


@pytest.mark.parametrize("late_ms", range(0, 24, 2))
def test_k2_a_racing_write_is_kept_or_refused(late_ms: int) -> None:
    """Goal (K2): a put races the deletion at any moment: acknowledged and the bucket stays, or refused and it goes."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        bucket, _ = await buckets_of(a).create("photos", 2)
        deleting = asyncio.ensure_future(buckets_of(a).delete("photos"))
        await asyncio.sleep(late_ms / 1000)
        outcomes = await asyncio.gather(write(c, bucket), deleting, return_exceptions=True)
        written = isinstance(outcomes[0], Current)
        deleted = outcomes[1] is None
        assert written != deleted, outcomes
        if written:
            stays = await buckets_of(b).find("photos", fresh=True)
            read = await b.replica.registers.read(row_in(stays), gate=stays.generation)
            assert read.payload == b"v"
        else:
            assert isinstance(outcomes[0], AtollError)
            assert isinstance(await error_of(buckets_of(b).find("photos", fresh=True)), NotFound)

    simulate(scenario)


def test_a_value_that_one_owner_holds_is_settled_before_the_bucket_goes() -> None:
    """Goal: what a dead coordinator left on one owner is either seen, and the bucket stays, or can never show."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        bucket, _ = await buckets_of(a).create("photos", 1)
        left = (ACCEPT, row_in(bucket), world.ballot(), b"\0left", None, bucket.generation)
        assert await a.ask(*left) == (OK,)
        world.isolate(c)
        assert isinstance(await error_of(buckets_of(b).delete("photos")), Conflict)
        world.join_up()
        assert b.holds(row_in(bucket)) == b"left"

    simulate(scenario)


def test_a_deletion_whose_peer_died_is_finished_by_another() -> None:
    """Goal: the name is marked and the gates are closed; after a while any peer decides, at first it asks for patience."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await buckets_of(a).create("photos", 2)
        dying = buckets_of(a)

        async def die(space: Any, generation: int) -> bool:
            a.crash()
            await asyncio.sleep(60)
            return True

        dying._is_empty = die  # type: ignore[method-assign]
        gone = asyncio.ensure_future(dying.delete("photos"))
        await until(lambda: a.env.dead)
        assert (await error_of(buckets_of(b).find("photos", fresh=True))).status == 503
        await asyncio.sleep(20)
        assert isinstance(await error_of(buckets_of(b).find("photos", fresh=True)), NotFound)
        _, created = await buckets_of(c).create("photos", 2)
        assert created
        gone.cancel()

    simulate(scenario)


def test_an_owner_that_missed_the_gates_is_brought_up() -> None:
    """Goal: a bucket made while an owner was away works with it and one more owner, once its gates are healed."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        world.isolate(c)
        bucket, _ = await buckets_of(a).create("photos", 2)
        world.join_up()
        assert gates_at(c, bucket) == {None}
        await buckets_of(b).heal_gates(bucket)
        await until(lambda: gates_at(c, bucket) == {gate_payload(OPEN, 1)}, 5)
        world.isolate(a)
        await write(c, bucket)

    simulate(scenario)
