"""Goal: a peer that says nothing is found out in about a second, and costs what waits there no more than that."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from peer.client import AsyncClient, Client, UnknownOutcome
from peer.client.attempts import AttemptError, Attempts, Fate
from peer.client.peers import PeerBook
from peer.client.pulse import AGAIN_S, PROBE, PROBE_S, SILENT_AGAIN_S, SILENT_MOST_S, SILENT_S, Pulse, Waiting
from peer.client.wire import Repeat, Request
from tests.client_adapter import BlockingAsyncClient
from tests.cluster_tools import wait_until
from tests.fake_api import FakeCluster, fake_cluster
from tests.test_client_api import BIG, open_client
from tests.test_client_rules import Clock

URLS = [f"http://h{i}:7401" for i in range(3)]


class Watched:
    """A pulse on virtual time, and what was given up."""

    def __init__(self, urls: list[str] = URLS) -> None:
        self.clock = Clock()
        self.book = PeerBook(urls, pinned=False, clock=self.clock, rng=Random(1))
        self.pulse = Pulse(self.book, self.clock)
        self.given_up: list[Waiting] = []

    def begin(self, url: str, *, may: bool = True) -> Waiting:
        waiting = self.pulse.begin(url, lambda: may)
        waiting.give_up = lambda: self.given_up.append(waiting)
        return waiting

    def after(self, seconds: float) -> list[str]:
        self.clock.now += seconds
        return self.pulse.look()

    def miss(self, url: str) -> list[str]:
        """A probe that stays without an answer; what the next look says."""
        self.clock.now += PROBE_S
        self.pulse.probed(url, alive=False)
        return self.pulse.look()


def test_a_silent_peer_is_found_out_in_a_second() -> None:
    """Goal: a wait, a probe without an answer, and all that waits there goes elsewhere, as does what comes later."""
    watched = Watched()
    first, second = watched.begin(URLS[0]), watched.begin(URLS[0])
    assert watched.after(SILENT_S / 2) == []
    assert watched.after(SILENT_S / 2) == [URLS[0]]
    assert watched.after(0.0) == [], "one probe at a time"
    fresh = watched.begin(URLS[0])
    elsewhere = watched.begin(URLS[1])
    watched.miss(URLS[0])
    assert set(watched.given_up) == {first, second, fresh} and elsewhere not in watched.given_up
    assert watched.clock.now <= 1.0 + 1e-9
    assert URLS[0] not in watched.book.promising()
    assert {watched.book.pick() for _ in range(20)} == set(URLS[1:])
    late = watched.begin(URLS[0])
    watched.after(SILENT_S * 1.1)
    assert late in watched.given_up, "a peer known to be silent gets no second probe before it is left"


def test_a_busy_peer_is_no_silent_one() -> None:
    """Goal: while anything comes from a peer it is not even probed; one that answers the probe keeps its requests."""
    watched = Watched()
    slow, other = watched.begin(URLS[0]), watched.begin(URLS[0])
    for _ in range(20):
        assert watched.after(SILENT_S / 2) == []
        other.moved()
    other.end()
    assert watched.after(SILENT_S) == [URLS[0]]
    watched.pulse.probed(URLS[0], alive=True)
    assert watched.after(AGAIN_S / 2) == [] and watched.given_up == []
    assert watched.after(AGAIN_S / 2) == [URLS[0]], "it is looked at again while the request still waits"
    slow.end()
    watched.pulse.probed(URLS[0], alive=True)
    assert watched.after(100.0) == [] and watched.pulse.idle


def test_what_rests_does_not_wait() -> None:
    """Goal: a download that nobody reads, or an upload whose source is slow, says nothing about its peer."""
    watched = Watched()
    waiting = watched.begin(URLS[0])
    waiting.rest()
    assert watched.after(100.0) == []
    waiting.expect()
    assert watched.after(SILENT_S) == [URLS[0]]


def test_nothing_is_given_up_where_nobody_is_better() -> None:
    """Goal: with one peer, or when all are silent, requests wait as they always did."""
    alone = Watched(URLS[:1])
    alone.begin(URLS[0])
    alone.after(SILENT_S)
    alone.miss(URLS[0])
    assert alone.given_up == []
    watched = Watched()
    for url in URLS:
        watched.begin(url)
    assert watched.after(SILENT_S) == URLS
    watched.clock.now += PROBE_S
    for url in URLS:
        watched.pulse.probed(url, alive=False)
    watched.pulse.look()
    assert watched.given_up == [] and watched.book.promising() == set(URLS)
    watched.pulse.probed(URLS[2], alive=True)
    watched.pulse.look()
    assert [one.url for one in watched.given_up] == URLS[:2]


def test_what_cannot_be_repeated_is_not_given_up() -> None:
    """Goal: a condition waits on, as does a request that has lost two answers."""
    watched = Watched()
    kept = watched.begin(URLS[0], may=False)
    watched.after(SILENT_S)
    watched.miss(URLS[0])
    assert kept not in watched.given_up
    for repeat, allowed in ((Repeat.NEVER, 0), (Repeat.SAME_RESULT, 2), (Repeat.FREELY, 2)):
        request = Request("PUT", "/x", "put b/x", repeat)
        attempts = Attempts(watched.book, request, clock=watched.clock, rng=Random(2))
        for number in range(3):
            attempts.pick()
            assert attempts.may_give_up is (number < allowed)
            if repeat is Repeat.NEVER:
                break
            attempts.failed(AttemptError(Fate.LOST, TimeoutError()))


def test_a_silent_peer_that_answers_again() -> None:
    """Goal: it is probed at growing intervals while there are requests, and used from the first answer on."""
    watched = Watched()
    waiting = watched.begin(URLS[0])
    watched.after(SILENT_S)
    watched.miss(URLS[0])
    waiting.end()
    assert watched.pulse.idle, "nobody looks while nothing is asked"
    watched.begin(URLS[1]).rest()
    pause_s = SILENT_AGAIN_S
    while pause_s < SILENT_MOST_S:
        assert watched.after(pause_s * 0.9) == []
        assert watched.after(pause_s * 0.2) == [URLS[0]]
        watched.miss(URLS[0])
        pause_s *= 2
    assert watched.after(SILENT_MOST_S * 1.1) == [URLS[0]]
    watched.pulse.probed(URLS[0], alive=True)
    assert watched.book.promising() == set(URLS)
    assert URLS[0] in {watched.book.pick() for _ in range(3)}


def test_an_answer_that_comes_after_all_ends_the_silence() -> None:
    """Goal: a conditional write that was left waiting is answered: its peer is used again without a probe."""
    watched = Watched()
    kept = watched.begin(URLS[0], may=False)
    watched.after(SILENT_S)
    watched.miss(URLS[0])
    assert URLS[0] not in watched.book.promising()
    kept.rest()
    assert URLS[0] in watched.book.promising()


# --- both clients, on sockets


@pytest.fixture(params=[Client, BlockingAsyncClient], ids=["blocking", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster() as running:
        running.buckets["box"], running.shards["box"] = {}, 64
        yield running


def in_time(act: Any) -> Any:
    """What `act` returns; far sooner than a request waits for one peer."""
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(act()), daemon=True)
    thread.start()
    thread.join(20.0)
    assert done, "it waits for a silent peer"
    return done[0]


def test_puts_and_gets_leave_a_frozen_peer(kind: Any, cluster: FakeCluster) -> None:
    """Goal: two of three peers freeze, with requests at them: each goes on at the third, and the next ones begin there."""
    with open_client(kind, cluster, patience_s=20.0) as client:
        client.put("box", "k", BIG)
        for peer in cluster.peers[1:]:
            peer.freeze()
        for number in range(6):
            assert in_time(lambda number=number: client.put("box", f"k{number}", BIG)).size == len(BIG)
            assert in_time(lambda: client.get("box", "k").read()) == BIG
        for peer in cluster.peers[1:]:
            peer.thaw()
        for _ in range(6):
            assert client.stat("box", "k").size == len(BIG)


def test_a_write_carries_one_id_wherever_it_is_sent(kind: Any, cluster: FakeCluster) -> None:
    """Goal: peers can tell that two attempts are one write, and two writes of a client are two."""
    with open_client(kind, cluster, patience_s=20.0) as client:
        for peer in cluster.peers:
            peer.plan("lose-answer")
        client.put("box", "k", b"1")
        client.delete("box", "k")
        client.put("box", "k", b"2")
    ids = cluster.operations
    assert len(ids) == 6 and len(set(ids[:4])) == 1 and len(set(ids)) == 3


def test_a_download_leaves_a_peer_that_freezes_within_it(kind: Any, cluster: FakeCluster) -> None:
    """Goal: half of the bytes came, then nothing: the rest comes from another peer."""
    with open_client(kind, cluster, patience_s=20.0) as client:
        client.put("box", "k", BIG)
        for peer in cluster.peers[:2]:
            peer.plan("freeze-body")
        for _ in range(4):
            assert in_time(lambda: client.get("box", "k").read()) == BIG


def test_a_condition_is_not_sent_twice(kind: Any, cluster: FakeCluster) -> None:
    """Goal: a conditional put at a peer that freezes is unknown once the peer is gone, and was sent once."""
    with open_client(kind, cluster, patience_s=20.0) as client:
        client.stat("box", client.put("box", "k", b"1").key)
        for peer in cluster.peers:
            peer.plan("freeze")

        def put() -> None:
            with pytest.raises(UnknownOutcome):
                client.put("box", "once", b"2", if_none_match="*")

        thread = threading.Thread(target=put, daemon=True)
        thread.start()
        wait_until(lambda: any(not peer.thawed.is_set() for peer in cluster.peers), "the put has come", 20.0)
        frozen = [peer for peer in cluster.peers if not peer.thawed.is_set()]
        frozen[0].kill()
        thread.join(20.0)
        assert not thread.is_alive()
        assert sum(method == "PUT" and "once" in path for method, path in cluster.seen) == 1


def test_a_probe_does_not_wait_behind_what_it_is_about(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: with every connection taken by requests, the asynchronous client's probe still reaches the peer."""
    monkeypatch.setattr("peer.client.aio.CONNECTIONS", 1)
    with open_client(BlockingAsyncClient, cluster, patience_s=60.0) as client:
        client.put("box", "k", b"1")
        for peer in cluster.peers:
            peer.plan("freeze")
        thread = threading.Thread(
            target=lambda: client.put("box", "once", b"2", if_none_match="*"), daemon=True
        )
        thread.start()
        wait_until(lambda: ("GET", "/health") in cluster.seen, "a probe has come", 20.0)
        for peer in cluster.peers:
            peer.faults.clear()
            peer.thaw()
        thread.join(60.0)
        assert not thread.is_alive()


def test_a_peer_that_left_the_cluster_is_probed_no_more() -> None:
    """Goal (L3): what fell silent and then left is forgotten; a long-lived client probes no former addresses."""
    watched = Watched()
    waiting = watched.begin(URLS[0])
    watched.after(SILENT_S)
    watched.miss(URLS[0])
    waiting.end()
    watched.begin(URLS[1]).rest()
    gone = watched.book._peers
    del gone[URLS[0]]
    assert watched.after(SILENT_MOST_S) == [] and watched.after(SILENT_MOST_S) == []
    assert list(watched.pulse._peers) == [URLS[1]]


def test_a_wait_that_ended_is_not_broken_off() -> None:
    """Goal: once its attempt has failed, a request's wait is over, whatever else it does before the next: what would break
    it off may not exist any more."""

    async def scenario() -> None:
        with fake_cluster() as cluster:
            async with AsyncClient([peer.url for peer in cluster.peers], patience_s=5.0) as client:
                core = client._core
                waiting = core.waiting(URLS[0], core.attempts(PROBE, ()))
                with pytest.raises(AttemptError):
                    await client.send("http://127.0.0.1:1", PROBE, waiting)
                assert core.pulse.idle

    asyncio.run(scenario())


def test_a_client_that_is_dropped_leaves_no_thread(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the thread that looks for silent peers ends when there is nothing to look at, and begins again when there is."""
    monkeypatch.setattr("peer.client.watching.IDLE_S", 0.05)
    client = open_client(Client, cluster)
    for _ in range(2):
        client.put("box", "k", BIG)
        watcher = client._watcher
        wait_until(lambda watcher=watcher: watcher._thread is None, "the thread has ended", 20.0)
    client.close()
