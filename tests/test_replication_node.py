"""Every message in one epoch, from a peer that may vote, to an owner (E3 of epochs.py, N1 to N3 of node.py)."""

from __future__ import annotations

import asyncio

from peer.errors import Unavailable
from peer.replication.agreement.epochs import tag_of
from peer.replication.agreement.proposals import again
from peer.replication.messages import (
    ABSTAIN,
    EPOCH_ACCEPT,
    EPOCH_DECIDED,
    EPOCH_GET,
    EPOCH_PREPARE,
    FENCED,
    NO_GATE,
    NOT_OWNER,
    OK,
    READ,
    STALE,
)
from peer.replication.registers.register import Put
from ring.epoch import Epoch
from tests.replication_world import (
    KEY,
    ROW_REQUESTS,
    SPACE,
    Peer,
    World,
    change_ring,
    error_of,
    grown,
    simulate,
    tags_of,
)


def test_e3_rows_are_refused_while_a_newer_epoch_waits_for_its_commit() -> None:
    """Goal (E3): what commits after the epoch does not commit under the old one."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        newer = again(a.replica.epoch)
        decided = a.ask(EPOCH_DECIDED, newer.encode(), tag=0)
        assert not decided.done()
        assert await a.ask(*ROW_REQUESTS[1]) == (FENCED,)
        assert await decided == (OK,)
        assert await a.ask(*ROW_REQUESTS[1], tag=1) == (STALE, 2)
        assert (await a.ask(*ROW_REQUESTS[1]))[0] == OK

    simulate(scenario)


def test_an_epoch_counts_only_once_it_is_durable() -> None:
    """Goal: a crash before the commit leaves the old epoch in force; until then it is not passed on either."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        newer = again(a.replica.epoch)
        a.ask(EPOCH_DECIDED, newer.encode(), tag=0)
        assert Epoch.decode((await a.ask(EPOCH_GET, tag=0))[1]).number == 1
        await a.restart()
        assert tags_of(a) == [1]

    simulate(scenario)


def test_an_older_epoch_never_replaces_a_newer_one() -> None:
    """Goal: announcements that come late or twice change nothing."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        old = a.replica.epoch
        await change_ring(a)
        for epoch in (old, a.replica.epoch, old):
            assert await b.ask(EPOCH_DECIDED, epoch.encode(), tag=0) == (OK,)
        assert tags_of(a, b, c) == [2, 2, 2]
        await b.restart()
        assert tags_of(b) == [2]

    simulate(scenario)


def test_n1_a_stale_sender_is_refused_with_the_newer_tag() -> None:
    """Goal (N1): every kind of request that carries an old epoch changes nothing and names the new one."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await change_ring(a)
        requests = [*ROW_REQUESTS, (EPOCH_PREPARE, world.ballot(), True), (EPOCH_ACCEPT, world.ballot(), b"")]
        for request in requests:
            assert await b.ask(*request, tag=1) == (STALE, 2)
        assert not b.replica._holds_rows()
        assert not b.replica.epochs.fenced

    simulate(scenario)


def test_n1_a_stale_coordinator_catches_up_and_goes_on() -> None:
    """Goal (N1): a peer that missed a change is refused, fetches the epoch, and its request succeeds."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        with world.lost(EPOCH_DECIDED, to=c):
            await change_ring(a)
        assert tags_of(c) == [1]
        await asyncio.gather(c.put(b"v"), c.get(SPACE.row_key(b"other")))
        assert tags_of(c) == [2]
        assert await a.get() == b"v"

    simulate(scenario)


def test_n1_a_replica_that_is_behind_persists_the_newer_epoch_before_it_answers() -> None:
    """Goal (N1): the answer to a request of a newer epoch comes from a replica that has it on its disk."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        with world.lost(EPOCH_DECIDED, to=c):
            await change_ring(a)
        reply = await c.ask(READ, KEY, NO_GATE, False, tag=2)
        assert reply[0] == OK
        assert Epoch.decode(c.disk.kept(b"epoch") or b"").number == 2

    simulate(scenario)


def test_n1_a_replica_that_cannot_learn_the_newer_epoch_refuses() -> None:
    """Goal (N1): rather than answer under an epoch it does not know it says which one it has."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        world.isolate(c)
        assert await c.ask(READ, KEY, NO_GATE, False, tag=7) == (STALE, 1)

    simulate(scenario)


def test_n2_an_unconfirmed_peer_votes_on_nothing() -> None:
    """Goal (N2): before the others confirmed who it is, a peer abstains from rows, scans and epochs."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        c.crash()
        world.isolate(c)
        c.open()
        starting = asyncio.ensure_future(c.start())
        await asyncio.sleep(3)
        for request in [
            *ROW_REQUESTS,
            (EPOCH_PREPARE, world.ballot(), True),
            (EPOCH_ACCEPT, world.ballot(), b""),
        ]:
            assert (await c.ask(*request))[0] == ABSTAIN
        world.join_up()
        await starting
        assert (await c.ask(*ROW_REQUESTS[0]))[0] == OK

    simulate(scenario)


def test_n3_only_owners_answer() -> None:
    """Goal (N3): a peer asked for a partition it does not own refuses; it never says that nothing is there."""

    async def scenario(world: World, *peers: Peer) -> None:
        owners = world.owners(KEY)
        for peer in peers:
            for request in ROW_REQUESTS:
                reply = await peer.ask(*request)
                assert (reply == (NOT_OWNER,)) == (peer not in owners), (peer.member.name, request)

    simulate(scenario, peers=5)


def test_one_attempt_stays_in_one_epoch() -> None:
    """Goal: a ring that changes between prepare and accept sends the change back, to the new owners.

    A ring of one becomes a ring of two just after the only owner promised. Accepted by the one alone, the value
    would be acknowledged with a single durable copy.
    """

    async def scenario(world: World, a: Peer, b: Peer) -> None:
        await world.found(a)
        bigger = grown(a.replica.epoch, b.member)
        await b.start(bigger)

        def judge(_: object) -> Put:
            if a.replica.tag == 1:  # as if its commit had ended in this very turn
                a.replica.epochs.current, a.replica.epochs.tag = bigger, tag_of(bigger)
                a.replica._epoch_installed(bigger)
            return Put(b"v")

        await a.change(judge)
        assert (a.holds(), b.holds()) == (b"v", b"v")

    simulate(scenario, peers=2, founded=False)


def test_two_owners_need_both() -> None:
    """Goal: a majority of two is two: with one silent nothing is acknowledged and nothing read."""

    async def scenario(world: World, a: Peer, b: Peer) -> None:
        await a.put(b"v")
        world.isolate(b)
        assert isinstance(await error_of(a.put(b"w")), Unavailable)
        assert isinstance(await error_of(a.get()), Unavailable)
        world.join_up()
        assert await b.get() in (b"v", b"w")

    simulate(scenario, peers=2)
