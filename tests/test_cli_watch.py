"""`atoll status --watch --plain`: every change is a line, progress fills no log, and who answers is always known."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from peer.client.following import CONNECTED, UNREACHABLE, Event
from tests.cluster_tools import wait_until
from tests.cluster_world import ClusterWorld
from tools.cli import told, watch
from tools.cli.changes import SELDOM_S, STALE_S, Change, Changes
from tools.cli.profiles import write_profile
from tools.devlayout import peer_environment

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
NODES = tuple(
    {
        "id": f"id{number}", "name": f"peer-{number}", "state": "alive", "ring": "active", "flags": [], "boot": 1,
        "version": "1.0", "zone": "a", "api_url": f"http://h{number}:7401", "self": number == 1, "share": 0.5,
        "used_bytes": 2048, "capacity_bytes": 1 << 30, "last_heard_s": 0.2,
    }
    for number in (1, 2)
)  # fmt: skip
HEALTHY: dict[str, Any] = {
    "verdict": "healthy", "tolerates": 1, "reasons": [], "warnings": [], "nodes": list(NODES), "replicas": 3,
    "peer": {"name": "peer-1", "version": "1.0"}, "epoch": {"generation": 0, "number": 3, "kind": "final"},
    "redundancy": {"whole": True, "message": "Every object has its 3 copies."},
    "partitions": {"total": 4096, "full": 4096, "degraded": 0, "unavailable": 0},
}  # fmt: skip


class Listener:
    """Changes with a clock that is set by hand."""

    def __init__(self, pace_s: float = 1.0) -> None:
        self.now = 0.0
        self.changes = Changes(pace_s, lambda: BEGINNING + timedelta(seconds=self.now))

    def hear(self, kind: str, data: Mapping[str, Any], after_s: float = 0.0) -> list[Change]:
        self.now += after_s
        return self.changes.apply(Event(kind, data), self.now)

    def lines(self, kind: str, data: Mapping[str, Any], after_s: float = 0.0) -> list[str]:
        return [change.message for change in self.hear(kind, data, after_s)]

    def start(self) -> None:
        self.hear(CONNECTED, {"url": "http://h1:7401", "before": None, "why": None})
        self.hear("cluster", HEALTHY)
        self.hear("repair", {"workers": []})


@pytest.fixture
def listener() -> Listener:
    found = Listener()
    found.start()
    return found


def with_node(number: int, **changed: Any) -> dict[str, Any]:
    nodes = [node | changed if node["name"] == f"peer-{number}" else node for node in NODES]
    return HEALTHY | {"nodes": nodes}


def reason(message: str, code: str, **more: Any) -> dict[str, Any]:
    return {"message": message, "code": code, **more}


def test_the_whole_state_first() -> None:
    """Goal: before any change there is all of it, a sentence a line; later states are only compared."""
    listener = Listener()
    assert listener.lines(CONNECTED, {"url": "http://h1:7401", "before": None}) == [
        "following http://h1:7401"
    ]
    (state,) = listener.hear("cluster", HEALTHY | {"warnings": [reason("peer-2: disk slow", "disk_slow")]})
    assert state.kind == "state" and state.data["cluster"]["verdict"] == "healthy"
    assert state.message.splitlines() == [
        "The cluster is healthy: tolerates 1 failure now.",
        "Every object has its 3 copies.",
        "Warning: peer-2: disk slow (disk_slow)",
        "Partitions: 4096 of 4096 with all copies, 0 degraded, 0 unavailable.",
        "Epoch 0.3, 3 replicas.",
        "All of this is what peer-1 sees, version 1.0.",
        "Peer peer-1: alive, active in the ring, zone a, 2.0 KiB of 1.0 GiB used, 50.0 % of the ring, version 1.0,"
        " API at http://h1:7401.",
        "Peer peer-2: alive, active in the ring, zone a, 2.0 KiB of 1.0 GiB used, 50.0 % of the ring, last heard 0.2 s ago,"
        " version 1.0, API at http://h2:7401.",
    ]
    nothing = "Repair: nothing waits, nothing is paused, nothing fails."
    assert listener.lines("repair", {"workers": []}) == [nothing]
    assert listener.lines("cluster", HEALTHY, 1.0) == ["warning is over: peer-2: disk slow (disk_slow)"]
    assert listener.hear("cluster", HEALTHY | {"time": "later"}, 1.0) == []


def test_the_verdict_and_its_reasons(listener: Listener) -> None:
    """Goal: verdict, tolerance, each reason and warning that comes or goes is a line, at once."""
    down, full = (
        reason("peer-2 is dead", "peer_down"),
        reason("peer-1 is short of space", "disk_full", node="peer-1"),
    )
    degraded = HEALTHY | {"verdict": "degraded", "tolerates": 0, "reasons": [down, full]}
    assert listener.lines("cluster", degraded) == [
        "degraded: tolerates no further failure now (before: healthy: tolerates 1 failure now)",
        "reason: peer-2 is dead (peer_down)",
        "reason: peer-1 is short of space (disk_full)",
        "warning: not one more failure is tolerated: with it some requests would find no majority (no_failures_tolerated)",
    ]
    only_full = degraded | {"reasons": [full]}
    assert listener.lines("cluster", only_full) == ["reason is over: peer-2 is dead (peer_down)"]
    assert [change.kind for change in listener.hear("cluster", HEALTHY)] == [
        "verdict",
        "reason_over",
        "warning_over",
    ]


def test_two_peers_with_the_same_trouble(listener: Listener) -> None:
    """Goal: reasons of one code are told apart by their peers, also where only the sentence names them."""
    two = [reason(f"peer-{n} has lost the bytes of {n} chunks", "chunks_damaged") for n in (1, 2)]
    assert len(listener.hear("cluster", HEALTHY | {"reasons": two})) == 2
    (over,) = listener.lines("cluster", HEALTHY | {"reasons": two[1:]})
    assert over == "reason is over: peer-1 has lost the bytes of 1 chunks (chunks_damaged)"


def test_peers(listener: Listener) -> None:
    """Goal: state, ring state, flags, starts and versions of each peer, members that come and go, and epochs."""
    assert listener.lines("cluster", with_node(2, state="suspect", flags=["slow"], ring="draining")) == [
        "peer-2 is suspect (before: alive)",
        "peer-2 is draining in the ring (before: active)",
        "peer-2: flag slow is up",
    ]
    assert listener.lines("cluster", with_node(2, boot=2, version="2.0")) == [
        "peer-2 is alive (before: suspect)",
        "peer-2 is active in the ring (before: draining)",
        "peer-2 runs version 2.0 (before: 1.0)",
        "peer-2 was started anew (start 2)",
        "peer-2: flag slow is down",
    ]
    stopped = listener.lines("cluster", with_node(2, boot=2, version="2.0", state="left"))
    assert stopped == ["peer-2 is stopped (before: alive)"]
    left = HEALTHY | {"nodes": [NODES[0]], "epoch": {"generation": 0, "number": 4, "kind": "joint"}}
    assert listener.lines("cluster", left) == [
        "peer-2 is no member any more",
        "epoch 0.4 joint is in force (before: 0.3)",
    ]
    came = listener.lines("cluster", HEALTHY)
    assert came[0].startswith("peer-2 is a member now. Peer peer-2: alive, ")


def moving(left: int) -> dict[str, Any]:
    return HEALTHY | {
        "verdict": "degraded",
        "reasons": [reason(f"{left} partitions to merge", "ring_changing")],
    }


def test_progress_is_told_ever_more_seldom(listener: Listener) -> None:
    """Goal: a change of the ring that takes an hour is some seventy lines, not thousands; its end is told at once."""
    listener.hear("cluster", moving(5000))
    told_s = []
    for left in range(3600, 0, -1):
        if listener.hear("cluster", moving(left), 1.0):
            told_s.append(listener.now)
    gaps = [after - before for before, after in pairwise(told_s)]
    assert told_s[0] <= 2 and gaps == sorted(gaps) and max(gaps) == SELDOM_S and 60 <= len(told_s) <= 70
    assert [change.kind for change in listener.hear("cluster", HEALTHY)] == ["verdict", "reason_over"]


def test_what_was_held_back_is_told_later(listener: Listener) -> None:
    """Goal: a change within the pace is not forgotten: it is told with the next thing that is heard."""
    listener.hear("cluster", moving(10), 5.0)
    assert listener.hear("cluster", moving(9), 0.1) == []
    assert listener.hear("requests", {}, 0.1) == []
    assert listener.lines("requests", {}, 1.0) == ["reason: 9 partitions to merge (ring_changing)"]


def hints(queue: int, **more: Any) -> dict[str, Any]:
    return {"workers": [{"worker": "hints", "node": {"id": "id2", "name": "peer-2"}, "queue": queue} | more]}


@pytest.mark.parametrize(("rate", "says"), [(0.0709, "0.0709"), (12.34, "12.3"), (4260.0, "4,260")])
def test_rates_are_written_out(rate: float, says: str) -> None:
    """Goal: no rate is told as 4.26e+03."""
    assert told.worker({"queue": 6, "rate": rate}) == f"6 waiting, {says} a second"


def test_workers(listener: Listener) -> None:
    """Goal: a worker that has something to do, is paused or fails; that it is over again is told soon."""
    assert listener.lines("repair", hints(0)) == []
    told_now = listener.lines("repair", hints(7, rate=2.0, left_s=3.5), 5.0)
    assert told_now == ["repair: hints on peer-2: 7 waiting, 2 a second, 3.5 s left"]
    assert listener.lines("repair", hints(6), 0.1) == []
    assert listener.lines("repair", hints(0), 2.0) == ["repair: hints on peer-2: nothing waits any more"]
    paused = hints(0, state="paused", last_error="no way")
    assert listener.lines("repair", paused, 60.0) == ["repair: hints on peer-2: paused, last error: no way"]


def test_former_members_are_forgotten(listener: Listener) -> None:
    """Goal: a watch that goes on for months keeps nothing of peers that have left the ring."""
    listener.hear("repair", hints(7), 5.0)
    before = len(listener.changes._said)
    assert listener.lines("cluster", HEALTHY | {"nodes": [NODES[0]]}) == ["peer-2 is no member any more"]
    assert listener.lines("repair", {"workers": []}) == [] and len(listener.changes._said) == before - 1


def test_it_moves_to_another_peer(listener: Listener) -> None:
    """Goal: who answers now, who does not any more, and why; peers are called by name once it is known."""
    moved = {"url": "http://h2:7401", "before": "http://h1:7401", "why": "connection refused"}
    assert listener.lines(CONNECTED, moved) == [
        "peer-1 at http://h1:7401 does not answer any more (connection refused): moved to peer-2 at http://h2:7401"
    ]
    again = {"url": "http://h2:7401", "before": "http://h2:7401", "why": "it ended the stream"}
    assert listener.lines(CONNECTED, again) == [
        "peer-2 at http://h2:7401: it ended the stream; connected again"
    ]


def test_nobody_answers(listener: Listener) -> None:
    """Goal: that no peer answers is told with the time from which on, now and then again, and how long it lasted."""
    listener.hear("requests", {}, 5.0)
    failures = {
        "failures": [["http://h1:7401", "connection refused"], ["http://h2:7401", "no answer within 1.6 s"]]
    }
    assert listener.lines(UNREACHABLE, failures, 2.0) == [
        "no peer answers, nothing was heard since 2026-01-01T00:00:05Z; still trying (peer-1 at http://h1:7401: connection"
        " refused; peer-2 at http://h2:7401: no answer within 1.6 s)"
    ]
    found = [change for _ in range(600) for change in listener.hear(UNREACHABLE, failures, 1.0)]
    assert 10 <= len(found) <= 20 and all(change.data["since"] == "2026-01-01T00:00:05Z" for change in found)
    assert re.search(r"no peer answers for (9|10) min,", found[-1].message)
    back = {"url": "http://h2:7401", "before": "http://h1:7401", "why": "connection refused"}
    assert listener.lines(CONNECTED, back) == [
        "peer-2 at http://h2:7401 answers, after 10 min in which no peer did"
    ]


def test_nobody_ever_answered() -> None:
    """Goal: started while the cluster is down it says so, and makes no time up."""
    (first,) = Listener().lines(UNREACHABLE, {"failures": [["http://h1:7401", "connection refused"]]})
    assert first == "no peer answers, none was heard yet; still trying (http://h1:7401: connection refused)"


def test_a_peer_that_answers_and_tells_nothing(listener: Listener) -> None:
    """Goal: what is shown is not taken for fresh because a connection is open."""
    assert listener.changes.tick(listener.now + STALE_S - 1) == []
    (stale,) = listener.changes.tick(listener.now + STALE_S)
    assert (
        stale.message
        == "peer-1 at http://h1:7401 answers, but has told nothing new since 2026-01-01T00:00:00Z"
    )
    assert listener.changes.tick(listener.now + 100) == []


def test_no_failure_tolerated_is_said_once() -> None:
    """Goal: a peer of an earlier version does not warn of it, so the command does; a newer one's own words are left."""
    assert [one["code"] for one in told.warnings({"tolerates": 0, "verdict": "degraded"})] == [
        told.NO_FAILURES
    ]
    own = [reason("its own words", told.NO_FAILURES)]
    assert told.warnings({"tolerates": 0, "verdict": "degraded", "warnings": own}) == own
    assert told.warnings({"tolerates": 0, "verdict": "unavailable"}) == told.warnings({"tolerates": 1}) == []


async def replayed(*events: Event) -> AsyncIterator[Event]:
    for event in events:
        yield event


STORY = (
    Event(CONNECTED, {"url": "http://h1:7401", "before": None, "why": None}),
    Event("cluster", HEALTHY),
    Event("repair", {"workers": []}),
    Event("cluster", with_node(2, state="dead", name="peer\x1b[31m-2\r")),
    Event("news of a later version", {"odd": 1}),
)


def written(form: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    asyncio.run(watch.tell(replayed(*STORY), Changes(), form))
    return out.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: lines for screen readers and logs: printable characters, no tables, no colour, not even from a name."""
    text = written(watch.as_text, monkeypatch)
    assert all(line.isprintable() and line.isascii() for line in text.removesuffix("\n").split("\n"))
    first, second, *state, last = text.splitlines()
    assert re.fullmatch(f"{STAMP} following http://h1:7401", first)
    assert re.fullmatch(f"{STAMP} the state of the cluster:", second)
    assert len(state) == 8 and not any(re.match(STAMP, line) for line in state)
    assert re.fullmatch(STAMP + r" peer\\x1b\[31m-2\\r is dead \(before: alive\)", last)


def test_one_document_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: with -o json or jsonl each line is a document that says what kind of change it is."""
    documents = [json.loads(line) for line in written(watch.as_json, monkeypatch).splitlines()]
    assert [one["kind"] for one in documents] == ["connected", "state", "workers", "peer"]
    assert all(re.fullmatch(STAMP, one["time"]) for one in documents)
    assert documents[1]["cluster"] == HEALTHY and documents[3]["state"] == "dead"


def test_verdicts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: with -o name there is a word whenever the verdict changes."""
    assert written(watch.as_verdict, monkeypatch).splitlines() == ["healthy"]


# --- on real peers


@contextmanager
def watching(world: ClusterWorld, *options: str, stdout: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`atoll status --watch` with a profile that knows one peer."""
    environment = peer_environment() | {"ATOLL_CONFIG_HOME": str(world.layout.data)}
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # jobs in the background inherit that it is ignored
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.cli", "status", "--watch", *options],
            env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_on_a_live_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: it outlives the peer that it knew, tells what happened to that, says so when no peer answers, goes on when one
    is back, and ends with 130 at Ctrl-C."""
    with ClusterWorld(tmp_path / "peers") as world:
        monkeypatch.setenv("ATOLL_CONFIG_HOME", str(world.layout.data))
        write_profile("watched", [world.api_url(0)], *world.credentials, True)
        out = tmp_path / "out"
        with out.open("wb") as file, watching(world, "--plain", stdout=file) as process:

            def says(pattern: str) -> None:
                wait_until(lambda: re.search(pattern, out.read_text(), re.MULTILINE) is not None, pattern)

            says(r"^Peer peer-3: alive, ")
            world.kill(0)
            says(rf"^{STAMP} peer-1 at \S+ does not answer any more \(.*\): moved to peer-[23] at ")
            says(rf"^{STAMP} degraded: tolerates no further failure now")
            says(rf"^{STAMP} warning: .* \(no_failures_tolerated\)")
            says(rf"^{STAMP} peer-1 is dead")
            world.kill_all()
            says(rf"^{STAMP} no peer answers, nothing was heard since {STAMP}")
            world.start_again()
            says(rf"^{STAMP} peer-\d at \S+ answers, after .* in which no peer did")
            says(rf"^{STAMP} healthy: ")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert process.stderr is not None and process.stderr.read().strip() == b"atoll: interrupted"
            assert all(line.isprintable() for line in out.read_text().splitlines())
        plain = world.atoll("status", "--plain").stdout.splitlines()
        assert plain[0] == "The cluster is healthy: tolerates 1 failure now." and plain[-1].startswith(
            "Repair: "
        )
        reading, writing = os.pipe()
        with watching(world, "-o", "jsonl", stdout=writing) as process:
            os.close(writing)
            with os.fdopen(reading, "rb") as lines:
                assert json.loads(lines.readline())["kind"] == "connected"
            assert process.wait(60) == 1, "nobody reads any more, and nothing need happen for it to notice"
            assert process.stderr is not None and process.stderr.read() == b""
