"""Goal: the view goes on with another peer when its peer dies, says so, and never gives up."""

from __future__ import annotations

import asyncio

from tests.tui_canned import PEERS, Scene, cluster
from tui.feed import FeedError, Outage, Snapshot, within


def test_first_answer() -> None:
    """Goal: the first peer is asked, the ring with it, and the time is noted."""
    scene = Scene()
    answer = asyncio.run(scene.feed().poll())
    assert isinstance(answer, Snapshot)
    assert (answer.endpoint, answer.taken_at, answer.ring is not None) == (PEERS[0], 100.0, True)


def test_moves_to_a_peer_it_learnt_of() -> None:
    """Goal: started with one address only, it survives that peer's death and names the reason."""
    scene = Scene()
    feed = scene.feed()

    async def story() -> Snapshot | Outage:
        await feed.poll()
        scene.failures[PEERS[0]] = "connection refused"
        scene.answers[PEERS[1]] = cluster(peer={"name": "peer-2"})
        return await feed.poll()

    answer = asyncio.run(story())
    assert isinstance(answer, Snapshot) and answer.endpoint == PEERS[1]
    assert feed.moved == (PEERS[0], PEERS[1], "connection refused")


def test_stays_where_it_moved() -> None:
    """Goal: the peer that answered last is asked first, so that a dead one costs nothing afterwards."""
    scene = Scene()
    scene.answers = {PEERS[1]: cluster()}
    feed = scene.feed(*PEERS)

    async def story() -> None:
        await feed.poll()
        scene.asked.clear()
        await feed.poll()

    asyncio.run(story())
    assert scene.asked == [(PEERS[1], "cluster")] and feed.moved is None


def test_pinned_learns_nobody() -> None:
    """Goal: --endpoint asks that peer and no other, even when it dies."""
    scene = Scene()
    feed = scene.feed(pinned=True)

    async def story() -> Snapshot | Outage:
        await feed.poll()
        scene.failures[PEERS[0]] = "gone"
        return await feed.poll()

    answer = asyncio.run(story())
    assert isinstance(answer, Outage) and answer.failures == ((PEERS[0], "gone"),)


def test_outage_keeps_its_beginning_and_ends() -> None:
    """Goal: an outage counts from its first failed poll, and the next answer ends it."""
    scene = Scene()
    feed = scene.feed()
    answers = []

    async def story() -> None:
        scene.failures[PEERS[0]] = "no"
        for moment in (100.0, 107.0):
            scene.now = moment
            answers.append(await feed.poll())
        scene.failures.clear()
        answers.append(await feed.poll())

    asyncio.run(story())
    assert [answer.since for answer in answers if isinstance(answer, Outage)] == [100.0, 100.0]
    assert isinstance(answers[2], Snapshot) and feed.moved is None


def test_ring_is_asked_again_only_for_a_new_epoch() -> None:
    """Goal: the large answer is not fetched every second."""
    scene = Scene()
    feed = scene.feed()

    async def story() -> None:
        await feed.poll()
        await feed.poll()
        scene.answers[PEERS[0]] = cluster(epoch={"generation": 1, "number": 4, "kind": "joint"})
        await feed.poll()

    asyncio.run(story())
    assert [what for _, what in scene.asked] == ["cluster", "ring", "cluster", "cluster", "ring"]


def test_within_says_how_long_it_waited() -> None:
    """Goal: a peer that hangs becomes a FeedError, not a hanging screen."""

    async def story() -> str:
        try:
            await within(0.01, asyncio.get_running_loop().create_future())
        except FeedError as error:
            return str(error)
        return ""

    assert asyncio.run(story()) == "no answer within 0.01 s"
