"""Members on real sockets: they meet, die, leave, rotate keys, and tell each other what changes."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from dataclasses import replace

import pytest
import uvloop

from gossip.codec import encode, pack, unpack
from gossip.keyring import Keyring
from gossip.messages import Ack, Ping
from gossip.record import Record, encode_record
from peer.errors import StartupError
from peer.membership import Membership
from tests.membership_world import (
    CLUSTER,
    DEADLINE_S,
    FAST,
    KEY,
    Town,
    address_of,
    run,
    state,
    three,
    until,
)


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
