"""Peers that say of themselves that they are slow or cannot write: the others go round them, and lose no vote by it."""

from __future__ import annotations

import asyncio

import pytest

from peer.errors import ReadOnly
from peer.replication.chunks import put as put_module
from peer.replication.lateness import LATE_FOR_S
from peer.replication.messages import NO_GATE, PREPARE, READ_ONLY
from peer.replication.preference import Preference
from tests.replication_chunks import LARGE, SMALL, Store, holding, name_of, owners_first, simulate_stores
from tests.replication_world import KEY, Peer, World, ballot_at, error_of, simulate, until


def hamper(stores: tuple[Store, ...], *slow: Store) -> None:
    """Everybody has heard that these are slow."""
    for store in stores:
        store.peer.replica.preference.hampered = frozenset(one.peer.id for one in slow)


# --- whom to ask first


def test_the_order_of_asking() -> None:
    """Goal: this peer, the prompt, the hampered, then the late and the dead; this peer is hampered like any other."""

    async def scenario(world: World, a: Peer) -> None:
        dead: set[str] = set()
        preference = Preference(a.env, "a", lambda member: member not in dead)
        assert preference.order("dcba") == list("adcb")
        preference.hampered = frozenset("c")
        assert preference.order("dcba") == list("adbc")
        preference.was_late("d")
        assert preference.order("dcba") == list("abcd")
        preference.hampered = frozenset("ac")
        assert preference.order("dcba") == list("bacd")
        dead.add("c")
        assert preference.order("dcba") == list("badc")
        preference.pardon()
        assert preference.order("dcba") == list("dbac")
        preference.was_late("b")
        await asyncio.sleep(LATE_FOR_S)
        assert preference.order("db") == list("db")

    simulate(scenario, 1)


# --- registers


def test_an_owner_that_cannot_write_promises_nothing() -> None:
    """Goal: with one of three the others decide, through it too; with two there is no majority, and that is no doubt; what
    it holds it still tells. With its disk back it votes again."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"before")
        await until(lambda: c.holds() == b"before")
        c.disk.read_only = True
        assert await c.ask(PREPARE, KEY, ballot_at(2**62), NO_GATE, False) == (READ_ONLY,)
        for peer in (a, b, c):
            await peer.put(b"through " + peer.member.name.encode())
            assert await c.get() == b"through " + peer.member.name.encode()
        assert c.holds() == b"before"
        b.disk.read_only = True
        for peer in (a, b, c):
            error = await error_of(peer.put(b"never"))
            assert type(error) is ReadOnly and "its disk is read-only" in str(error)
            assert await peer.get() == b"through " + c.member.name.encode()
        b.disk.read_only = c.disk.read_only = False
        await b.put(b"again")
        await until(lambda: c.holds() == b"again")

    simulate(scenario)


def test_an_accept_it_had_no_room_for_is_never_taken() -> None:
    """Goal: a disk that turns read-only between promise and accept: the coordinator has its majority without it; the refused
    accept, repeated by the network when it can write again, is not taken."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"one")
        await until(lambda: c.holds() == b"one")
        ballot = ballot_at(2**62)
        promised = await c.ask(PREPARE, KEY, ballot, NO_GATE, False)
        assert promised[0] == 0
        c.disk.read_only = True
        accept = (2, KEY, ballot, b"\0value", None, NO_GATE)
        refused = await c.ask(*accept)
        assert refused[0] == READ_ONLY
        c.disk.read_only = False
        assert (await c.ask(*accept))[0] == 1, "CONFLICT: it promised above it"
        assert c.holds() == b"one"

    simulate(scenario)


# --- chunks


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_a_slow_owner_gets_a_fallback_sooner(data: bytes) -> None:
    """Goal: with two slow owners of three no majority comes soon; prompt fallbacks keep their copies after SOONER_S, with
    hints, and the put need not wait for INSTEAD_S."""

    async def scenario(world: World, *stores: Store) -> None:
        first, *slow = owners_first(stores, name_of(data))[:3]
        coordinator = stores[-1]
        assert coordinator not in (first, *slow) or len(stores) > 4
        for store in slow:
            store.files.append_s = 60.0
        hamper(stores, *slow)
        begun_s = coordinator.peer.env.now()
        await coordinator.put(data)
        assert coordinator.peer.env.now() - begun_s < put_module.INSTEAD_S
        assert first.holds(name_of(data)) and holding(stores, data) >= 2
        await until(lambda: sum(len(store.peer.disk.tables["hints"]) for store in stores) == 2)
        await asyncio.sleep(70)

    simulate_stores(scenario, 6)


def test_a_slow_coordinator_does_not_write_its_own_copy_first() -> None:
    """Goal: while the others can do without it, its buffers do not wait for its own disk; what it lacks is a hint."""

    async def scenario(world: World, *stores: Store) -> None:
        me, *others = stores
        me.files.append_s = 60.0
        hamper(stores, me)
        for number in range(20):
            await me.put(LARGE + bytes((number,)), b"attempt%d" % (number % 10))
        await asyncio.sleep(2 * put_module.STRAGGLE_S)
        assert not me.pool.stats.lent and not me.files.records
        assert all(len(store.files.records) == 20 for store in others)
        await until(lambda: len(me.peer.disk.tables["hints"]) == 20)

    simulate_stores(scenario)


@pytest.mark.parametrize("silent", [True, False])
def test_a_slow_coordinator_writes_its_copy_when_it_is_needed(silent: bool) -> None:
    """Goal: one other owner cannot take it, at once or by silence: the put is stored with the slow one."""

    async def scenario(world: World, me: Store, b: Store, c: Store) -> None:
        hamper((me, b, c), me)
        if silent:
            world.isolate(c.peer)
        else:
            c.files.full = True
        await me.put(LARGE)
        assert me.holds(name_of(LARGE)) and b.holds(name_of(LARGE))

    simulate_stores(scenario)
