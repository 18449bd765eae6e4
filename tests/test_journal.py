"""The journal of a peer: bounds, what gets in, and how the journals of all are merged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from peer.api.logview import FIRST, LogView
from peer.api.sentinel import Sentinel
from peer.errors import Unavailable
from peer.journal import ADMIN, INFO, KEPT, MESSAGE_MOST, WARNING, Entry, Journal
from peer.replication.messages import LOG, OK, STALE
from peer.reporter import Reporter
from ring.changes import completed, drained, joint_of
from ring.members import ACTIVE
from tests.test_ringview import FINAL, JOINT, PEERS


class Clock:
    def __init__(self) -> None:
        self.now_us = 1_800_000_000_000_000

    def __call__(self) -> int:
        self.now_us += 1
        return self.now_us


def codes(journal: Journal) -> list[str]:
    return [entry.code for entry in journal.since((0, 0), KEPT)]


# --- one journal


def test_a_journal_is_bounded() -> None:
    """Goal: the newest entries stay, long messages are cut, and what one has read is not read again."""
    journal = Journal(Clock(), 3)
    assert journal.newest == (3, 0) and journal.since((0, 0), 10) == []
    for number in range(KEPT + 5):
        journal.note(INFO, ADMIN, str(number), "x" * 10_000)
    entries = journal.since((0, 0), 10_000)
    assert [entry.number for entry in entries] == list(range(6, KEPT + 6))
    assert all(len(entry.message) == MESSAGE_MOST for entry in entries)
    assert [entry.number for entry in journal.since((3, KEPT), 10_000)] == list(range(KEPT + 1, KEPT + 6))
    assert [entry.number for entry in journal.since((2, 10**9), 2)] == [KEPT + 4, KEPT + 5], (
        "an earlier start"
    )
    assert journal.since(journal.newest, 10) == journal.since((0, 0), 0) == []


# --- what gets in


def member(state: str, boot: int = 1) -> Any:
    return SimpleNamespace(id="b" * 16, label="peer-2", host="h", peer_port=2, state=state, boot=boot)


def test_members() -> None:
    """Goal: deaths, returns and starts are written once each; that one is alive at first is no news, nor is a flag."""
    journal = Journal(Clock(), 1)
    reporter = Reporter(journal)
    for view in (member("alive"), member("alive"), member("suspect"), member("suspect"), member("dead"),
                 member("alive", 2), member("alive", 3), member("left", 3)):  # fmt: skip
        reporter.member(view)
    assert codes(journal) == ["peer_suspect", "peer_dead", "peer_alive", "peer_restarted", "peer_left"]


def test_rings() -> None:
    """Goal: an entry says what changes, and when that is over."""
    journal = Journal(Clock(), 1)
    reporter = Reporter(journal)
    for ring in (FINAL, JOINT, completed(JOINT)):
        reporter.epoch(ring)
    first, joint, final = journal.since((0, 0), 10)
    assert (first.code, joint.code, final.code) == ("ring_final", "ring_joint", "ring_final")
    assert PEERS[0].state == ACTIVE and f"{PEERS[0].name} is draining" in joint.message
    assert "peer" not in final.message, "what it was about was said"
    leaving = completed(joint_of(FINAL, drained(FINAL, PEERS[0].id, leave=True)))
    reporter.epoch(leaving)
    assert f"{PEERS[0].name} is leaving" in journal.since(final.mark, 1)[0].message


def about(**parts: Any) -> dict[str, Any]:
    """What a peer that is well tells of itself, but for these parts."""
    info: dict[str, Any] = {
        "healing": {"workers": [], "damaged": 0, "damaged_rows": 0, "missing": 0},
        "condition": {"slow": None, "read_only": "", "blocked": None, "standstills": 0},
        "replication": {"quarantined": 0, "lost": 0},
        "full": "",
    }
    for part, told in parts.items():
        info[part] = info.get(part, {}) | told if isinstance(told, dict) else told
    return info


def worker(name: str, state: str, done: int = 0, **detail: int) -> dict[str, Any]:
    return {"name": name, "state": state, "done": done, "last_error": "why", "detail": detail}


LOOKS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "nothing": ([about(), about()], []),
    "a worker fails and works": (
        [
            about(healing={"workers": [worker("hints", state, done)]})
            for state, done in (("idle", 7), ("failing", 7), ("busy", 7), ("failing", 7), ("busy", 8), ("idle", 8))
        ],
        ["worker_failing", "worker_works"],
    ),
    "damage that stays a while, and grows": (
        [
            about(healing={"damaged": damaged}, replication={"quarantined": found})
            for damaged, found in ((0, 0), (1, 1), (1, 1), (2, 2), (3, 3), (0, 3))
        ],
        ["chunks_damaged", "chunks_damaged", "chunks_mended"],
    ),
    "damage that was mended before anybody looked": (
        [about(), about(replication={"quarantined": 1})], ["chunks_damaged", "chunks_mended"],
    ),
    "what an earlier life found damaged": ([about(healing={"damaged": 5}), about()], ["chunks_damaged", "chunks_mended"]),
    "what was counted before the first look": ([about(replication={"lost": 5})], []),
    "rows": (
        [
            about(healing={"workers": [worker("scrub", "idle", bad_rows=bad)], "damaged_rows": now})
            for bad, now in ((4, 0), (4, 1), (5, 0))
        ],
        ["rows_damaged", "rows_mended"],
    ),
    "chunks that nobody has": (
        [about(healing={"missing": count}) for count in (0, 2, 2, 0)], ["chunks_missing", "chunks_found"]
    ),
    "a standstill": (
        [about(), about(condition={"standstills": 1, "blocked": {"stopped": False, "lasted_s": 2.5}})], ["standstill"],
    ),
    "certificates": (
        [
            about(tls={"fingerprint": shown, "problem": why, "not_after": "2030-01-01T00:00:00Z"} if shown else None)
            for shown, why in (("", ""), ("A", ""), ("A", "broken"), ("A", "broken"), ("B", ""), ("B", ""))
        ],
        ["certificate_unusable", "certificate_changed"],
    ),
    "an eviction": (
        [about(healing={"workers": [worker("eviction", "idle", removed=count)]}) for count in (0, 1, 1)], ["evicted"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LOOKS)
def test_looks(what: str) -> None:
    """Goal: a change is written once, with its end, however often this peer looks."""
    journal = Journal(Clock(), 1)
    reporter = Reporter(journal)
    looks, expected = LOOKS[what]
    for info in looks:
        reporter.look(info)
    assert codes(journal) == expected


def test_disks() -> None:
    """Goal: an ill disk and its recovery are written with the reason that is known."""
    journal = Journal(Clock(), 1)
    reporter = Reporter(journal)
    reporter.flags(frozenset({"slow"}), about(condition={"slow": {"operation": "fsync", "took_s": 3.0}}))
    reporter.flags(frozenset({"slow", "full", "read-only", "blocked"}), about(full="no room"))
    reporter.flags(frozenset(), about())
    told = {entry.code: entry.message for entry in journal.since((0, 0), 10)}
    assert told["disk_slow"] == "the disk is slow: one fsync took 3 s" and told["disk_full"].endswith(
        "no room"
    )
    assert list(told) == [
        "disk_slow", "disk_full", "disk_read_only", "disk_full_over", "disk_read_only_over", "disk_slow_over",
    ]  # fmt: skip


# --- the journals of all


class World:
    """Journals of some peers, as the first of them sees them."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.ids = [f"{number:016x}" for number in range(1, count + 1)]
        self.journals = {one: Journal(self.clock, 1) for one in self.ids}
        self.dead: set[str] = set()
        self.silent: set[str] = set()
        self.old: set[str] = set()
        self.sent: list[tuple[str, int]] = []  # who was asked, and how many entries came
        members = tuple(SimpleNamespace(id=one, name=f"peer-{int(one, 16)}") for one in self.ids)
        epoch = SimpleNamespace(members=members, everybody=members)
        self.handler: Callable[..., None] = lambda *_: None
        replica: Any = SimpleNamespace(
            epoch=epoch, send=self._send, env=self, serve=self._serve, me=self.ids[0]
        )
        self.mad: dict[str, Any] = {}
        self.replica = replica
        self.view = LogView(replica, self.journals[self.ids[0]], lambda one: one not in self.dead)

    def _serve(self, op: int, handler: Any, *, votes: bool) -> None:
        assert (op, votes) == (LOG, False)

    def _send(self, member: str, message: Any, deadline_s: float, done: Any) -> None:
        assert member not in self.dead, "the dead are not asked"
        if member in self.silent:
            return done(Unavailable("no answer in time"))
        if member in self.old:
            return done((STALE, 7))
        if member in self.mad:
            return done((OK, self.mad[member]))
        replies: list[Any] = []
        other = LogView.__new__(LogView)
        other._journal = self.journals[member]
        LogView._on_log(other, message, replies.append)
        self.sent.append((member, len(replies[0][1])))
        assert replies[0][0] == OK
        return done((OK, [[*entry, "of a later version"] for entry in replies[0][1]]))

    def now(self) -> float:
        return 0.0

    def future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def note(self, peer: int, code: str) -> None:
        self.journals[self.ids[peer]].note(WARNING, ADMIN, code, code)

    def infos(self) -> dict[str, dict[str, Any]]:
        """What those that answer tell of themselves."""
        mute = self.dead | self.silent
        return {
            one: {} if one in self.old else {"journal": [*self.journals[one].newest]}
            for one in self.ids
            if one not in mute
        }

    def news(self) -> list[str]:
        return [entry["code"] for entry in asyncio.run(self.view.news(self.infos()))]

    def listed(self, limit: int) -> tuple[list[str], dict[str, str]]:
        told = asyncio.run(self.view.listed(limit))
        return [one["code"] for one in told["events"]], {
            one["node"]: one["message"] for one in told["failed"]
        }


def test_merged_by_time() -> None:
    """Goal: the newest of all, oldest first; and whose are missing, with the reason."""
    world = World(5)
    for number in range(10):
        world.note(number % 5, str(number))
    assert world.listed(1000) == ([str(number) for number in range(10)], {})
    assert world.listed(3)[0] == ["7", "8", "9"]
    world.dead, world.silent, world.old = {world.ids[1]}, {world.ids[2]}, {world.ids[3]}
    told, failed = world.listed(1000)
    assert told == ["0", "4", "5", "9"]
    assert failed == {
        "peer-2": "it is out of reach", "peer-3": "it did not answer", "peer-4": "its version keeps no journal",
    }  # fmt: skip


@pytest.mark.parametrize("nonsense", [7, [[1, 2]], [[1, 2, "now", "info", "ring", "x", "y"]], [None]])
def test_one_peers_nonsense_does_not_hide_the_others(nonsense: Any) -> None:
    """Goal: a reply that is no journal is said to be none, and everybody else's entries are told."""
    world = World(3)
    for number in range(6):
        world.note(number % 3, str(number))
    world.mad = {world.ids[1]: nonsense}
    told, failed = world.listed(1000)
    assert told == ["0", "2", "3", "5"]
    assert failed == {"peer-2": "what it told of its journal makes no sense"}


def test_many_journals_are_not_sent_whole() -> None:
    """Goal: with 100 peers that have a thousand entries each, the newest thousand cost no hundred thousand; one peer that
    wrote them all is asked for all of them."""
    world = World(100)
    for _ in range(KEPT):
        for peer in range(1, 100):
            world.note(peer, "old")
    newest = [str(number) for number in range(KEPT)]
    for code in newest:
        world.note(0, code)
    told, failed = world.listed(KEPT)
    assert (told, failed) == (newest, {})
    assert sum(count for _, count in world.sent) < 5 * KEPT


def test_following() -> None:
    """Goal: at first the newest of all, then what is new, once; who has nothing new, is of an older version or comes back
    after a restart is dealt with."""
    world = World(3)
    world.old = {world.ids[2]}
    for number in range(2 * FIRST):
        world.note(number % 2, str(number))
    assert world.news() == [str(number) for number in range(FIRST, 2 * FIRST)]
    assert [entry["code"] for entry in world.view.recent][-1] == str(2 * FIRST - 1)
    world.sent.clear()
    assert world.news() == [] and world.sent == [], "nobody has anything new, so nobody is asked"
    world.note(1, "a")
    assert world.news() == ["a"] and world.sent == [(world.ids[1], 1)]
    world.journals[world.ids[1]] = Journal(world.clock, 2)
    world.note(1, "anew")
    assert world.news() == ["anew"]
    world.note(1, "b")
    world.silent = {world.ids[1]}
    assert world.news() == []
    world.silent = set()
    assert world.news() == ["b"]
    world.view.forget()
    assert len(world.news()) == FIRST


def test_an_entry_as_it_is_told() -> None:
    world = World(1)
    world.note(0, "drain")
    (entry,) = asyncio.run(world.view.listed(10))["events"]
    assert entry == {
        "id": f"{world.ids[0]}-1-1", "time": "2027-01-15T08:00:00.000001Z", "node": {"id": world.ids[0], "name": "peer-1"},
        "level": "warning", "kind": "admin", "code": "drain", "message": "drain",
    }  # fmt: skip
    assert Entry(1, 2, 3, "info", "admin", "c", "m").mark == (1, 2)


# --- the verdict


def test_the_first_living_member_writes_the_verdict_down() -> None:
    """Goal: changes of the verdict and of clocks are in one journal, also while nobody watches; the others leave it to that
    peer, and one that has its turn anew tells where it begins."""
    ids = ["a" * 16, "b" * 16]
    members = [SimpleNamespace(id=one, name=one[0]) for one in ids]
    journal = Journal(Clock(), 1)

    class Cluster:
        living = members
        word, skew_s = "healthy", 0.0

        async def looked(self) -> None:
            pass

        def standing(self) -> Any:
            skews = {ids[1]: self.skew_s}
            return SimpleNamespace(living=self.living, skews=skews, epoch=SimpleNamespace(members=members))

        def verdict(self, standing: Any = None) -> dict[str, Any]:
            return {
                "verdict": self.word,
                "reasons": [{"message": f"reason {n}"} for n in range(5 * (self.word != "healthy"))],
            }

    cluster = Cluster()
    sentinel = Sentinel(SimpleNamespace(me=ids[1]), cluster, journal)  # type: ignore[arg-type]

    def look(**changes: Any) -> list[str]:
        before = journal.newest
        for name, value in changes.items():
            setattr(cluster, name, value)
        asyncio.run(sentinel.look())
        return [entry.code for entry in journal.since(before, 10)]

    assert look() == []
    assert look(living=members[1:]) == ["verdict_healthy"]
    assert look() == []
    assert look(word="degraded", skew_s=-7.0) == ["verdict_degraded", "clock_skew"]
    told = {entry.code: entry.message for entry in journal.since((0, 0), 10)}
    assert (
        told["verdict_degraded"]
        == "the cluster is degraded: reason 0; reason 1; reason 2; and 2 more reasons"
    )
    assert told["clock_skew"] == "the clock of b is 7 s behind the others"
    assert look(skew_s=-1.0) == ["clock_right"]
    assert look(living=members) == []
    assert look(living=members[1:]) == ["verdict_degraded"]
