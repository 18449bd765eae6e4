"""Copying registers between owners: digests follow every commit, and a pull brings what was missed, and only that."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from peer.replication.copying.digests import LEAVES, SLICE_ROWS, Digests, entry_of, leaf_of
from peer.replication.copying.registersync import REGISTERS, RegisterSide, ranges_of
from peer.replication.copying.sync import ASK_S
from peer.replication.keys import SYSTEM, Space, partition_in
from peer.replication.messages import COPY_LEAVES, NO_GATE, OK, PREPARE
from peer.replication.registers.register import Current, Put
from peer.replication.value import encode_row, encode_side, wrap
from tests.replication_world import KEY, POWER, SPACE, Peer, World, ballot_at, rot, simulate, until

PARTITION = partition_in(KEY)


def keys(count: int) -> list[bytes]:
    return [SPACE.row_key(b"key %d" % number) for number in range(count)]


async def write(peer: Peer, key: bytes, payload: bytes) -> None:
    await peer.replica.registers.change(key, lambda _: Put(payload))


def side_of(peer: Peer) -> RegisterSide:
    side = peer.replica.copies.side(REGISTERS)
    assert isinstance(side, RegisterSide)
    return side


def digest_by_hand(peer: Peer) -> bytes:
    """The leaves as the rows on the disk give them."""
    leaves = [0] * LEAVES
    for start, end in ranges_of(PARTITION):
        for key in peer.disk.tables["rows"].irange(start, end, inclusive=(True, False)):
            leaves[leaf_of(key)] ^= entry_of(key, peer.stored(key).ballot)
    return b"".join(leaf.to_bytes(8, "big") for leaf in leaves)


def test_a_digest_dropped_while_a_pull_waits_for_an_answer() -> None:
    """Goal: two pulls of one partition, or a chunk that changes, may drop the digest under a pull; it is built anew."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        with world.lost(sender=a, to=c):
            await write(a, KEY, b"missed")
        digests = side_of(c).digests
        with world.when(lambda: digests.drop(PARTITION), COPY_LEAVES, to=a) as dropped:
            pulled = await c.replica.copies.pull(REGISTERS, a.id, [PARTITION])
        assert dropped.hits == 1 and pulled.rows == 1 and c.holds() == b"missed"

    simulate(scenario)


# --- digests


@given(
    st.lists(
        st.tuples(st.integers(0, 1200), st.integers(1, 9), st.sampled_from(["commit", "commit", "scan"])),
        max_size=60,
    ),
    st.integers(0, 2 * SLICE_ROWS + 7),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=150)
def test_a_digest_built_beside_commits_is_that_of_the_rows(
    events: list[tuple[int, int, str]], there: int, seed: int
) -> None:
    """Goal (D1, D2): whatever commits before, behind, at and ahead of the scan's cursor, also while a commit is visible
    and not yet told of, the digest in the end is that of the rows."""
    rng = random.Random(seed)
    rows = {b"%06d" % (2 * number): b"v0" for number in range(there)}
    untold: dict[bytes, tuple[bytes | None, bytes]] = {}  # visible, not yet folded: (base, new)

    def scan(start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes | None]]:
        found = sorted(key for key in rows if start <= key < end)[:limit]
        return [(key, untold[key][0] if key in untold else rows[key]) for key in found]

    digests = Digests(scan, lambda _: [(b"", b"5"), (b"5", b"\xff")], lambda _: 0)

    def tell(key: bytes) -> None:
        digests.fold(key, *untold.pop(key))

    building = digests.build(0)
    for number, version, event in events:
        key = b"%06d" % number
        if event == "scan":
            next(building, None)
            continue
        if key in untold:
            tell(key)
        untold[key] = rows.get(key), b"v%d" % version
        rows[key] = b"v%d" % version
        if rng.random() < 0.5:
            tell(key)
    for key in list(untold):
        tell(key)
    for _ in building:
        pass
    for _ in digests.build(0):
        pass
    expected = [0] * LEAVES
    for key, row in rows.items():
        expected[leaf_of(key)] ^= entry_of(key, row)
    assert digests.leaves(0) == b"".join(leaf.to_bytes(8, "big") for leaf in expected)


def test_digests_follow_every_commit() -> None:
    """Goal: after writes, overwrites and deletes the digest is the one the rows on the disk give, on every owner."""

    async def scenario(world: World, *peers: Peer) -> None:
        for peer in peers:
            await peer.replica.copies.build(side_of(peer), [PARTITION])
        for number, key in enumerate(keys(30)):
            await write(peers[number % 3], key, b"one")
        await asyncio.gather(*(write(peers[number % 3], key, b"two") for number, key in enumerate(keys(20))))
        await peers[0].replica.registers.change(keys(3)[2], lambda _: Put(None))
        await asyncio.sleep(1)
        for peer in peers:
            assert side_of(peer).digests.leaves(PARTITION) == digest_by_hand(peer)
        roots = {side_of(peer).digests.root(PARTITION) for peer in peers}
        assert len(roots) == 1, "owners that hold the same have the same digest"

    simulate(scenario)


def test_a_commit_that_failed_leaves_the_digest_as_it_was() -> None:
    """Goal (D1): a full disk changes no row and no digest."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await write(a, KEY, b"one")
        await asyncio.sleep(1)
        await c.replica.copies.build(side_of(c), [PARTITION])
        before = side_of(c).digests.leaves(PARTITION)
        c.disk.full = True
        await write(a, KEY, b"two")
        await asyncio.sleep(1)
        assert side_of(c).digests.leaves(PARTITION) == before == digest_by_hand(c)
        c.disk.full = False
        await write(a, KEY, b"three")
        await until(lambda: side_of(c).digests.leaves(PARTITION) != before)
        assert side_of(c).digests.leaves(PARTITION) == digest_by_hand(c)

    simulate(scenario)


# --- pulling


def test_a_pull_brings_what_was_missed_and_costs_what_differs() -> None:
    """Goal: an owner that was cut off pulls the ten keys it missed out of four hundred; of the rest it learns nothing
    but digests; inline bytes and tombstones come along."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for key in keys(400):
            await write(a, key, b"x" * 50)
        await asyncio.sleep(1)
        world.isolate(c)
        for key in keys(9):
            await a.replica.registers.change(key, lambda _: Put(b"new", b"inline bytes"))
        await a.replica.registers.change(keys(10)[9], lambda _: Put(None))
        world.join_up()
        pulled = await c.replica.copies.pull(REGISTERS, a.id, [PARTITION])
        assert (pulled.rows, pulled.settled) == (10, 0)
        assert pulled.bytes < 400 * 40, "less than all keys with their ballots"
        for key in keys(10):
            assert c.stored(key).ballot == a.stored(key).ballot and c.stored(key).value == a.stored(key).value
        current = await c.replica.registers.read(keys(1)[0], want_side=True)
        assert current.side == b"inline bytes"
        again = await c.replica.copies.pull(REGISTERS, a.id, [PARTITION])
        assert (again.rows, again.settled) == (0, 0) and again.bytes < 100
        assert side_of(c).digests.leaves(PARTITION) == digest_by_hand(c)

    simulate(scenario)


def test_a_write_during_a_digest_rebuild_is_seen_by_the_next_exchange() -> None:
    """Schedule 12: writes that commit behind and ahead of the cursor while a source's digest is scanned anew, and that one
    owner missed, are what the next comparison brings; afterwards the digests are equal."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        ordered = sorted(keys(3 * SLICE_ROWS))
        await asyncio.gather(*(write(a, key, b"old") for key in ordered))
        await c.replica.copies.pull(REGISTERS, a.id, [PARTITION])
        for peer in (a, b, c):
            await peer.replica.copies.build(side_of(peer), [PARTITION])
        side_of(a).digests.drop(PARTITION)
        rebuild = side_of(a).digests.build(PARTITION)
        next(rebuild)
        assert not side_of(a).digests.ready(PARTITION)
        with world.lost(sender=a, to=c):
            for key in (ordered[0], ordered[-1]):
                await write(a, key, b"new")
        for _ in rebuild:
            pass
        assert c.holds(ordered[0]) == c.holds(ordered[-1]) == b"old"
        pulled = await c.replica.copies.pull(REGISTERS, a.id, [PARTITION])
        assert pulled.rows == 2 and c.holds(ordered[0]) == c.holds(ordered[-1]) == b"new"
        assert side_of(a).digests.root(PARTITION) == side_of(c).digests.root(PARTITION)
        assert side_of(a).digests.leaves(PARTITION) == digest_by_hand(a)

    simulate(scenario)


def test_what_is_newer_here_stays() -> None:
    """Goal (Y1): a pull from an owner that is behind changes nothing."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await write(a, KEY, b"old")
        await asyncio.sleep(1)
        world.isolate(c)
        await write(a, KEY, b"new")
        world.join_up()
        pulled = await a.replica.copies.pull(REGISTERS, c.id, [PARTITION])
        assert pulled.rows == 0 and a.holds() == b"new"

    simulate(scenario)


def test_y2_what_a_promise_refuses_is_settled() -> None:
    """Goal (Y2): a row below a promise made meanwhile is not forced; the identity change brings both to one state."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        world.isolate(c)
        await write(a, KEY, b"chosen without c")
        world.join_up()
        assert (await c.ask(PREPARE, KEY, world.ballot(1_000_000), NO_GATE, False))[0] == OK
        pulled = await c.replica.copies.pull(REGISTERS, a.id, [PARTITION])
        assert (pulled.rows, pulled.settled) == (0, 1)
        await until(lambda: world.holding(b"chosen without c") == 3)

    simulate(scenario)


def test_y3_a_damaged_row_is_never_absent() -> None:
    """Goal (Y3): the source cannot read its row; the puller gets the value all the same, from the others."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        world.isolate(c)
        await write(a, KEY, b"chosen")
        world.join_up()
        rot(a.disk, "rows", KEY)
        side_of(a).digests.drop(PARTITION)
        c_before = c.holds()
        pulled = await c.replica.copies.pull(REGISTERS, a.id, [PARTITION])
        assert c_before is None and pulled.settled >= 1
        current: Current = await c.replica.registers.read(KEY)
        assert current.payload == b"chosen"

    simulate(scenario)


def test_ranges_hold_a_partition_and_nothing_else() -> None:
    """Goal: the ranges of neighbouring partitions meet, the last one of a table ends before the next table."""
    for partition in (0, 1, 255, 256, (1 << 16) - 1):
        for start, end in ranges_of(partition):
            assert partition_in(start) == partition and start[0] in (1, 2, 3)
            assert start < start + b"\xff" * 1100 < end
            assert len(end) in (1, 3)
    assert [end for _, end in ranges_of(7)] == [start for start, _ in ranges_of(8)]


def test_copies_of_long_keys_and_large_values_fit_into_messages() -> None:
    """Goal: a thousand of the longest keys with large heads and inline bytes are listed and fetched in parts that fit."""
    shard = Space(SYSTEM, b"copying!", 1, POWER)
    rows = [shard.row_key(b"k" * 1018 + b"%06d" % number) for number in range(1100)]

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for peer in (a, c):
            writes: list[tuple[str, Any, bytes]] = []
            for number, key in enumerate(rows, 1):
                value = wrap(b"v" * 8_000, b"", b"op-id-01")
                writes.append(("rows", key, encode_row(key, ballot_at(1), number, value)))
                writes.append(("side", number, encode_side(key, bytes(16_384))))
            done = peer.env.future()
            peer.rows.commit(writes, done.set_result)
            assert await done is None
        pulled = await b.replica.copies.pull(REGISTERS, a.id, [partition_in(rows[0])])
        assert pulled.rows == len(rows)
        assert all(b.holds(key) is not None for key in rows)
        answer = a.replica.copies.side(REGISTERS).fetch(rows[:256])
        size = sum(len(value) + len(side or b"") for _, _, value, side in answer)
        assert 4 * size / 500_000 < ASK_S, "four at once come in time over half a megabyte a second"

    simulate(scenario)
