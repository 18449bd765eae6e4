"""The membership on real sockets of the loopback interface, with TCP exchanges replaced by calls."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.codec import DATAGRAM_BYTES, encode, pack, unpack
from gossip.config import Config
from gossip.keyring import Keyring
from gossip.messages import Ack, Packet, Ping
from gossip.record import Record, encode_record
from peer.datagrams import Datagrams
from peer.errors import ProtocolError, Refused, StartupError, Unavailable
from peer.membership import ADDRESSES_MOST, Membership, MemberView

CLUSTER = "c1" * 16
KEY = bytes(range(32))
# Ten times faster than life, so that a death takes half a second.
FAST = Config(
    probe_interval_s=0.1,
    probe_timeout_s=0.05,
    gossip_interval_s=0.02,
    push_pull_interval_s=1.0,
    push_pull_timeout_s=1.0,
    reconnect_interval_s=0.3,
)
DEADLINE_S = 20.0


def free_port() -> int:
    """A UDP port that nobody has, most likely still so in a moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the condition, for at most DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the conditions are of many kinds
            await asyncio.sleep(0.005)


class Town:
    """Some members in this process, and the exchanges between them."""

    def __init__(self) -> None:
        self.members: dict[tuple[str, int], Membership] = {}
        self.changes: dict[str, list[tuple[str, str]]] = {}
        self.asked: list[tuple[str, int]] = []
        self.cut: set[tuple[str, int]] = set()

    async def exchange(self, address: tuple[str, int], payload: bytes, timeout_s: float) -> bytes:
        self.asked.append(address)
        member = self.members.get(address)
        if member is None or address in self.cut:
            raise Unavailable(f"nobody at {address}")
        return await member.handle_exchange(payload)

    async def add(self, number: int, *, boot: int = 1, port: int = 0, **options: Any) -> Membership:
        """Start a member; `options` replace the usual arguments."""
        port = port or free_port()
        me = Record(f"{number:016x}", f"peer-{number}", "127.0.0.1", port, 7400, 7401, boot, 0, "0.1.0", 1)
        heard = self.changes.setdefault(me.id, [])

        def on_change(view: MemberView) -> None:
            heard.append((view.id, view.state))

        arguments: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "keyring": [KEY],
            "cluster_id": CLUSTER,
            "exchange": self.exchange,
            "on_change": on_change,
            "rng": random.Random(number),
            "config": FAST,
        }
        membership = Membership(me, **{**arguments, **options})
        await membership.start()
        self.members["127.0.0.1", port] = membership
        return membership

    async def crash(self, membership: Membership) -> None:
        """Gone without a word."""
        self.members = {address: other for address, other in self.members.items() if other is not membership}
        await membership.stop(leave=False)


def run(story: Callable[[Town], Awaitable[None]]) -> None:
    async def main() -> None:
        town = Town()
        try:
            await story(town)
        finally:
            for membership in town.members.values():
                await membership.stop(leave=False)

    asyncio.run(main())


def address_of(membership: Membership) -> tuple[str, int]:
    me = membership.members()[0]
    return me.host, me.peer_port


def state(membership: Membership, number: int) -> str:
    view = membership.get(f"{number:016x}")
    return "unknown" if view is None else view.state


async def three(town: Town) -> list[Membership]:
    first = await town.add(1)
    others = [await town.add(2), await town.add(3)]
    for other in others:
        assert await other.join([address_of(first)]) == 1
    everyone = [first, *others]
    await until(lambda: all(len(m.members()) == 3 for m in everyone))
    return everyone


def test_three_members_meet_through_one_seed() -> None:
    """Goal: joining any member makes all known to all, with everything their records say."""

    async def story(town: Town) -> None:
        everyone = await three(town)
        await until(lambda: all(state(m, n) == "alive" for m in everyone for n in (1, 2, 3)))
        view = everyone[0].get(f"{3:016x}")
        assert view is not None
        assert (view.name, view.s3_port, view.api_port, view.version) == ("peer-3", 7400, 7401, "0.1.0")
        assert (view.boot, view.format_level, view.epoch, view.flags) == (1, 1, (0, 0), frozenset())
        assert everyone[0].is_alive(f"{3:016x}") and everyone[0].is_alive(f"{1:016x}")
        assert not everyone[0].is_alive(f"{9:016x}") and everyone[0].get(f"{9:016x}") is None
        await until(lambda: everyone[1].stats()["probes"] >= 3)
        assert "strangers" not in everyone[1].stats()

    run(story)


def test_a_crashed_member_is_suspected_then_dead_and_comes_back_at_once() -> None:
    """Goal: death is noticed; a restart with the next boot and a lost incarnation overrules it."""

    async def story(town: Town) -> None:
        first, second, third = await three(town)
        port = address_of(third)[1]
        # An incarnation that the restarted member will not remember.
        for number in range(3):
            third.update(epoch=(0, number + 1))
        await until(lambda: first.get(f"{3:016x}").epoch == (0, 3))  # type: ignore[union-attr]
        await town.crash(third)
        await until(lambda: state(first, 3) == "dead" and state(second, 3) == "dead")
        assert not first.is_alive(f"{3:016x}")
        states = [s for member, s in town.changes[f"{1:016x}"] if member == f"{3:016x}"]
        assert states[-2:] == ["suspect", "dead"]

        again = await town.add(3, boot=2, port=port)
        assert await again.join([address_of(first)]) == 1
        await until(lambda: state(first, 3) == "alive" and state(second, 3) == "alive")
        view = first.get(f"{3:016x}")
        assert view is not None and (view.boot, view.incarnation) == (2, 0)

    run(story)


def test_leaving_differs_from_dying() -> None:
    """Goal: a member that leaves is "left" everywhere, without suspicion."""

    async def story(town: Town) -> None:
        first, second, third = await three(town)
        await third.stop(leave=True)
        await until(lambda: state(first, 3) == "left" and state(second, 3) == "left")
        for observer in (first, second):
            heard = town.changes[observer.members()[0].id]
            assert (f"{3:016x}", "dead") not in heard
            assert not observer.is_alive(f"{3:016x}")

    run(story)


def test_updates_reach_everyone() -> None:
    """Goal: the newest epoch and the flags of a member are known to all soon after it says so."""

    async def story(town: Town) -> None:
        first, second, third = await three(town)
        first.update(epoch=(1, 7), flags=frozenset({"draining"}))

        def known(observer: Membership) -> bool:
            view = observer.get(f"{1:016x}")
            return view is not None and view.epoch == (1, 7) and view.flags == {"draining"}

        await until(lambda: known(second) and known(third))

    run(story)


def test_strangers_and_other_clusters_are_dropped_and_counted() -> None:
    """Goal: nothing sealed with another key or for another cluster, and no noise, has any effect."""

    async def story(town: Town) -> None:
        member = await town.add(1)
        stranger = Record("f" * 16, "stranger", "127.0.0.1", 9, 0, 0, 1, 0, "0", 1)
        body = pack(stranger.id, [encode(Ping(1, f"{1:016x}"))])
        entropy = random.Random(5).randbytes
        datagrams = [
            b"",
            b"noise",
            os.urandom(1500),
            body,
            Keyring([bytes(32)], CLUSTER, entropy).seal(body),
            Keyring([KEY], "d2" * 16, entropy).seal(body),
            Keyring([KEY], CLUSTER, entropy).seal(b"\x93\x01\x02\x03"),
        ]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in datagrams:
                sender.sendto(datagram, address_of(member))
        await until(lambda: member.stats().get("packets_in", 0) == len(datagrams))
        stats = member.stats()
        assert (stats["strangers"], stats["malformed"], stats["known"]) == (6, 1, 0)
        assert stats.get("packets_out", 0) == 0

    run(story)


def test_bad_exchanges_are_refused() -> None:
    """Goal: an exchange from another cluster or of nonsense raises the wire's typed errors only."""

    async def story(town: Town) -> None:
        member = await town.add(1)
        other = await town.add(2, cluster_id="d2" * 16)
        with pytest.raises(Refused):
            await member.handle_exchange(other._swim.join_request(time.monotonic()))
        with pytest.raises(ProtocolError):
            await member.handle_exchange(b"\xc1")
        assert await other.join([address_of(member)]) == 0
        assert len(member.members()) == 1
        assert member.stats()["strangers"] == 2

    run(story)


def test_the_key_rotates_without_a_gap() -> None:
    """Goal: members that seal with different keys of one ring hear each other; a removed key is strange."""

    async def story(town: Town) -> None:
        old, new = KEY, bytes(32)
        first = await town.add(1, keyring=[old, new])
        second = await town.add(2, keyring=[new, old])
        await second.join([address_of(first)])
        await until(lambda: state(first, 2) == "alive" and state(second, 1) == "alive")
        done = [m.stats()["probes"] for m in (first, second)]
        await until(
            lambda: all(m.stats()["probes"] > n + 2 for m, n in zip((first, second), done, strict=True))
        )
        assert "strangers" not in first.stats() and "strangers" not in second.stats()
        second.replace_keys([new])
        await until(lambda: second.stats().get("strangers", 0) > 0)
        first.replace_keys([new])
        heard = second.stats()["packets_in"]
        await until(lambda: second.stats()["packets_in"] > heard + 8)  # what was under way has arrived
        before, heard = second.stats()["strangers"], second.stats()["packets_in"]
        await until(lambda: second.stats()["packets_in"] > heard + 8)
        assert second.stats()["strangers"] == before

    run(story)


def test_a_port_in_use_is_named() -> None:
    """Goal: the error says which port is taken and what to do."""

    async def story(town: Town) -> None:
        member = await town.add(1)
        port = address_of(member)[1]
        with pytest.raises(StartupError, match=rf"UDP port {port} .*--peer-port"):
            await town.add(2, port=port)

    run(story)


def test_seeds_are_resolved_anew_until_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a lone member keeps asking its seeds, by name, and joins when a seed has moved and answers."""

    async def story(town: Town) -> None:
        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo
        where: list[tuple[str, int]] = [("127.0.0.1", free_port())]
        lookups = 0

        async def resolve(host: str, port: int, **options: Any) -> Any:
            nonlocal lookups
            if host != "seed.example":
                return await real(host, port, **options)
            lookups += 1
            return await real(*where[0], **options)

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        member = await town.add(1)
        assert await member.join([("seed.example", 7402)]) == 0
        await until(lambda: lookups >= 2)
        seed = await town.add(2)
        where[0] = address_of(seed)
        await until(lambda: state(member, 2) == "alive")

    run(story)


def test_remembered_addresses_come_before_the_seeds() -> None:
    """Goal: a seed is asked only when no remembered address answers."""

    async def story(town: Town) -> None:
        first, second, third = await town.add(1), await town.add(2), await town.add(3)
        assert await third.join([address_of(second)], [address_of(first)]) == 1
        assert address_of(second) not in town.asked
        town.cut.add(address_of(first))
        fourth = await town.add(4)
        assert await fourth.join([address_of(third)], [address_of(first)]) == 1

    run(story)


def test_members_that_all_start_alone_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: remembered addresses and seeds that answered nobody at first are tried until they do."""
    monkeypatch.setattr("peer.membership.ALONE_FIRST_S", 0.02)
    monkeypatch.setattr("peer.membership.ALONE_LAST_S", 0.1)

    async def story(town: Town) -> None:
        everyone = [await town.add(1), await town.add(2), await town.add(3)]
        addresses = [address_of(member) for member in everyone]
        town.cut.update(addresses)
        for member in everyone[:2]:
            others = [address for address in addresses if address != address_of(member)]
            assert await member.join((), others) == 0
        assert await everyone[2].join([addresses[0]]) == 0
        tried = len(town.asked)
        await until(lambda: len(town.asked) > tried + 12)
        assert all(len(member.members()) == 1 for member in everyone)
        town.cut.clear()
        await until(lambda: all(state(m, n) == "alive" for m in everyone for n in (1, 2, 3)))

    run(story)


def test_of_many_remembered_addresses_each_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the one of 100 remembered addresses where somebody answers is found, a few at a time."""
    monkeypatch.setattr("peer.membership.ALONE_FIRST_S", 0.01)
    monkeypatch.setattr("peer.membership.ALONE_LAST_S", 0.02)

    async def story(town: Town) -> None:
        first, second = await town.add(1), await town.add(2)
        nobody = [("127.0.0.2", port) for port in range(10_000, 10_099)]
        town.cut.add(address_of(second))
        assert await first.join((), [*nobody, address_of(second)]) == 0
        assert len(town.asked) == ADDRESSES_MOST
        town.cut.clear()
        await until(lambda: state(first, 2) == "alive")

    run(story)


def test_a_cut_off_member_finds_its_way_back() -> None:
    """Goal: after its network returns, a member that believes all others dead meets them again by itself."""

    async def story(town: Town) -> None:
        first, second, third = await three(town)
        cut = address_of(third)
        real_send = third._datagrams.send
        real_receive = third._datagrams._receive
        real_exchange = third._exchange

        async def no_exchange(address: tuple[str, int], payload: bytes, timeout_s: float) -> bytes:
            raise Unavailable("cut off")

        town.cut.add(cut)
        third._datagrams.send = lambda address, body: None  # type: ignore[method-assign]
        third._datagrams._receive = lambda packet, source: None
        third._exchange = no_exchange
        await until(lambda: state(first, 3) == "dead" and state(second, 3) == "dead")
        await until(lambda: state(third, 1) == "dead" and state(third, 2) == "dead")
        town.cut.clear()
        third._datagrams.send = real_send  # type: ignore[method-assign]
        third._datagrams._receive = real_receive
        third._exchange = real_exchange
        await until(lambda: all(state(m, n) == "alive" for m in (first, second, third) for n in (1, 2, 3)))

    run(story)


class Responder(threading.Thread):
    """A member in a thread of its own, which answers pings however busy the loop is."""

    def __init__(self, record: Record, bound: socket.socket) -> None:
        super().__init__(daemon=True)
        self.record = record
        self.bound = bound
        self.keyring = Keyring([KEY], CLUSTER, os.urandom)
        self.answered = threading.Event()

    def run(self) -> None:
        while True:
            data, source = self.bound.recvfrom(2048)
            if not data:
                return
            for message in unpack(self.keyring.open(data)).messages:
                if type(message) is Ping:
                    ack = encode(Ack(message.sequence, self.record.id))
                    self.bound.sendto(self.keyring.seal(pack(self.record.id, [ack])), source)
                    self.answered.set()


def test_a_late_loop_accuses_nobody() -> None:
    """Goal: answers that arrived while the loop was stuck count, whichever callback the loop runs first."""

    async def story(town: Town) -> None:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        record = Record("e" * 16, "thread", "127.0.0.1", port, 0, 0, 1, 0, "0", 1)
        responder = Responder(record, bound)
        responder.start()
        member = await town.add(1, config=replace(FAST, probe_interval_s=0.4, probe_timeout_s=0.2))
        member._swim.learn(time.monotonic(), [encode_record(record)])
        try:
            for _ in range(3):
                probes = member.stats()["probes"]
                responder.answered.clear()
                await until(lambda probes=probes: member.stats()["probes"] > probes)  # type: ignore[misc]
                # Stuck: the ping is answered, then its deadlines pass, all within one turn of the loop.
                assert responder.answered.wait(DEADLINE_S)
                threading.Event().wait(0.9)
            await until(lambda: member.stats()["probes"] > probes + 1)
            assert member.stats()["probes_failed"] == 0
            assert town.changes[f"{1:016x}"] == []
        finally:
            bound.sendto(b"", ("127.0.0.1", port))
            responder.join(DEADLINE_S)
            bound.close()

    run(story)


noise = st.binary(max_size=DATAGRAM_BYTES + 60)


@settings(deadline=None, max_examples=150)
@given(st.one_of(noise, st.tuples(st.booleans(), noise)))
def test_no_datagram_raises(content: bytes | tuple[bool, bytes]) -> None:
    """Goal: whatever arrives, open or sealed with our key, is a packet or is dropped and counted."""
    packets: list[Packet] = []
    datagrams = Datagrams(Keyring([KEY], CLUSTER, os.urandom), lambda packet, source: packets.append(packet))
    if isinstance(content, tuple):
        framed, body = content
        body = b"\xdc\x00\x03\x01\xc4\x08" + bytes(8) + body if framed else body
        content = datagrams.keyring.seal(body)
    datagrams._accept(content, ("127.0.0.1", 9))
    counters = datagrams.counters
    assert counters["packets_in"] == 1 and counters["bytes_in"] == len(content)
    assert len(packets) + counters["strangers"] + counters["malformed"] == 1


def test_a_stopped_member_answers_nothing() -> None:
    """Goal: a stopped member does not look alive over TCP while its process still runs."""

    async def story(town: Town) -> None:
        first, second = await town.add(1), await town.add(2)
        await second.stop(leave=False)
        assert await first.join([address_of(second)]) == 0

    run(story)


def test_it_runs_on_uvloop() -> None:
    """Goal: the peer's event loop drives the socket and the timers as the standard one does."""

    async def main() -> None:
        town = Town()
        try:
            everyone = await three(town)
            await until(lambda: all(m.stats()["probes"] > 3 for m in everyone))
            await until(lambda: all(m.stats()["packets_in"] > 5 for m in everyone))
            assert all("strangers" not in m.stats() for m in everyone)
        finally:
            for membership in town.members.values():
                await membership.stop(leave=True)

    uvloop.run(main())


def test_names_of_members_are_resolved() -> None:
    """Goal: a member that advertises a host name is reached by it."""

    async def story(town: Town) -> None:
        first = await town.add(1)
        port = free_port()
        me = Record(f"{2:016x}", "named", "localhost", port, 0, 0, 1, 0, "0.1.0", 1)
        town.changes[me.id] = []
        named = Membership(
            me,
            host="127.0.0.1",
            port=port,
            keyring=[KEY],
            cluster_id=CLUSTER,
            exchange=town.exchange,
            on_change=lambda view: None,
            rng=random.Random(2),
            config=FAST,
        )
        await named.start()
        town.members["localhost", port] = named
        await named.join([address_of(first)])
        await until(lambda: state(first, 2) == "alive")
        probes = first.stats()["probes"]
        await until(lambda: first.stats()["probes"] > probes + 3)
        assert state(first, 2) == "alive"

    run(story)


def test_layers() -> None:
    """Goal: the state machine takes clock, randomness and network from outside, and knows no other room."""
    root = Path(__file__).parent.parent / "gossip"
    banned = ("import time", "import random", "import socket", "import threading", "import asyncio", "peer")
    for path in root.glob("*.py"):
        lines = path.read_text().splitlines()
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        for line in imports:
            assert not any(word in line for word in banned), f"{path.name}: {line}"


def test_the_older_of_two_processes_hears_of_it_once() -> None:
    """Goal: a later start under the same id is somebody else: the older process is told; the later not."""

    async def story(town: Town) -> None:
        ended: list[str] = []
        third = await town.add(3)
        older = await town.add(1, boot=1, on_superseded=lambda: ended.append("older"))
        await older.join([address_of(third)])
        later = await town.add(1, boot=2, on_superseded=lambda: ended.append("later"))
        await later.join([address_of(third)])
        await until(lambda: older.superseded)
        await asyncio.sleep(5 * FAST.probe_interval_s)
        assert ended == ["older"] and not later.superseded

    run(story)


def test_a_change_is_logged_once_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: one line for one change, with the name, or of who has none the beginning of its id."""

    async def story(town: Town) -> None:
        first, second = await town.add(1), await town.add(2)
        await first.join([address_of(second)])
        await until(lambda: first.is_alive(second_id))
        await town.crash(second)
        await until(lambda: not first.is_alive(second_id))

    second_id = f"{2:016x}"
    with caplog.at_level("INFO"):
        run(story)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rsplit(" ", 1)[1] for line in lines if line.startswith("peer peer-2 (127.0.0.1:")] == [
        "alive",
        "suspect",
        "dead",
    ]
