"""Listings over shards and owners: nothing missing, nothing made up, whatever one owner missed (L1 to L3)."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import Unavailable
from peer.replication.keys import SYSTEM, Space
from peer.replication.messages import ACCEPT, NO_GATE, READ, SCAN
from peer.replication.quorum import HEDGE_S
from peer.replication.registers.scan import Page, digest_of
from peer.replication.value import encode_row, wrap
from tests.replication_world import POWER, Peer, World, ballot_at, error_of, rot, simulate, until

THREE = Space(SYSTEM, b"scanning", 3, POWER)
ONE = Space(SYSTEM, b"scanning", 1, POWER)


async def put(peer: Peer, name: bytes, payload: bytes | None = b"v", space: Space = THREE) -> None:
    await peer.put(payload, space.row_key(name))


async def page(
    peer: Peer, start: bytes = b"", end: bytes = b"", limit: int = 100, space: Space = THREE
) -> Page:
    return await peer.replica.scans.page(space, start, end, limit, NO_GATE)


async def listing(peer: Peer, limit: int = 100, space: Space = THREE) -> list[bytes]:
    """All keys, page by page."""
    found: list[bytes] = []
    start = b""
    while True:
        one = await page(peer, start, b"", limit, space)
        assert len(one.entries) <= limit
        assert all(start <= key <= (one.bound or key) for key, _ in one.entries)
        found += [key for key, _ in one.entries]
        if one.bound is None:
            assert found == sorted(set(found))
            return found
        assert one.bound >= start
        start = one.bound + b"\0"


def in_shard(shard: int, prefix: bytes, count: int) -> list[bytes]:
    """Names with this prefix that fall into one shard of THREE, in order."""
    names = (b"%s%04d" % (prefix, number) for number in range(10_000))
    return list(islice((name for name in names if THREE.shard_of(name) == shard), count))


def scan_counts(peer: Peer) -> dict[str, int]:
    return peer.replica.scans.counts


# --- the plain case


@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.integers(0, 3)), max_size=25),
    st.integers(1, 9),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=25)
def test_l1_pages_hold_exactly_what_is_live(
    steps: list[tuple[int, bool, int]], limit: int, shards: int
) -> None:
    """Goal (L1, L2): after puts and deletes of which one owner misses some, pages of any size are the live keys."""
    space = Space(SYSTEM, b"scanning", shards, POWER)

    async def scenario(world: World, *peers: Peer) -> None:
        live: dict[bytes, bytes] = {}
        for number, (name, exists, missing) in enumerate(steps):
            key, payload = b"key %02d" % name, b"%d" % number
            misses = peers[missing] if missing < 3 else None
            coordinator = peers[(missing + 1) % 3]
            if misses is None:
                await put(coordinator, key, payload if exists else None, space)
            else:
                with world.lost(ACCEPT, to=misses):
                    await put(coordinator, key, payload if exists else None, space)
            if exists:
                live[key] = payload
            else:
                live.pop(key, None)
        for peer in peers:
            assert await listing(peer, limit, space) == sorted(live)
        assert dict((await page(peers[0], space=space)).entries) == live

    simulate(scenario)


def test_agreement_needs_no_second_round() -> None:
    """Goal: owners that agree are asked once: rows from one, a digest from another, no key read."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        names = [b"%02d" % number for number in range(20)]
        for name in names:
            await put(a, name)
        await put(a, names[3], None)
        await asyncio.sleep(1)
        with world.lost(READ) as reads:
            assert await listing(b) == names[:3] + names[4:]
        assert reads.hits == 0
        assert scan_counts(b) == {"pages": 1, "doubtful_shards": 0, "reads": 0}

    simulate(scenario)


def test_start_end_and_limit() -> None:
    """Goal: start is inclusive, end exclusive, b"" is no end, and a full page says where it ends."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for letter in b"abcdef":
            await put(a, bytes([letter]))
        assert [key for key, _ in (await page(b, b"b", b"e")).entries] == [b"b", b"c", b"d"]
        assert [key for key, _ in (await page(b, b"e")).entries] == [b"e", b"f"]
        first = await page(c, limit=4)
        assert ([key for key, _ in first.entries], first.bound) == ([b"a", b"b", b"c", b"d"], b"d")
        last = await page(c, b"d\0", limit=4)
        assert ([key for key, _ in last.entries], last.bound) == ([b"e", b"f"], None)

    simulate(scenario)


# --- L1: what is listed is chosen


def test_l1_a_key_that_one_owner_missed_is_listed() -> None:
    """Goal (L1): an acknowledged key is on two owners; whichever two are asked, it is on the page."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        with world.lost(ACCEPT, to=c):
            await put(a, b"key")
        for peer in (a, b, c):
            assert await listing(peer) == [b"key"]

    simulate(scenario)


def test_l1_a_deletion_that_one_owner_missed_does_not_come_back() -> None:
    """Goal (L1): the old row on one owner is outdated by a tombstone elsewhere: it is not listed."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await put(a, b"key")
        await asyncio.sleep(0.1)
        with world.lost(ACCEPT, to=c):
            await put(a, b"key", None)
        for silent in (a, b):
            world.isolate(silent)
            assert await listing(c) == []
            world.join_up()

    simulate(scenario)


def test_l1_a_key_listed_from_one_owner_is_chosen_before_it_is_listed() -> None:
    """Goal (L1): a value left on one owner is read, and so repaired, before a page shows it."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.plant(b"left behind", world.ballot(), THREE.row_key(b"key"))
        world.isolate(c)
        assert (await page(b)).entries == [(b"key", b"left behind")]
        world.join_up()
        a.crash()
        assert await c.get(THREE.row_key(b"key")) == b"left behind"
        assert await listing(c) == [b"key"]

    simulate(scenario)


def test_l1_payloads_are_those_of_the_highest_ballot() -> None:
    """Goal (L1): a listing shows the value that a read would, not the older one of whoever sent the rows."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await put(a, b"key", b"old")
        await asyncio.sleep(0.1)
        with world.lost(ACCEPT, to=c):
            await put(a, b"key", b"new")
        assert (await page(c)).entries == [(b"key", b"new")]

    simulate(scenario)


def test_l1_keys_present_throughout_are_never_missed_while_others_change() -> None:
    """Goal (P4): with writers and deleters at work, every page holds the untouched keys and no absent one."""
    stable = [b"stable %02d" % number for number in range(0, 20, 2)]
    absent = [b"stable %02d" % number for number in range(1, 20, 2)]

    async def scenario(world: World, *peers: Peer) -> None:
        for name in stable:
            await put(peers[0], name)
        for name in absent:
            await put(peers[0], name)
            await put(peers[0], name, None)

        async def churn(peer: Peer, number: int) -> None:
            for step in range(60):
                await put(peer, b"churn %d" % ((step + number) % 4), None if step % 3 == 0 else b"v")

        churning = [asyncio.ensure_future(churn(peer, number)) for number, peer in enumerate(peers)]
        with world.late(0.004, ACCEPT, to=peers[2]):
            for step in range(12):
                found = set(await listing(peers[step % 3], limit=7))
                assert found.issuperset(stable)
                assert found.isdisjoint(absent)
        await asyncio.gather(*churning)
        assert scan_counts(peers[0])["doubtful_shards"] > 0, "nothing disagreed: the test proves little"

    simulate(scenario)


def test_a_damaged_row_is_listed_from_a_good_owner() -> None:
    """Goal (A4, P5): a row that fails its checksum is neither shown nor left out."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for name in (b"a", b"b", b"c"):
            await put(a, name, b"payload of " + name)
        await asyncio.sleep(0.1)
        rot(a.disk, "rows", THREE.row_key(b"b"))
        a.crash()
        a.open()
        await a.start()
        assert (await page(a)).entries == [(name, b"payload of " + name) for name in (b"a", b"b", b"c")]

    simulate(scenario)


# --- L2: how far a page reaches


def test_l2_a_page_ends_where_a_truncated_answer_ends() -> None:
    """Goal (L2): one shard is full of tombstones and was cut off; what lies behind the cut waits for its page."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        dead = in_shard(0, b"a", 40)
        late = in_shard(0, b"b", 1)[0]
        other = in_shard(1, b"z", 1)[0]
        for name in dead:
            await put(a, name, None)
        await put(a, late)
        await put(a, other)
        await asyncio.sleep(0.1)
        first = await page(b, limit=10)
        assert first.entries == []
        assert first.bound in dead
        assert await listing(b, limit=10) == [late, other]

    simulate(scenario)


def test_l2_owners_that_were_cut_off_at_different_keys_agree_on_the_smaller() -> None:
    """Goal (L2): an owner that lacks rows reaches further with its page; the merge does not believe it there."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        names = in_shard(0, b"a", 60)
        with world.lost(ACCEPT, to=c):
            for name in names[::2]:
                await put(a, name)
        for name in names[1::2]:
            await put(a, name)
        await asyncio.sleep(0.1)
        for peer in (a, b, c):
            assert await listing(peer, limit=5) == names

    simulate(scenario)


# --- L3: silence is not emptiness


def test_l3_without_a_majority_there_is_no_page() -> None:
    """Goal (L3): two owners silent: 503, not the half that is known, and not an empty page."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await put(a, b"key")
        world.isolate(a)
        assert isinstance(await error_of(page(a)), Unavailable)

    simulate(scenario)


def test_l3_one_silent_owner_is_done_without() -> None:
    """Goal: whichever owner is silent, rows' or digest's, the others make a majority."""

    async def scenario(world: World, *peers: Peer) -> None:
        await put(peers[0], b"key")
        await asyncio.sleep(0.1)
        for silent in peers:
            world.isolate(silent)
            for peer in peers:
                if peer is not silent:
                    assert await listing(peer) == [b"key"]
            world.join_up()

    simulate(scenario)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_silent_owner_costs_one_hedge(which: int) -> None:
    """Goal: an owner that is believed alive and does not answer, of rows or of digests, is overtaken after HEDGE_S, and
    asked last for the pages that follow. A page took two seconds or four."""

    async def scenario(world: World, *peers: Peer) -> None:
        await put(peers[0], b"key")
        await asyncio.sleep(0.1)
        silent = peers[which]
        world.silence(silent)
        for peer in peers:
            if peer is not silent:
                begun_s = world.now
                assert await listing(peer) == [b"key"]
                first_s, begun_s = world.now - begun_s, world.now
                assert await listing(peer) == [b"key"]
                assert first_s < HEDGE_S + 0.05 and world.now - begun_s < 0.05

    simulate(scenario)


def test_a_hedged_page_is_as_whole_as_another() -> None:
    """Goal (L1): a spare's rows beside the digest of an owner that lacks a key: they differ, and the key is read."""
    for which in range(3):

        async def scenario(world: World, *peers: Peer, which: int = which) -> None:
            lagging, silent, asker = peers[which], peers[(which + 1) % 3], peers[(which + 2) % 3]
            await put(asker, b"seen by all")
            with world.lost(ACCEPT, to=lagging):
                await put(asker, b"seen by two")
                await put(asker, b"seen by all", None)
            world.silence(silent)
            for _ in range(2):
                assert await listing(asker) == [b"seen by two"]

        simulate(scenario)


def test_an_owner_that_is_merely_slow_is_still_heard() -> None:
    """Goal: with every spare silent the late answer itself makes the page."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await put(a, b"key")
        await asyncio.sleep(0.1)
        world.silence(c)
        with world.late(3 * HEDGE_S, SCAN, to=b):
            begun_s = world.now
            assert await listing(a) == [b"key"]
            assert world.now - begun_s < 5 * HEDGE_S

    simulate(scenario)


def test_l3_many_peers_each_answer_for_their_shards_only() -> None:
    """Goal (L3): with more peers than owners the shards lie apart, and a page is still whole from everywhere."""
    space = Space(SYSTEM, b"scanning", 16, POWER)
    names = [b"%03d" % number for number in range(60)]

    async def scenario(world: World, *peers: Peer) -> None:
        for number, name in enumerate(names):
            await put(peers[number % 6], name, space=space)
        world.isolate(peers[5])
        for peer in peers[:5]:
            assert await listing(peer, 25, space) == names

    simulate(scenario, peers=6)


def test_l3_requests_are_batched_per_peer() -> None:
    """Goal: a page over 16 shards costs each peer a request or two, not one a shard."""
    space = Space(SYSTEM, b"scanning", 16, POWER)

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for number in range(30):
            await put(a, b"%d" % number, space=space)
        await asyncio.sleep(0.1)
        with world.when(lambda: None, SCAN) as scans:
            await page(a, space=space)
        assert scans.hits <= 2

    simulate(scenario)


# --- digests


@given(
    st.lists(st.tuples(st.binary(max_size=6), st.integers(0, 5)), max_size=6, unique_by=lambda row: row[0])
)
@settings(deadline=None, max_examples=60)
def test_a_digest_sees_keys_and_ballots_and_nothing_else(rows: list[tuple[bytes, int]]) -> None:
    """Goal: equal exactly if keys and ballots are; cutting rows behind the ballot changes nothing."""
    stored = [
        (key, encode_row(key, ballot_at(n), 0, wrap(b"x", b"", b"op-id-01"))) for key, n in sorted(rows)
    ]
    cut = [(key, row[:25]) for key, row in stored]
    assert digest_of(stored) == digest_of(cut)
    others = [
        (key, encode_row(key, ballot_at(n), 7, wrap(None, b"", b"op-id-02"))) for key, n in sorted(rows)
    ]
    assert digest_of(others) == digest_of(stored)
    for at in range(len(stored)):
        key, number = sorted(rows)[at]
        changed = list(stored)
        changed[at] = (key, encode_row(key, ballot_at(number + 1), 0, b""))
        assert digest_of(changed) != digest_of(stored)
        assert digest_of(stored[:at] + stored[at + 1 :]) != digest_of(stored)


@pytest.mark.parametrize("limit", [1, 1000, 5000])
def test_a_page_is_bounded_whatever_is_asked(limit: int) -> None:
    """Goal (P8): a page holds at most a thousand rows and one, however many a client wants."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        prefix = ONE.prefix(0)
        rows = [(prefix + b"%05d" % n, wrap(b"v", b"", b"op-id-01")) for n in range(1200)]
        for peer in world.peers:
            writes = [("rows", key, encode_row(key, ballot_at(1), 0, value)) for key, value in rows]
            peer.rows.commit(writes, lambda error: None)
        await until(lambda: all(len(peer.disk.tables["rows"]) == 1200 for peer in world.peers))
        found = await page(a, limit=limit, space=ONE)
        assert len(found.entries) == min(limit, 1001)
        assert found.bound == found.entries[-1][0]

    simulate(scenario)


LONG = b"k" * 1018
"""With six digits behind it a key of 1,024 bytes."""


async def fill(peers: list[Peer], space: Space, keys: list[bytes], value_bytes: int) -> None:
    """Give each of these owners rows with values of this size, all under one ballot."""
    rows = [(space.row_key(key), wrap(b"v" * value_bytes, b"", b"op-id-01")) for key in keys]
    for peer in peers:
        owned = [(key, value) for key, value in rows if peer.id in peer.replica.owners_of_row(key).everyone]
        futures = [peer.env.future() for _ in owned]
        for (key, value), future in zip(owned, futures, strict=True):
            peer.rows.commit([("rows", key, encode_row(key, ballot_at(1), 0, value))], future.set_result)
        assert await asyncio.gather(*futures) == [None] * len(owned)


@pytest.mark.parametrize("shards", [1, 2, 50, 64, 300])
@pytest.mark.parametrize("value_bytes", [200, 8_000])
def test_l5_answers_of_long_keys_and_much_metadata_fit_into_messages(shards: int, value_bytes: int) -> None:
    """Goal (L5): pages of a thousand of the longest keys with large heads are listed whole, and digests agree with rows:
    both are cut at the same key. The network takes no message that a peer would refuse."""
    space = Space(SYSTEM, b"scanning", shards, POWER)
    keys = [LONG + b"%06d" % number for number in range(1500)]

    async def scenario(world: World, a: Peer, *others: Peer) -> None:
        await fill(world.peers, space, keys, value_bytes)
        assert await listing(a, 1000, space) == keys
        assert scan_counts(a)["doubtful_shards"] == 0
        assert scan_counts(a)["reads"] == 0

    simulate(scenario, peers=6)


def test_l5_doubtful_answers_fit_as_well() -> None:
    """Goal (L5): when owners disagree, all of them send rows, of every shard."""
    space = Space(SYSTEM, b"scanning", 64, POWER)
    keys = [LONG + b"%06d" % number for number in range(800)]

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await fill([a, b, c], space, keys, 8_000)
        for number in range(0, 800, 100):
            row = space.row_key(keys[number])
            for peer in (b, c):
                del peer.disk.tables["rows"][row]
        assert await listing(a, 1000, space) == keys
        assert scan_counts(a)["doubtful_shards"] > 0

    simulate(scenario)
