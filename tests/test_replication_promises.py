"""Promises under one durable bound H, and the memory that may forget them."""

from __future__ import annotations

import asyncio

import pytest

from peer.replication.ballot import ceiling, counter_of
from peer.replication.messages import CONFLICT, IS_FULL, OK
from peer.replication.registers import promises as module
from peer.replication.registers.promises import AHEAD_US, Promises
from peer.replication.value import encode_side
from tests.replication_owner import Owner
from tests.replication_world import KEY, SPACE, ballot_at

HOUR_US = 3_600_000_000


def durable_bound(owner: Owner) -> int:
    return int.from_bytes(owner.disk.kept(b"bound") or b"", "big")


def test_h1_the_bound_is_durable_before_the_promise() -> None:
    """Goal (H1): at the moment a promise is given, H on the disk covers it."""
    owner = Owner()

    async def scenario() -> None:
        for counter in (10, 20, AHEAD_US * 3, AHEAD_US * 3 + 1, HOUR_US):
            promise = owner.prepare(ballot_at(counter))
            assert promise.done() == (durable_bound(owner) >= counter)
            assert (await promise)[0] == OK
            assert durable_bound(owner) >= counter

    owner.run(scenario())


def test_h1_a_promise_that_waits_for_the_bound_dies_with_a_crash() -> None:
    """Goal (H1): a crash before H is durable leaves no promise behind, and nobody was told of one."""
    owner = Owner()

    async def scenario() -> None:
        promise = owner.prepare(ballot_at(1000))
        owner.crash()
        await asyncio.sleep(1)
        assert not promise.done()
        assert durable_bound(owner) == 0
        assert (await owner.prepare(ballot_at(5)))[0] == OK

    owner.run(scenario())


def test_h2_a_restart_promises_everything_at_the_bound() -> None:
    """Goal (H2): after a restart no ballot at or below H is promised or accepted, on any key."""
    owner = Owner()

    async def scenario() -> None:
        assert (await owner.prepare(ballot_at(1000)))[0] == OK
        owner.crash()
        bound = durable_bound(owner)
        assert bound >= 1000
        for key in (KEY, SPACE.row_key(b"another")):
            assert await owner.prepare(ballot_at(bound), key) == (CONFLICT, ceiling(bound))
            assert await owner.accept(ballot_at(999), b"late", key) == (CONFLICT, ceiling(bound))
            assert (await owner.prepare(ballot_at(bound + 1), key))[0] == OK

    owner.run(scenario())


def test_h3_a_forgotten_promise_raises_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (H3): a key whose entry left memory counts as promised at least where it was."""
    monkeypatch.setattr(module, "ENTRIES_KEPT", 8)
    owner = Owner()

    async def scenario() -> None:
        assert (await owner.prepare(ballot_at(1000)))[0] == OK
        for number in range(10):
            assert (await owner.prepare(ballot_at(2000 + number), SPACE.row_key(b"%d" % number)))[0] == OK
        promises = owner.acceptor.promises
        assert promises.get(KEY) is None
        assert len(promises) == 8
        assert promises.floor >= ballot_at(1000)
        assert (await owner.accept(ballot_at(999), b"late"))[0] == CONFLICT
        assert (await owner.prepare(ballot_at(1000)))[0] == CONFLICT
        unheard = SPACE.row_key(b"never asked before")
        assert await owner.prepare(ballot_at(1), unheard) == (CONFLICT, promises.floor)

    owner.run(scenario())


def test_h3_an_accept_that_is_evicted_while_it_waits_is_not_undercut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (H3, A1): the entry of a pending accept may leave memory; the accept still stands, its side row too."""
    monkeypatch.setattr(module, "ENTRIES_KEPT", 2)
    owner = Owner()

    async def scenario() -> None:
        first = owner.accept(ballot_at(50), b"first", side=b"s1")
        others = [owner.accept(ballot_at(60 + n), b"x", SPACE.row_key(b"%d" % n)) for n in range(4)]
        assert owner.acceptor.promises.get(KEY) is None
        lower = owner.accept(ballot_at(49), b"lower")
        again = owner.accept(ballot_at(70), b"second", side=b"s2")
        assert [reply[0] for reply in await asyncio.gather(first, *others)] == [OK] * 5
        assert (await lower)[0] == CONFLICT
        assert (await again)[0] == OK
        assert owner.stored().ballot == ballot_at(70)
        assert list(owner.disk.tables["side"].values()) == [encode_side(KEY, b"s2")], (
            "an orphan is left beside the row"
        )

    owner.run(scenario())


def test_the_bound_runs_ahead_so_that_promises_rarely_wait() -> None:
    """Goal: a steady stream of prepares waits once, then extensions happen behind it, about one a second."""
    owner = Owner()
    waited = 0

    async def scenario() -> None:
        nonlocal waited
        for step in range(1000):
            promise = owner.prepare(ballot_at(HOUR_US + step * 10_000))  # ten seconds of ballots
            waited += not promise.done()
            assert (await promise)[0] == OK
            await asyncio.sleep(0.01)

    owner.run(scenario())
    assert waited == 1
    assert 8 <= owner.acceptor.promises.extensions <= 12


def test_h4_an_accept_above_the_bound_raises_it_in_its_own_commit() -> None:
    """Goal (H4): who only ever accepts keeps a bound above what it accepted, and needs no commit more for it."""
    owner = Owner()

    async def scenario() -> None:
        for counter in (1000, HOUR_US, HOUR_US + 5):
            before = owner.rows.commits
            assert await owner.accept(ballot_at(counter), b"v") == (OK,)
            assert owner.rows.commits == before + 1
            assert durable_bound(owner) >= counter
        assert owner.acceptor.promises.extensions == 2
        bound = durable_bound(owner)
        owner.disk.full = True
        assert await owner.accept(ballot_at(bound + 1), b"v") == (IS_FULL, False)
        owner.disk.full = False
        assert (await owner.prepare(ballot_at(bound + 2)))[0] == OK
        assert durable_bound(owner) >= bound + 2

    owner.run(scenario())


def test_a_full_disk_refuses_promises_beyond_the_bound_and_recovers() -> None:
    """Goal: without room for H nothing above it is promised; what H covers still is; later all is well."""
    owner = Owner()

    async def scenario() -> None:
        assert (await owner.prepare(ballot_at(1000)))[0] == OK
        bound = durable_bound(owner)
        owner.disk.full = True
        waiting = [owner.prepare(ballot_at(bound + n)) for n in (1, 2, AHEAD_US * 5)]
        assert await asyncio.gather(*waiting) == [(IS_FULL,)] * 3
        assert durable_bound(owner) == bound
        assert (await owner.prepare(ballot_at(bound)))[0] == OK
        owner.disk.full = False
        assert (await owner.prepare(ballot_at(bound + 1)))[0] == OK

    owner.run(scenario())


def test_waiters_of_different_heights_each_wait_for_their_own_bound() -> None:
    """Goal (H1): an extension in flight that does not cover a ballot is not mistaken for one that does."""
    owner = Owner()

    async def scenario() -> None:
        low = owner.prepare(ballot_at(10))
        high = owner.prepare(ballot_at(AHEAD_US * 10), SPACE.row_key(b"high"))
        assert (await low)[0] == (await high)[0] == OK
        assert durable_bound(owner) >= AHEAD_US * 10

    owner.run(scenario())


def test_a_clock_far_in_the_future_is_followed_to_the_last_counter() -> None:
    """Goal: the greatest counter a ballot can have neither overflows the bound nor is promised twice."""
    owner = Owner()
    last = 2**64 - 1

    async def scenario() -> None:
        assert (await owner.prepare(ballot_at(last)))[0] == OK
        assert durable_bound(owner) == last
        assert counter_of(Promises(owner.rows).floor) == last
        assert (await owner.prepare(ballot_at(last)))[0] == CONFLICT

    owner.run(scenario())
