"""Background work gives way to clients and still comes to its end; who was late is left alone, and tried again."""

from __future__ import annotations

import pytest

from peer.errors import Unavailable
from peer.replication.lateness import LATE_MOST_S, TRIAL_S, Lateness
from peer.replication.throttle import BUSY_PER_S, REST_MOST_S, SAMPLE_S, SHARE, Activity, Throttle
from tests.replication_world import Peer, World, error_of, simulate, until


class Work:
    """Items that take a while each; how many were under way at once, at most."""

    def __init__(self, peer: Peer, takes_s: float = 0.1) -> None:
        self.env = peer.env
        self.takes_s = takes_s
        self.now = self.most = 0
        self.done: list[int] = []

    async def __call__(self, item: int) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.env.sleep(self.takes_s)
        self.now -= 1
        if item < 0:
            raise Unavailable("no")
        self.done.append(item)


def test_several_things_at_once_and_half_as_many_beside_clients() -> None:
    """Goal (W4): so many lanes while nobody needs the peer; half of them, half of the time, while clients do."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for busy, most in ((False, 4), (True, 2)):
            throttle = Throttle(a.env, busy=lambda busy=busy: busy)  # type: ignore[misc]
            work = Work(a)
            began_s = a.env.now()
            await throttle.each(range(12), work, 4)
            assert sorted(work.done) == list(range(12)) and work.most == most
            took_s = a.env.now() - began_s
            share = SHARE if busy else 1.0
            assert took_s == pytest.approx(12 / most * work.takes_s / share, rel=0.05)
            work = Work(a)
            await throttle.each([1], work, 4)
            await throttle.each([], work, 4)
            assert work.done == [1]

    simulate(scenario)


def test_an_error_ends_it_when_what_was_under_way_has_ended() -> None:
    """Goal: nothing is begun after an error, nothing is left running, and the error is raised."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        throttle, work = Throttle(a.env), Work(a)
        assert isinstance(await error_of(throttle.each([1, 2, -1, 3, 4, 5, 6], work, 4)), Unavailable)
        assert set(work.done) <= {1, 2, 3, 4} and work.now == 0

    simulate(scenario)


def test_a_rest_is_bounded() -> None:
    """Goal (W4): what took long, for it waited for another peer, is not followed by a rest as long."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        throttle = Throttle(a.env, busy=lambda: True)
        began_s = a.env.now()
        await throttle.give_way(60.0)
        assert a.env.now() - began_s == pytest.approx(REST_MOST_S)

    simulate(scenario)


def test_activity_is_a_rate() -> None:
    """Goal: many requests in a moment make a peer busy, a few do not, and none ends it."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        asked = 0
        busy = Activity(a.env, lambda: asked)
        assert not busy()
        for rate, expected in (
            (BUSY_PER_S * 2, True),
            (BUSY_PER_S / 2, False),
            (BUSY_PER_S * 2, True),
            (0, False),
        ):
            await a.env.sleep(SAMPLE_S * 1.01)
            asked += int(rate * SAMPLE_S * 1.2)
            assert busy() is expected

    simulate(scenario)


def test_changes_make_their_owners_busy() -> None:
    """Goal: every owner that is asked about a row notices, not only the gateway."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        before = [peer.replica.asked for peer in (a, b, c)]
        for _ in range(5):
            await a.put(b"x")
        assert all(peer.replica.asked > asked for peer, asked in zip((a, b, c), before, strict=True))

    simulate(scenario)


def test_who_is_late_is_tried_by_one_request_at_a_time() -> None:
    """Goal: left alone for a second; then one request tries it, for all; complained of again, twice as long; if not, as good
    as any."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        lateness = Lateness(a.env)
        assert not lateness.avoided("b")
        lateness.late("b")
        lateness.late("b")  # of a request that began before it was known
        for_s = 1.0
        while for_s <= LATE_MOST_S:
            assert lateness.avoided("b") and not lateness.avoided("c")
            await a.env.sleep(for_s * 1.01)
            assert [lateness.avoided("b") for _ in range(3)] == [False, True, True], "one tries"
            lateness.late("b")
            for_s *= 2
        await a.env.sleep(LATE_MOST_S * 1.01)
        assert not lateness.avoided("b")
        await a.env.sleep(TRIAL_S * 1.01)
        assert [lateness.avoided("b") for _ in range(3)] == [False, False, False]
        lateness.late("b")
        lateness.prompt("b")
        assert not lateness.avoided("b")

    simulate(scenario)


def test_a_frozen_owner_costs_one_hedge_now_and_then() -> None:
    """Goal: gossip still believes that an owner lives, which says nothing: of many reads few wait for it."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"x")
        world.silence(b)
        before = a.counts["hedges"]
        for _ in range(50):
            assert await a.get() == b"x"
            await a.env.sleep(0.1)
        assert 1 <= a.counts["hedges"] - before <= 4
        world.join_up()
        await until(lambda: True)

    simulate(scenario)
