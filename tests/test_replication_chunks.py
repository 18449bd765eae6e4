"""Chunks on their owners: durable at a majority, stored once, verified, and no buffer lost (C1 to C4 of chunks.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from peer.errors import AtollError, Corrupt, Full, Unavailable
from peer.replication.chunks.rows import QUARANTINED, chunk_key, decode_chunk_row, encode_chunk_row
from peer.replication.messages import ADD_REF, FAILED, IS_FULL, MISSING, OK, STORE_CHUNK
from peer.storage.records import Extent
from tests.replication_chunks import (
    BULK,
    BYTES,
    LARGE,
    SMALL,
    Record,
    Store,
    damaged_at_a_start,
    holding,
    name_of,
    owners_first,
    simulate_stores,
)
from tests.replication_world import POWER, World, error_of, until

# --- storing


@BYTES
def test_a_put_is_durable_at_a_majority_and_read_through_any_peer(data: bytes) -> None:
    """Goal (P2): when put returns, two of three owners have bytes and reference on disk; soon all have."""

    async def scenario(world: World, *stores: Store) -> None:
        name = await stores[0].put(data)
        assert name == name_of(data)
        assert holding(stores, data) >= 2
        assert sum(store.references(name) == [b"attempt1"] for store in stores) >= 2
        await until(lambda: holding(stores, data) == 3)
        for store in stores:
            assert await store.get(name) == data
        assert stores[0].released == 1

    simulate_stores(scenario)


@BYTES
def test_one_owner_down_gets_a_hint_and_two_are_too_many(data: bytes) -> None:
    """Goal: a majority is enough; without one the put fails as Unavailable, and the buffer comes back."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        world.isolate(c.peer)
        await a.put(data)
        assert holding((a, b), data) == 2
        await until(lambda: a.chunks.hints.counts["kept"] == 1)
        world.isolate(b.peer)
        other = bytes(reversed(data))
        error = await error_of(a.put(other))
        assert isinstance(error, Unavailable)
        assert "no majority of the owners" in str(error)
        await until(lambda: a.released == 2)

    simulate_stores(scenario)


@BYTES
def test_equal_chunks_are_stored_and_sent_once(data: bytes) -> None:
    """Goal (§7): a second put of the same bytes adds references and moves nothing."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(data, b"attempt1")
        await until(lambda: holding((a, b, c), data) == 3)
        with world.lost(BULK, STORE_CHUNK) as transfers:
            await a.put(data, b"attempt2")
            await b.put(data, b"attempt3")
        assert transfers.hits == 0
        for store in (a, b, c):
            await until(lambda s=store: len(s.references(name)) == 3)  # type: ignore[misc]
            assert store.files.states(name) == ["named"]

    simulate_stores(scenario)


@BYTES
def test_a_peer_that_owns_nothing_asks_before_it_sends(data: bytes) -> None:
    """Goal (§7): an outsider's put of new bytes reaches the owners, of known bytes only references do."""

    async def scenario(world: World, *stores: Store) -> None:
        ordered = owners_first(stores, name_of(data))
        outsider = ordered[-1]
        name = await outsider.put(data, b"attempt1")
        await until(lambda: holding(stores, data) == 3)
        assert not outsider.holds(name)
        with world.lost(BULK, STORE_CHUNK) as transfers:
            await outsider.put(data, b"attempt2")
        assert transfers.hits == 0
        assert await outsider.get(name) == data

    simulate_stores(scenario, peers=5)


def test_full_disks() -> None:
    """Goal: one full owner is done without; two are an error that says so."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        c.files.full = True
        await a.put(SMALL)
        await a.put(LARGE)
        a.files.full = True
        assert isinstance(await error_of(a.put(SMALL + b"1")), Full)
        assert isinstance(await error_of(a.put(LARGE + b"1")), Full)

    simulate_stores(scenario)


def test_a_row_that_does_not_fit_lets_its_bytes_go() -> None:
    """Goal (C1): when the row cannot be committed the extent is abandoned, and the peer does not claim the chunk."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        c.peer.disk.full = True
        name = await a.put(LARGE)
        await until(lambda: c.files.states(name) == ["abandoned"])
        assert c.chunks.holder.find(name) is None

    simulate_stores(scenario)


# --- C1: the row follows the bytes


def test_c1_no_row_before_the_sync_returned() -> None:
    """Goal (C1): while the append is under way no row names it; the row is written after it, never beside it."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        for store in (a, b, c):
            store.files.append_s = 0.5
        put = asyncio.ensure_future(a.put(LARGE))
        await asyncio.sleep(0.4)
        assert not any(store.peer.disk.tables["chunks"] for store in (a, b, c))
        assert not put.done()
        await put

    simulate_stores(scenario)


def test_c1_a_crash_between_bytes_and_row_leaves_no_chunk() -> None:
    """Goal (C1): the row decides: bytes without one do not exist."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        buffer = await a.pool.take(1)
        buffer.payload(len(SMALL))[:] = SMALL
        written: asyncio.Future[Any] = world.loop.create_future()
        a.files.append(buffer, len(SMALL), name_of(SMALL), written.set_result)
        extent = await written
        a.pool.give(buffer)
        assert a.chunks.holder.find(name_of(SMALL)) is None
        assert await a.peer.ask(ADD_REF, name_of(SMALL), b"attempt1", b"back") == (MISSING,)
        a.files.abandon(extent)

    simulate_stores(scenario)


# --- C2: one extent a chunk


@BYTES
def test_c2_concurrent_puts_of_one_chunk_name_one_extent(data: bytes) -> None:
    """Goal (C2): several puts of the same bytes, through one peer and through all: one copy each, all references."""

    async def scenario(world: World, *stores: Store) -> None:
        puts = [store.put(data, b"attempt%d" % n) for n, store in enumerate((*stores, stores[0]))]
        assert set(await asyncio.gather(*puts)) == {name_of(data)}
        for store in stores:
            await until(lambda s=store: len(s.references(name_of(data))) == 4)  # type: ignore[misc]
            assert store.files.states(name_of(data)).count("named") == 1

    simulate_stores(scenario)


def test_c2_a_reference_waits_for_a_naming_under_way() -> None:
    """Goal (C2): ADD_REF says neither OK nor MISSING while the row it depends on is not durable."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        a.peer.rows.traits.commit_s = 0.3
        put = asyncio.ensure_future(a.put(SMALL))
        await until(lambda: a.files.states(name_of(SMALL)) == ["synced"])
        reference = a.peer.ask(ADD_REF, name_of(SMALL), b"attempt2", b"back")
        assert not reference.done()
        assert await reference == (OK,)
        assert a.holds(name_of(SMALL))
        await put

    simulate_stores(scenario)


def test_c2_who_waited_for_a_naming_that_failed_is_told() -> None:
    """Goal (C2): the disk was full: the waiting reference finds nothing, and says MISSING."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        a.peer.rows.traits.commit_s = 0.3
        a.peer.disk.full = True
        put = asyncio.ensure_future(a.put(SMALL))
        await until(lambda: a.files.states(name_of(SMALL)) == ["synced"])
        reference = a.peer.ask(ADD_REF, name_of(SMALL), b"attempt2", b"back")
        assert await reference in ((MISSING,), (IS_FULL,))
        assert not a.references(name_of(SMALL))
        await put

    simulate_stores(scenario)


@contextmanager
def damaged_page(store: Store, wanted: str) -> Iterator[None]:
    """Reading from this table meets a damaged page of the database."""
    read = store.rows.get

    def damaged(table: str, key: Any) -> bytes | None:
        if table == wanted:
            raise Corrupt("a damaged page")
        return read(table, key)

    store.rows.get = damaged
    try:
        yield
    finally:
        store.rows.get = read


def test_a_naming_that_cannot_read_its_rows_changes_nothing() -> None:
    """Goal: the damaged page that a naming met keeps no later one waiting, and its extent is let go."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name, told = name_of(SMALL), list[AtollError | None]()
        for number, table in enumerate(("refs", "chunks"), 1):
            extent = Extent(1, number << 20, len(SMALL))
            a.files.records[extent] = Record(name, bytearray(SMALL))
            with damaged_page(a, table):
                a.chunks.holder.name(name, extent, b"attempt1", b"back", told.append)
                assert isinstance(told.pop(), Corrupt) and a.files.states(name) == ["abandoned"] * number
        extent = Extent(1, 3 << 20, len(SMALL))
        a.files.records[extent] = Record(name, bytearray(SMALL))
        a.chunks.holder.name(name, extent, b"attempt2", b"back", told.append)
        await until(lambda: bool(told))
        assert told == [None] and a.holds(name) and a.files.states(name)[2:] == ["named"]

    simulate_stores(scenario)


@pytest.mark.parametrize("table", ["refs", "chunks"])
@BYTES
def test_an_owner_with_a_damaged_page_answers(table: str, data: bytes) -> None:
    """Goal (P5, P8): asked for a reference, sent the bytes, or coordinating itself, it says so at once, no buffer stays
    behind, and the chunk is stored by the two others."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        with damaged_page(c, table):
            reply = await asyncio.wait_for(c.peer.ask(ADD_REF, name_of(data), b"attempt0", b"back"), 1)
            assert reply == (FAILED, "Corrupt", "a damaged page")
            if data == SMALL:
                message = (STORE_CHUNK, name_of(data), b"attempt0", b"back", data)
                assert (await asyncio.wait_for(c.peer.ask(*message), 1))[:2] == (FAILED, "Corrupt")
            for number, store in enumerate((a, c)):
                name = await store.put(data, b"attempt%d" % number)
            assert a.holds(name) and b.holds(name)
            await until(lambda: not any(store.lent for store in (a, b, c)))
        assert not c.holds(name)

    simulate_stores(scenario)


def test_who_waits_behind_a_naming_hears_whatever_the_others_meet() -> None:
    """Goal (C2): a reference, a second copy, a letting go and another reference wait for a naming; then a page turns out to
    be damaged. Each is told."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        a.peer.rows.traits.commit_s = 0.3
        put = asyncio.ensure_future(a.put(SMALL))
        name, holder = name_of(SMALL), a.chunks.holder
        await until(lambda: name in holder._naming)
        told: list[AtollError | None] = []
        extent = Extent(1, 1 << 40, len(SMALL))
        a.files.records[extent] = Record(name, bytearray(SMALL))
        holder.refer(name, b"attempt2", b"back", told.append)
        holder.let_go(holder.key_of(name) + b"attempt1")
        holder.name(name, extent, b"attempt3", b"back", told.append)
        holder.refer(name, b"attempt4", b"back", told.append)
        with damaged_page(a, "refs"):
            await until(lambda: len(told) == 3)
        assert all(isinstance(error, Corrupt) for error in told)
        await put

    simulate_stores(scenario)


def test_a_full_disk_at_a_start_counts_no_bytes_as_lost() -> None:
    """Goal: what a start finds missing counts once that is durable, and only then."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(SMALL)
        await until(lambda: a.holds(name))
        holder = a.chunks.holder
        extent = holder.find(name)
        assert extent is not None
        for full in (True, False):
            a.peer.disk.full = full
            done = a.peer.env.future()
            holder.lost([(name, extent)], done.set_result)
            assert isinstance(await done, Full if full else type(None))
            assert (holder.damaged, holder.counts["lost"]) == ((0, 0) if full else (1, 1))

    simulate_stores(scenario)


@BYTES
def test_an_owner_with_too_many_writes_queued_takes_no_chunk_and_forgets_none(data: bytes) -> None:
    """Goal (C2, R8): what its queue refuses is let go and nothing stays half named: the same bytes are stored later."""

    async def scenario(world: World, *stores: Store) -> None:
        for store in stores:
            store.peer.rows.traits.queue_hard = 0
        error = await error_of(stores[0].put(data))
        assert isinstance(error, Unavailable) and "too many writes" in str(error)
        assert holding(stores, data) == 0
        for store in stores:
            store.peer.rows.traits.queue_hard = 100
        await stores[0].put(data, b"attempt2")
        await until(lambda: holding(stores, data) == 3)

    simulate_stores(scenario)


# --- reading, and damage


@BYTES
def test_a_damaged_copy_is_never_served_and_is_quarantined(data: bytes) -> None:
    """Goal (P5): the bad local copy is found out, another owner's served, and the bad one forgotten here."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(data)
        await until(lambda: holding((a, b, c), data) == 3)
        a.files.rot(name)
        assert await a.get(name) == data
        await until(lambda: a.chunks.holder.find(name) is None)
        assert (a.chunks.holder.counts["quarantined"], a.chunks.holder.damaged) == (1, 1)
        assert damaged_at_a_start(a) == 1
        assert await a.peer.ask(ADD_REF, name, b"attempt2", b"back") == (MISSING,)
        await a.put(data, b"attempt3")
        await until(lambda: a.holds(name))
        assert await a.get(name) == data
        assert sorted(a.files.states(name)) == ["named", "unnamed"], "C5: the damaged extent is given back"
        assert a.chunks.holder.damaged == damaged_at_a_start(a) == 0

    simulate_stores(scenario)


def test_a_chunk_whose_bytes_are_gone_is_stored_anew() -> None:
    """Goal (P2): a row that names a lost segment counts as no copy, and its extent is never given back."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(SMALL)
        await until(lambda: holding((a, b, c), SMALL) == 3)
        extent = a.chunks.holder.find(name)
        assert extent is not None
        gone = asyncio.get_running_loop().create_future()
        a.chunks.holder.lost([(name, extent)], gone.set_result)
        assert await gone is None
        assert a.chunks.holder.damaged == 1
        assert await a.peer.ask(ADD_REF, name, b"attempt2", b"back") == (MISSING,)
        assert await a.get(name) == SMALL
        await b.put(SMALL, b"attempt3")
        await until(lambda: a.chunks.holder.find(name) not in (None, extent))
        assert a.files.states(name) == ["named", "named"], "what is lost cannot be let go"

    simulate_stores(scenario)


def test_bytes_damaged_on_the_way_are_not_served() -> None:
    """Goal (P5): what another peer sent is hashed before anybody sees it; the next owner is asked."""

    async def scenario(world: World, *stores: Store) -> None:
        ordered = owners_first(stores, name_of(LARGE))
        outsider = ordered[-1]
        name = await ordered[0].put(LARGE)
        await until(lambda: holding(stores, LARGE) == 3)
        first = outsider.peer.replica.prefer(outsider.chunks.owners_of(name))[0]
        liar = next(store for store in stores if store.peer.id == first)
        liar.garble = lambda data: b"X" + data[1:]
        assert await outsider.get(name) == LARGE
        assert outsider.chunks.counts["corrupt"] == 1

    simulate_stores(scenario, peers=5)


def test_all_copies_damaged_is_an_error_and_no_bytes() -> None:
    """Goal (P5): rather an error than wrong bytes."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(SMALL)
        await until(lambda: holding((a, b, c), SMALL) == 3)
        for store in (a, b, c):
            store.files.rot(name)
        assert isinstance(await error_of(b.get(name)), AtollError)

    simulate_stores(scenario)


def test_c3_a_row_that_moved_on_is_not_quarantined() -> None:
    """Goal (C3): the damage found in an old extent does not condemn the new one."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(SMALL)
        await until(lambda: a.holds(name))
        a.chunks.holder.quarantine(name, Extent(77, 0, len(SMALL)))
        await asyncio.sleep(1)
        assert a.holds(name)
        assert a.chunks.holder.counts["quarantined"] == 0

    simulate_stores(scenario)


def test_c3_a_put_that_meets_a_quarantine_under_way_keeps_its_bytes() -> None:
    """Goal (C2, C3): while the quarantine waits for its commit the damaged copy is nobody's duplicate.

    A put that took it for one would let its good bytes go, and be acknowledged for a copy that is gone a moment later.
    """

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(SMALL)
        await until(lambda: holding((a, b, c), SMALL) == 3)
        a.files.rot(name)
        extent = a.chunks.holder.find(name)
        assert extent is not None
        a.chunks.holder.quarantine(name, extent)
        reference = a.peer.ask(ADD_REF, name, b"attempt2", b"back")
        stored = a.peer.ask(STORE_CHUNK, name, b"attempt3", b"back", SMALL)
        assert await reference == (MISSING,)
        assert await stored == (OK,)
        assert a.holds(name)

    simulate_stores(scenario)


def test_a_damaged_chunk_row_counts_as_missing() -> None:
    """Goal (A4): a chunk row that fails its checksum is not believed; the bytes are written anew."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(SMALL)
        await until(lambda: a.holds(name))
        key = chunk_key(name, POWER)
        row = bytearray(a.peer.disk.tables["chunks"][key])
        row[-1] ^= 1
        a.peer.disk.tables["chunks"][key] = bytes(row)
        assert await a.peer.ask(ADD_REF, name, b"attempt2", b"back") == (MISSING,)
        assert await a.get(name) == SMALL
        await b.put(SMALL, b"attempt3")
        await until(lambda: a.holds(name))

    simulate_stores(scenario)


def test_chunk_rows_come_back_and_are_bound_to_their_key() -> None:
    """Goal: state and extent survive encoding; under another key, cut or changed the row is Corrupt."""
    extent = Extent(3, 4096, 100)
    row = encode_chunk_row(b"\0\1name", QUARANTINED, extent)
    assert decode_chunk_row(b"\0\1name", row) == (QUARANTINED, extent)
    for key, bad in ((b"\0\1other", row), (b"\0\1name", row[:-1]), (b"\0\1name", b"\0" + row[1:])):
        with pytest.raises(Corrupt):
            decode_chunk_row(key, bad)


# --- C4: silence and absence


def test_c4_not_found_is_said_only_when_every_owner_said_so() -> None:
    """Goal (C4): all owners miss it: the bytes are lost, it says; one is silent: it may have them, so 503."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = name_of(b"never stored")
        error = await error_of(a.get(name))
        assert isinstance(error, Corrupt)
        assert "on none of its owners" in str(error)
        world.isolate(c.peer)
        error = await error_of(a.get(name))
        assert isinstance(error, Unavailable)

    simulate_stores(scenario)


def test_a_copy_on_any_one_owner_is_found() -> None:
    """Goal: two owners lack the chunk; the third serves it."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(LARGE)
        await until(lambda: holding((a, b, c), LARGE) == 3)
        for store in (a, b):
            store.peer.disk.tables["chunks"].clear()
        assert await a.get(name) == LARGE

    simulate_stores(scenario)


def test_c4_a_copy_with_who_was_a_fallback_in_former_times_is_found() -> None:
    """Goal (C4): no owner and no fallback has a copy left, but some other member does: it is read, not called lost."""

    async def scenario(world: World, *stores: Store) -> None:
        reader, name = stores[0], name_of(SMALL)
        expected = {*reader.chunks.owners_of(name), *reader.chunks.fallbacks_of(name), reader.peer.id}
        other = next(store for store in stores if store.peer.id not in expected)
        replica = other.peer.replica
        message = (STORE_CHUNK, replica.tag, name, b"attempt1", b"back", SMALL)
        replica.handle(reader.peer.id, message, lambda _: None)
        await until(lambda: other.holds(name))
        assert await reader.get(name) == SMALL
        world.isolate(other.peer)
        assert isinstance(await error_of(reader.get(name)), Unavailable)

    simulate_stores(scenario, 8)


@pytest.mark.parametrize("slow", ["disk", "network"])
def test_a_late_read_is_overtaken(slow: str) -> None:
    """Goal: an owner that is slow costs a hedge delay; what it sends in the end is dropped, its buffer given back."""

    async def scenario(world: World, *stores: Store) -> None:
        a = stores[0]
        name = await a.put(LARGE)
        await until(lambda: holding(stores, LARGE) == 3)
        if slow == "disk":
            a.files.read_s = 5.0
        else:
            a.peer.disk.tables["chunks"].clear()
            second = a.peer.replica.prefer(a.chunks.owners_of(name))[1]
            next(store for store in stores if store.peer.id == second).files.read_s = 5.0
        start_s = world.now
        assert await a.get(name) == LARGE
        assert world.now - start_s < 1.0
        assert a.chunks.counts["hedges"] == 1
        await until(lambda: a.lent == 0)

    simulate_stores(scenario)


def test_only_the_late_owner_is_remembered_as_late() -> None:
    """Goal: this peer answered at once that it lacks the chunk; the slow one after it is the late one."""

    async def scenario(world: World, *stores: Store) -> None:
        a = stores[0]
        name = await a.put(LARGE)
        await until(lambda: holding(stores, LARGE) == 3)
        a.peer.disk.tables["chunks"].clear()
        order = a.peer.replica.prefer(a.chunks.owners_of(name))
        next(store for store in stores if store.peer.id == order[1]).files.read_s = 5.0
        await a.get(name)
        assert a.peer.replica.prefer(order) == [order[0], order[2], order[1]]

    simulate_stores(scenario)


def test_a_read_follows_an_extent_that_moved() -> None:
    """Goal: the extent went away between row and read, the row names another one: read that, no error."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(SMALL)
        await until(lambda: holding((a, b, c), SMALL) == 3)
        old = a.chunks.holder.find(name)
        assert old is not None
        new = Extent(9, 0, len(SMALL))
        read = asyncio.ensure_future(a.get(name))
        await asyncio.sleep(0)
        a.files.records[new] = a.files.records.pop(old)
        key = chunk_key(name, POWER)
        a.peer.disk.tables["chunks"][key] = encode_chunk_row(key, 1, new)
        world.isolate(a.peer)
        assert await read == SMALL

    simulate_stores(scenario)
