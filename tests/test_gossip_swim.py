"""The state machine by hand: one member, the datagrams it gets, what it says and believes."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip import exchange
from gossip.codec import DATAGRAM_BYTES, unpack
from gossip.config import Config
from gossip.errors import GossipError, Malformed
from gossip.host import Exchange, Send
from gossip.keyring import SEAL_BYTES, Keyring
from gossip.messages import (
    ALIVE,
    DEAD,
    LEFT,
    SUSPECT,
    Ack,
    Alive,
    Claim,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
)
from gossip.record import Record, encode_record
from gossip.swim import Swim
from tests.gossip_strategies import claims, junk, largest_record, messages, record, records

CLUSTER = "ab" * 16
HERE = ("10.9.9.9", 1)


def member_id(number: int) -> str:
    return f"{number:016x}"


def alive(number: int, **changes: object) -> Alive:
    of = record(number, **changes)
    return Alive(of, encode_record(of))


class Bench:
    """Member 0, `others` it knows from the start, and its clock."""

    def __init__(self, others: int = 0, **config: Any) -> None:
        self.config = replace(Config(), **config)
        self.swim = Swim(record(0), CLUSTER, self.config, random.Random(3), 0.0)
        self.clock = 0.0
        self.swim.learn(0.0, [encode_record(record(n)) for n in range(1, others + 1)])

    def hear(self, *content: Message, sender: int = 1) -> list[tuple[tuple[str, int], Message]]:
        """Deliver one datagram; returns what is said in answer, as (address, message)."""
        self.swim.receive(self.clock, Packet(member_id(sender), list(content)), HERE)
        return self.said()

    def said(self) -> list[tuple[tuple[str, int], Message]]:
        out = [wish for wish in self.swim.outbox if type(wish) is Send]
        self.swim.outbox = [wish for wish in self.swim.outbox if type(wish) is not Send]
        return [(wish.address, message) for wish in out for message in unpack(wish.body).messages]

    def exchanges(self) -> list[Exchange]:
        out = [wish for wish in self.swim.outbox if type(wish) is Exchange]
        self.swim.outbox = [wish for wish in self.swim.outbox if type(wish) is not Exchange]
        return out

    def state(self, number: int) -> int | None:
        member = self.swim.members.known.get(member_id(number))
        return None if member is None else member.state

    def until(self, kind: type[Message], limit_s: float = 100.0) -> tuple[tuple[str, int], Any]:
        """Let time pass until it says something of this kind."""
        while self.clock < limit_s:
            self.clock = max(self.clock, self.swim.next_clock())
            self.swim.tick(self.clock)
            for address, message in self.said():
                if type(message) is kind:
                    return address, message
        raise AssertionError(f"no {kind.__name__} in {limit_s} s")

    def wait(self, seconds: float) -> list[tuple[tuple[str, int], Message]]:
        """Let time pass; returns what was said."""
        end, said = self.clock + seconds, []
        while self.swim.next_clock() <= end:
            self.clock = max(self.clock, self.swim.next_clock())
            self.swim.tick(self.clock)
            said += self.said()
        self.clock = end
        return said


# Probing


def test_a_ping_is_answered_where_it_came_from() -> None:
    """Goal: the ack goes to the datagram's source; a ping meant for another member is not answered."""
    bench = Bench(1)
    assert bench.hear(Ping(7, member_id(0))) == [(HERE, Ack(7, member_id(0)))]
    assert bench.hear(Ping(8, member_id(5))) == []
    assert bench.swim.stats.misdirected == 1


def test_a_probe_goes_direct_then_through_others_and_tcp_then_accuses() -> None:
    """Goal: the steps of a probe and their moments; the accused hears of it."""
    bench = Bench(5, late_s=10.0)
    address, ping = bench.until(Ping)
    began = bench.clock
    target = int(ping.target, 16)
    assert address == record(target).address
    said = bench.wait(0.5)
    requests = [(to, m) for to, m in said if type(m) is PingRequest]
    assert len({to for to, _ in requests}) == 3 and record(target).address not in dict(requests)
    assert {m for _, m in requests} == {PingRequest(ping.sequence, ping.target, *record(target).address)}
    (tcp,) = bench.exchanges()
    assert tcp.address == record(target).address and tcp.timeout_s == pytest.approx(0.5)
    assert bench.state(target) == ALIVE
    said = bench.wait(began + 1.0 - bench.clock + 0.001)
    assert bench.state(target) == SUSPECT
    claim = Claim(SUSPECT, ping.target, 1, 0, member_id(0))
    assert (record(target).address, claim) in said
    # Nobody said so much as no: the fault may be ours.
    assert bench.swim.awareness.score == 3


@pytest.mark.parametrize("how", ["direct", "relayed", "tcp"])
def test_any_answer_ends_the_probe(how: str) -> None:
    """Goal: an ack by any way counts, from the target only."""
    bench = Bench(4)
    _, ping = bench.until(Ping)
    target = int(ping.target, 16)
    bench.hear(Ack(ping.sequence, member_id(target % 4 + 1)))
    if how != "direct":
        bench.wait(0.6)
    if how == "tcp":
        (tcp,) = bench.exchanges()
        reply = exchange.encode_probe(CLUSTER, ping.target, exchange.PROBE_REPLY, ping.target)
        bench.swim.answered(bench.clock, tcp.token, reply)
    else:
        bench.hear(Ack(ping.sequence, ping.target), sender=target)
    bench.wait(0.5)
    assert bench.state(target) == ALIVE
    assert bench.swim.stats.probes_failed == 0


def test_a_tcp_answer_of_another_member_is_none() -> None:
    """Goal: another process at the address does not keep a dead member alive."""
    bench = Bench(1)
    bench.until(Ping)
    bench.wait(0.6)
    (tcp,) = bench.exchanges()
    wrong = exchange.encode_probe(CLUSTER, member_id(7), exchange.PROBE_REPLY, member_id(7))
    bench.swim.answered(bench.clock, tcp.token, wrong)
    bench.wait(1.0)
    assert bench.state(1) == SUSPECT


def test_nacks_spare_our_own_health() -> None:
    """Goal: relays that answer show that we are well, and the target is not."""
    bench = Bench(5)
    _, ping = bench.until(Ping)
    bench.wait(0.6)
    bench.hear(*[Nack(ping.sequence)] * 3)
    bench.wait(0.5)
    assert bench.state(int(ping.target, 16)) == SUSPECT
    assert bench.swim.awareness.score == 0


def test_a_relay_pings_and_passes_the_answer_on() -> None:
    """Goal: ping for another; say no after most of the timeout; a late answer is still passed on."""
    bench = Bench(2)
    said = bench.hear(PingRequest(9, member_id(2), "10.0.0.2", 7402))
    ((address, ping),) = said
    assert address == ("10.0.0.2", 7402) and type(ping) is Ping and ping.target == member_id(2)
    said = bench.wait(0.41)
    assert (HERE, Nack(9)) in said
    assert bench.hear(Ack(ping.sequence, member_id(2)), sender=2) == [(HERE, Ack(9, member_id(2)))]
    assert bench.hear(Ack(ping.sequence, member_id(2)), sender=2) == []


def test_relays_are_bounded_and_forgotten() -> None:
    """Goal: requests beyond the bound are dropped and counted; unanswered ones leave nothing behind."""
    bench = Bench(2, max_relays=4)
    for sequence in range(6):
        bench.hear(PingRequest(sequence, member_id(2), "10.0.0.2", 7402))
    assert bench.swim.stats.relays_refused == 2
    bench.wait(2.0)
    assert not bench.swim._prober._relays


def test_everyone_is_probed_once_per_round() -> None:
    """Goal: 20 members are all probed in 20 probes, at one per interval."""
    bench = Bench(20)
    seen = []
    for _ in range(20):
        _, ping = bench.until(Ping)
        seen.append(ping.target)
        bench.hear(Ack(ping.sequence, ping.target))
    assert len(set(seen)) == 20
    assert bench.clock < 20.0


def test_a_suspect_hears_of_its_accusation_from_every_probe() -> None:
    """Goal: the buddy system: a ping to a suspect carries the accusation."""
    bench = Bench(1)
    bench.hear(Claim(SUSPECT, member_id(1), 1, 0, member_id(2)))
    said = [message for _, message in bench.wait(1.1)]
    assert any(type(message) is Ping for message in said)
    assert Claim(SUSPECT, member_id(1), 1, 0, member_id(0)) in said


# Beliefs


def test_only_a_record_makes_a_member_known() -> None:
    """Goal: claims about members we do not know change nothing."""
    bench = Bench()
    bench.hear(Claim(DEAD, member_id(4), 1, 0, member_id(1)))
    assert bench.state(4) is None
    bench.hear(alive(4))
    assert bench.state(4) == ALIVE
    assert [m.id for m in bench.swim.changes] == [member_id(4)]


def test_a_suspect_that_stays_silent_dies_and_is_forgotten() -> None:
    """Goal: alive, suspect, dead after 4 s without others, told for 30 s, known for 72 h, then gone."""
    bench = Bench(1, late_s=1e9, tcp_probe=False)
    bench.hear(Claim(SUSPECT, member_id(1), 1, 0, member_id(2)))
    assert bench.state(1) == SUSPECT
    bench.wait(3.9)
    assert bench.state(1) == SUSPECT
    bench.wait(0.2)
    assert bench.state(1) == DEAD
    assert len(bench.swim.members.recent) == 1
    bench.wait(30.1)
    assert len(bench.swim.members.recent) == 0 and len(bench.swim.members.gone) == 1
    bench.swim.config = replace(bench.config, reconnect_interval_s=1e9)
    bench.wait(72 * 3600.0 + 1.0)
    assert bench.state(1) is None
    assert len(bench.swim.members.gone) == 0


def test_the_accused_is_reminded_by_all_who_believe_it() -> None:
    """Goal: whoever believes an accusation tells the accused three times in the shortest time, and its
    answer ends the matter even if the gossip of it was lost."""
    bench = Bench(1, tcp_probe=False)
    claim = Claim(SUSPECT, member_id(1), 1, 0, member_id(2))
    bench.hear(claim)
    bench.swim._broadcasts.discard(member_id(1))
    said = bench.wait(3.9)
    assert [(to, m) for to, m in said if m == claim] == [(record(1).address, claim)] * 3
    accused = Bench(1)
    accused.swim = Swim(record(1), CLUSTER, accused.config, random.Random(1), 0.0)
    ((_, answer),) = [item for item in accused.hear(claim, sender=0) if type(item[1]) is Alive][:1]
    bench.hear(answer)
    assert bench.state(1) == ALIVE


def test_a_restart_overrules_everything_of_the_earlier_life() -> None:
    """Goal: boot comes before incarnation: a restarted member is alive at once, old claims are void."""
    bench = Bench(3)
    bench.hear(alive(1, incarnation=9))
    bench.hear(Claim(DEAD, member_id(1), 1, 9, member_id(2)))
    assert bench.state(1) == DEAD
    bench.hear(alive(1, boot=2, incarnation=0, host="10.7.7.7"))
    assert bench.state(1) == ALIVE
    assert bench.swim.members.known[member_id(1)].address == ("10.7.7.7", 7402)
    for state in (SUSPECT, DEAD, LEFT):
        bench.hear(Claim(state, member_id(1), 1, 99, member_id(2)))
        assert bench.state(1) == ALIVE


def test_left_is_final_for_its_incarnation() -> None:
    """Goal: a member that left is not suspected or dead, and comes back only by its own word."""
    bench = Bench(2)
    bench.hear(Claim(LEFT, member_id(1), 1, 1, member_id(1)))
    assert bench.state(1) == LEFT
    bench.hear(Claim(DEAD, member_id(1), 1, 1, member_id(2)), alive(1, incarnation=1))
    assert bench.state(1) == LEFT
    bench.hear(alive(1, boot=2))
    assert bench.state(1) == ALIVE


facts = st.one_of(
    st.builds(
        lambda n, boot, inc: alive(n, boot=boot, incarnation=inc),
        st.integers(1, 2),
        st.integers(1, 2),
        st.integers(0, 2),
    ),
    st.builds(
        Claim,
        st.sampled_from([SUSPECT, DEAD, LEFT]),
        st.integers(1, 2).map(member_id),
        st.integers(1, 2),
        st.integers(0, 2),
        st.integers(3, 5).map(member_id),
    ),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(facts, min_size=1, max_size=4))
def test_beliefs_do_not_depend_on_order_or_repetition(content: list[Message]) -> None:
    """Goal: I1. Members that heard the same believe the same, in whatever order and however often."""
    outcomes = set()
    for order in permutations(content):
        bench = Bench(2)
        for message in (*order, order[0]):
            bench.hear(message, sender=3)
        known = bench.swim.members.known
        outcomes.add(tuple((known[member_id(n)].belief, known[member_id(n)].raw) for n in (1, 2)))
    assert len(outcomes) == 1


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(messages, facts), max_size=12))
def test_nobody_makes_up_an_incarnation_of_another(content: list[Message]) -> None:
    """Goal: I2. What a member says of others never exceeds what it heard of them; no message breaks it."""
    bench = Bench(2, max_members=6)
    bench.hear(*content)
    heard: dict[str, tuple[int, int]] = {member_id(n): (1, 0) for n in (1, 2)}
    for message in content:
        if type(message) is Alive:
            life, about = message.record.life, message.record.id
        elif type(message) is Claim:
            life, about = (message.boot, message.incarnation), message.member
        else:
            continue
        heard[about] = max(heard.get(about, (0, 0)), life)
    for _, message in [*bench.said(), *bench.wait(3.0)]:
        if type(message) is Alive and message.record.id != member_id(0):
            assert message.record.life <= heard[message.record.id]
        elif type(message) is Claim and message.member != member_id(0):
            assert (message.boot, message.incarnation) <= heard[message.member]


def test_members_are_bounded() -> None:
    """Goal: beyond the bound the gone make room, the living do not."""
    bench = Bench(max_members=3)
    for number in range(1, 6):
        bench.hear(alive(number))
    assert len(bench.swim.members.known) == 3 and bench.swim.members.refused == 2
    bench.hear(Claim(DEAD, member_id(2), 1, 0, member_id(1)))
    bench.hear(alive(9))
    assert bench.state(9) == ALIVE and bench.state(2) is None


# Ourselves


@pytest.mark.parametrize("state", [SUSPECT, DEAD, LEFT])
def test_an_accusation_is_refuted(state: int) -> None:
    """Goal: a higher incarnation, told to the accuser directly and to everyone; our health suffers."""
    bench = Bench(3)
    said = bench.hear(Claim(state, member_id(0), 1, 4, member_id(1)))
    assert bench.swim.me.incarnation == 5
    assert any(to == HERE and type(m) is Alive and m.record == bench.swim.me for to, m in said)
    assert bench.swim.awareness.score == 1 and bench.swim.stats.refutations == 1
    assert not bench.swim.told
    # The same once more is old news: the sender hears the answer, nothing else happens.
    said = bench.hear(Claim(state, member_id(0), 1, 4, member_id(1)))
    assert bench.swim.me.incarnation == 5
    assert any(to == HERE and type(m) is Alive for to, m in said)


def test_a_later_boot_of_ours_is_noticed() -> None:
    """Goal: a process whose id runs elsewhere with a later boot says so and fights nobody."""
    bench = Bench(1)
    bench.hear(alive(0, boot=2))
    assert bench.swim.superseded and bench.swim.me.life == (1, 0)
    bench.hear(Claim(SUSPECT, member_id(0), 2, 0, member_id(1)))
    assert bench.swim.me.life == (1, 0)


def test_updates_raise_the_incarnation_once() -> None:
    """Goal: news of ourselves travel under a new incarnation; what is not new does not travel."""
    bench = Bench(1)
    bench.swim.update(0.0, epoch=(0, 3), flags=frozenset({"full"}))
    bench.swim.update(0.0, epoch=(0, 3))
    assert (bench.swim.me.incarnation, bench.swim.me.epoch, bench.swim.me.flags) == (1, (0, 3), {"full"})


def test_leaving_is_told_and_not_refuted() -> None:
    """Goal: a leaver tells all it can, probes nobody, and lets accusations be."""
    bench = Bench(3)
    bench.swim.leave(0.0)
    said = [*bench.said(), *bench.wait(2.0)]
    told = {to for to, m in said if m == Claim(LEFT, member_id(0), 1, 1, member_id(0))}
    assert told == {record(n).address for n in (1, 2, 3)}
    assert bench.swim.told
    assert not any(type(m) is Ping for _, m in said)
    bench.hear(Claim(SUSPECT, member_id(0), 1, 1, member_id(1)))
    assert bench.swim.me.incarnation == 1


# Exchanges


def test_exchanges_make_two_members_agree() -> None:
    """Goal: one request and its reply teach both sides the larger of each belief."""
    one, two = Bench(3), Bench(0)
    two.swim = Swim(record(9), CLUSTER, two.config, random.Random(9), 0.0)
    one.hear(Claim(LEFT, member_id(2), 1, 0, member_id(2)), Claim(SUSPECT, member_id(3), 1, 0, member_id(1)))
    two.hear(alive(5), alive(1, incarnation=4))
    reply = one.swim.serve(0.0, two.swim.join_request(0.0))
    assert two.swim.joined(0.0, reply) == member_id(0)
    assert [one.state(n) for n in (1, 2, 3, 5, 9)] == [ALIVE, LEFT, SUSPECT, ALIVE, ALIVE]
    # The gone are not worth introducing.
    assert [two.state(n) for n in (0, 1, 2, 3, 5)] == [ALIVE, ALIVE, None, SUSPECT, ALIVE]
    assert one.swim.members.known[member_id(1)].record.incarnation == 4


def test_old_deaths_of_an_exchange_are_only_suspicions() -> None:
    """Goal: after a partition each side gives the other's dead their time to refute, and refutes itself."""
    one, two = Bench(3), Bench(3)
    two.swim = Swim(record(9), CLUSTER, two.config, random.Random(9), 0.0)
    two.hear(alive(1), alive(0), Claim(DEAD, member_id(1), 1, 0, member_id(9)))
    two.hear(Claim(DEAD, member_id(0), 1, 0, member_id(9)))
    one.swim.serve(0.0, two.swim.join_request(0.0))
    assert one.state(1) == SUSPECT
    assert one.swim.me.incarnation == 1


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.binary(max_size=60), junk), st.integers(0, 5))
def test_bad_exchanges_change_nothing(content: object, kind: int) -> None:
    """Goal: whatever arrives as request or reply, only the typed errors come out."""
    bench = Bench(2)
    payload = msgpack.packb([1, CLUSTER, bytes(8), kind, content])
    before = {n: bench.state(n) for n in (1, 2)}
    for event in (bench.swim.serve, bench.swim.joined):
        try:
            event(0.0, payload)
        except GossipError:
            pass
    assert {n: bench.state(n) for n in (1, 2)} == before
    with pytest.raises(Malformed):
        bench.swim.serve(0.0, b"\xc1")


# Time and room


def test_a_pause_accuses_nobody_and_fetches_the_truth() -> None:
    """Goal: after 30 s of not running nothing is overdue, own health is doubted, a membership is asked for."""
    bench = Bench(5)
    bench.until(Ping)
    bench.hear(
        Claim(SUSPECT, member_id(3), 1, 0, member_id(4)), Claim(SUSPECT, member_id(3), 1, 0, member_id(5))
    )
    bench.clock += 30.0
    bench.swim.tick(bench.clock)
    assert bench.state(3) == SUSPECT and bench.swim.stats.probes_failed == 0
    assert bench.swim.stats.pauses == 1 and bench.swim.awareness.score == 1
    (asked,) = bench.exchanges()
    # If that one does not answer, another is asked.
    bench.swim.answered(bench.clock, asked.token, None)
    assert len(bench.exchanges()) == 1


def test_a_storm_of_accusations_leaves_one_timer_per_member() -> None:
    """Goal: accusing and refuting again and again does not pile up timers."""
    bench = Bench(30)
    for incarnation in range(200):
        for number in range(1, 31):
            bench.hear(Claim(SUSPECT, member_id(number), 1, incarnation, member_id(40)))
            bench.hear(alive(number, incarnation=incarnation + 1))
    assert len(bench.swim.timers._heap) < 60


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60),
    st.lists(st.one_of(messages, claims, records.map(lambda r: Alive(r, encode_record(r)))), max_size=10),
    st.integers(0, 2**32),
)
def test_datagrams_stay_under_1400_bytes(others: int, content: list[Message], seed: int) -> None:
    """Goal: with records and names of any length, everything said fits; sealed it is what was promised."""
    swim = Swim(largest_record(0), CLUSTER, Config(), random.Random(seed), 0.0)
    ring = Keyring([bytes(32)], CLUSTER, random.Random(seed).randbytes)
    swim.learn(0.0, [encode_record(largest_record(n)) for n in range(1, others)])
    clock = 0.0
    for step in range(12):
        swim.receive(clock, Packet(member_id(1), [*content, alive(100 + step)]), HERE)
        for number in range(1, others, 3):
            big = largest_record(number, incarnation=step)
            swim.receive(clock, Packet(member_id(1), [Alive(big, encode_record(big))]), HERE)
        clock = max(clock, swim.next_clock())
        swim.tick(clock)
        for wish in swim.outbox:
            if type(wish) is Send:
                assert len(wish.body) + SEAL_BYTES <= DATAGRAM_BYTES < 1400
                assert len(ring.seal(wish.body)) == len(wish.body) + SEAL_BYTES
        swim.outbox.clear()


def test_our_record_is_ours() -> None:
    """Goal: a record cannot be changed, only replaced."""
    with pytest.raises(AttributeError):
        record(1).name = "other"  # type: ignore[misc]
    assert isinstance(record(1), Record)
