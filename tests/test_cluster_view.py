"""The verdict over what peers say of themselves: it claims no health that is not there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from peer.api.clocks import offset_s
from peer.api.cluster import ClusterView
from peer.errors import Unavailable
from peer.replication.messages import INFO, OK
from peer.replication.owners import Owners
from tools.devcluster import FULL_DISK

PORTS = {"peer_port": 3, "s3_port": 1, "api_port": 2}
NAMES = ("one", "two", "three")
OWNERS = Owners(NAMES)


class Peers:
    """Three peers as peer "one" sees them; `infos` is what each says of itself."""

    def __init__(self) -> None:
        members = tuple(
            SimpleNamespace(id=name, name=name, host="h", weight=1, zone="z", state="active", **PORTS)
            for name in NAMES
        )
        table = SimpleNamespace(owners=lambda partition: NAMES, partitions_of=lambda member: 4, width=3)
        self.infos: dict[str, dict[str, Any]] = {name: {"full": "", "healing": {}} for name in NAMES}
        self.flags: dict[str, frozenset[str]] = dict.fromkeys(NAMES, frozenset())
        self.silent: set[str] = set()
        self.states: dict[str, str] = dict.fromkeys(NAMES, "alive")
        self.now_s = 0.0
        epoch = SimpleNamespace(members=members, replicas=3, partition_power=2, table=table, order=(0, 3))
        epoch.generation, epoch.number, epoch.kind, epoch.everybody = 0, 3, "final", members
        replica: Any = SimpleNamespace(
            me="one", epoch=epoch, owners_of=lambda partition: OWNERS, epochs=SimpleNamespace(current=epoch, fenced=False),
            identity=SimpleNamespace(confirmed=True, boot=1), is_member=True, serve=lambda *_, **__: None,
            send=self._send, env=self,
        )  # fmt: skip
        self.replica = replica
        self.view = ClusterView(
            replica, SimpleNamespace(), lambda: self, lambda: self.infos["one"], "1"  # type: ignore[arg-type]
        )  # fmt: skip

    def _send(self, member: str, message: Any, deadline_s: float, done: Any) -> None:
        assert message[0] == INFO
        done((OK, self.infos[member]) if member not in self.silent else Unavailable("no answer in time"))

    def now(self) -> float:
        self.now_s += 0.3
        return self.now_s

    def wall_us(self) -> int:
        return 1_800_000_000_000_000

    def future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def members(self) -> list[Any]:
        return [self.get(name) for name in NAMES]

    def get(self, member: str) -> Any:
        return SimpleNamespace(
            id=member, state=self.states[member], host="127.0.0.1", peer_port=3, s3_port=1, api_port=2, incarnation=1,
            boot=1, last_heard_s=0.0, version="1", epoch=(0, 3), flags=self.flags[member],
        )  # fmt: skip

    def nodes(self) -> dict[str, dict[str, Any]]:
        """By name, after a look."""
        return {node["name"]: node for node in asyncio.run(self.view.nodes())}

    def told(self) -> dict[str, Any]:
        """The verdict after a look."""

        async def look() -> dict[str, Any]:
            await self.view.looked()
            return self.view.verdict()

        return asyncio.run(look())


def codes(told: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in told["reasons"]]


def test_all_is_well() -> None:
    """Goal: three sound peers are healthy, and one may fail."""
    told = Peers().told()
    assert (told["verdict"], codes(told), told["tolerates"]) == ("healthy", [], 1)


def test_a_removed_peer_sends_whoever_asks_to_another_one() -> None:
    """Goal: for the seconds until it ends it answers 503, which clients repeat elsewhere: `atoll status` said that there was
    no such peer."""
    peers = Peers()
    peers.replica.is_member = False
    with pytest.raises(Unavailable, match="ask another one"):
        asyncio.run(peers.view.overview())
    assert peers.view.ready() == (False, ["out of the ring"])


@pytest.mark.parametrize("name", NAMES)
def test_survivors_that_merge_do_not_vote(name: str) -> None:
    """Goal: after `recover epoch` nothing is answered while a survivor is missing, and the verdict says so and what to do;
    it said "degraded", and 200 to load balancers. One of three that still merges leaves a majority."""
    peers = Peers()
    peers.infos[name]["healing"] = {"recovering": True, "behind": True}
    assert peers.told()["verdict"] == "degraded"
    for one in NAMES:
        peers.infos[one]["healing"] = {"recovering": True, "behind": True}
    peers.states["three"] = "dead"
    told = peers.told()
    assert told["verdict"] == "unavailable" and told["partitions"]["unavailable"] == 4
    assert codes(told).count("recovering") == 2 and "start those that are down" in str(told["reasons"])
    assert peers.view.ready() == (False, ["merging what the other survivors hold"])


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_told_by_whoever_is_asked(name: str) -> None:
    """Goal: not healthy while a peer's disk is full; the sentence says whose, why, and what to do."""
    peers = Peers()
    peers.infos[name]["full"] = "it takes no new chunks (9 MiB free is below the floor of 64 MiB)"
    told = peers.told()
    assert (told["verdict"], codes(told)) == ("degraded", ["disk_full"])
    message = told["reasons"][0]["message"]
    assert name in message and "below the floor of 64 MiB" in message and "free some there" in message
    assert peers.view.ready() == ((False, [FULL_DISK]) if name == "one" else (True, []))


def test_a_full_disk_is_known_from_gossip() -> None:
    """Goal: a peer that has not answered yet has said in gossip that its disk is full."""
    peers = Peers()
    del peers.infos["two"]["full"]
    peers.flags["two"] = frozenset({"full"})
    assert codes(peers.told()) == ["disk_full"]


@pytest.mark.parametrize("name", NAMES)
def test_lost_bytes_are_no_copy(name: str) -> None:
    """Goal: while a peer has lost or quarantined bytes it counts as no copy, and the verdict says how many."""
    peers = Peers()
    peers.infos[name]["healing"]["damaged"] = 7
    told = peers.told()
    assert (told["verdict"], codes(told), told["tolerates"]) == ("degraded", ["chunks_damaged"], 0)
    assert told["partitions"]["full"] == 0 and told["partitions"]["unavailable"] == 0
    assert f"{name} has lost the bytes of 7 chunks" in told["reasons"][0]["message"]


@pytest.mark.parametrize("name", NAMES)
def test_damaged_rows_are_no_copy(name: str) -> None:
    """Goal: the same of rows of metadata that do not match their checksums."""
    peers = Peers()
    peers.infos[name]["healing"]["damaged_rows"] = 1
    told = peers.told()
    assert (told["verdict"], codes(told), told["tolerates"]) == ("degraded", ["rows_damaged"], 0)
    assert f"{name} has 1 row of metadata damaged" in told["reasons"][0]["message"]


@pytest.mark.parametrize("state, word", [("dead", "dead"), ("left", "stopped")])
def test_what_becomes_of_a_dead_peer_is_said(state: str, word: str) -> None:
    """Goal: `status` says for how long a peer has been dead and when it is removed, or why not."""
    peers = Peers()
    peers.states["three"] = state
    assert peers.told()["reasons"][0]["message"] == f"three is {word}"
    peers.infos["one"]["healing"]["outlook"] = {"three": "(4 min); it is removed at 15 min"}
    assert peers.told()["reasons"][0]["message"] == f"three is {word} (4 min); it is removed at 15 min"


@pytest.mark.parametrize("state", ["alive", "suspect"])
def test_who_falls_silent_is_no_copy_whatever_it_said_before(state: str) -> None:
    """Goal: a frozen or killed peer that gossip only suspects yet does not count as a full copy for what it told last."""
    peers = Peers()
    assert peers.told()["verdict"] == "healthy"
    peers.states["two"], peers.silent = state, {"two"}
    told = peers.told()
    assert (told["verdict"], codes(told), told["tolerates"]) == ("degraded", ["silent"], 0)
    peers.silent = set()
    assert peers.told()["verdict"] == "healthy", "it was suspected in vain"


def test_who_has_missed_changes_is_no_copy_of_them() -> None:
    """Goal: a peer for which another one keeps hints counts as no full copy until it has fetched what they are about."""
    peers = Peers()
    peers.infos["three"]["healing"]["hints"] = {"two": 5}
    told = peers.told()
    assert (told["verdict"], codes(told), told["tolerates"]) == ("degraded", ["changes_missed"], 0)
    assert told["partitions"]["full"] == 0 and told["partitions"]["unavailable"] == 0


def test_who_asks_while_others_are_being_asked_hears_the_same() -> None:
    """Goal: a status that comes while another one waits for a frozen peer does not answer from what was known before."""
    peers = Peers()
    assert peers.told()["verdict"] == "healthy"
    answers: list[Any] = []

    async def look() -> list[str]:
        peers.view._replica.send = lambda member, message, deadline_s, done: answers.append(done)  # type: ignore[method-assign]

        async def told() -> str:
            await peers.view.looked()
            return str(peers.view.verdict()["verdict"])

        both = asyncio.gather(told(), told())
        for _ in range(5):  # until both wait
            await asyncio.sleep(0)
        for done in answers:
            done(Unavailable("no answer in time"))
        return list(await both)

    assert asyncio.run(look()) == ["degraded", "degraded"]
    assert len(answers) == 2, "each was asked once"


SICK: dict[str, dict[str, Any]] = {
    "behind": {"healing": {"behind": True}},
    "damaged": {"healing": {"damaged": 1}},
    "damaged rows": {"healing": {"damaged_rows": 1}},
    "recovering": {"healing": {"recovering": True}},
    "read-only": {"condition": {"read_only": "it says so"}},
}


@pytest.mark.parametrize("what", [*SICK, "silent", "suspect and silent", "dead", "left", "owed", "nothing"])
def test_who_counts_as_a_copy(what: str) -> None:
    """Goal: a node is whole exactly when the verdict counts it as a copy."""
    peers = Peers()
    peers.infos["two"] |= SICK.get(what, {})
    if "silent" in what:
        peers.silent = {"two"}
    if what in ("dead", "left"):
        peers.states["two"] = what
    if what.startswith("suspect"):
        peers.states["two"] = "suspect"
    if what == "owed":
        peers.infos["three"]["healing"] = {"hints": {"two": 1}}
    whole = {name: node["whole"] for name, node in peers.nodes().items()}
    assert whole == {"one": True, "two": what == "nothing", "three": True}
    assert peers.told()["partitions"]["full"] == (4 if what == "nothing" else 0)


def test_no_failure_is_tolerated() -> None:
    """Goal: operators are warned while one more failure would cost them; when it has, the verdict itself says so."""
    peers = Peers()
    assert peers.told()["warnings"] == []
    peers.states["two"] = "dead"
    told = peers.told()
    assert [one["code"] for one in told["warnings"]] == ["no_failures_tolerated"]
    assert (told["verdict"], told["tolerates"]) == ("degraded", 0)
    peers.states["three"] = "dead"
    told = peers.told()
    assert (told["verdict"], told["warnings"]) == ("unavailable", [])


def test_a_clock_that_is_wrong() -> None:
    """Goal: it is the one wrong clock that is told of, were it the asked peer's own; what is under 5 s is no warning; who
    does not say what the time is, as older versions, has no skew."""
    peers = Peers()
    for name, ahead_s in (("two", 7), ("three", 0)):
        peers.infos[name]["wall_us"] = peers.wall_us() + ahead_s * 1_000_000
    (warning,) = peers.told()["warnings"]
    assert (warning["code"], warning["node"]) == ("clock_skew", "two") and "7 s ahead of the others" in str(
        warning
    )
    peers.infos["three"]["wall_us"] = peers.wall_us() + 7_000_000
    (warning,) = peers.told()["warnings"]
    assert warning["node"] == "one" and "7 s behind the others" in warning["message"]
    skews = {name: node["clock_skew_s"] for name, node in peers.nodes().items()}
    assert skews["one"] == pytest.approx(-7, abs=0.5) and skews["two"] == pytest.approx(0, abs=0.5)
    peers.infos["two"]["wall_us"] = peers.infos["three"]["wall_us"] = peers.wall_us() + 4_000_000
    assert peers.told()["warnings"] == []
    del peers.infos["three"]["wall_us"]
    assert peers.nodes()["three"]["clock_skew_s"] is None
    peers.infos["two"]["wall_us"] = peers.wall_us() + 9_000_000
    peers.silent = {"two"}
    assert peers.nodes()["two"]["clock_skew_s"] is None, "what it said before it fell silent is no news"


def test_an_answer_that_took_long_says_nothing_of_a_clock() -> None:
    """Goal: this process stood still between question and answer: the others' clocks are not to blame."""
    assert offset_s(2_000_000, 1_000_000, 0.5) == 0.75
    assert offset_s(20_000_000, 1_000_000, 19.0) is None


def test_what_a_silent_or_dead_peer_uses_is_not_known() -> None:
    """Goal: it may have been asked last when it was empty; a dead peer with 230 MB was said to use 0 B."""
    peers = Peers()
    peers.infos["two"]["used_bytes"] = 0
    assert (peers.nodes()["two"]["used_bytes"], peers.view.used_bytes("two")) == (0, 0)
    peers.silent = {"two"}
    assert (peers.nodes()["two"]["used_bytes"], peers.view.used_bytes("two")) == (None, None)
    peers.silent, peers.states["two"] = set(), "dead"
    assert (peers.nodes()["two"]["used_bytes"], peers.view.used_bytes("two")) == (None, None)


def test_views() -> None:
    """Goal: who believes whom to be alive; of a peer that does not answer, or whose version does not say, nobody knows."""
    peers = Peers()
    peers.states["two"] = "suspect"
    peers.silent = {"two"}
    peers.infos["one"] |= {"believes": {"two": "suspect"}, "heard_s": {"two": 1.5}}
    told = asyncio.run(peers.view.views())
    assert [member["name"] for member in told["members"]] == ["one", "two", "three"]
    assert {one["name"]: (one["answers"], one["believes"], one["heard_s"]) for one in told["views"]} == {
        "one": (True, {"two": "suspect"}, {"two": 1.5}),
        "two": (False, None, None),
        "three": (True, None, None),
    }


def test_who_has_left_is_forgotten() -> None:
    """Goal: what a peer said, and how its clock was off, is kept no longer than it is a member: every return is another."""
    peers = Peers()
    peers.told()
    epoch = peers.replica.epoch
    epoch.members = epoch.everybody = epoch.members[:2]
    peers.view._infos.offsets["three"] = 1.0
    peers.told()
    assert not peers.view._infos.of("three") and peers.view._infos.of("two")
    assert "three" not in peers.view._infos.offsets
