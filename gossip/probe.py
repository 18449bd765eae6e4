"""Finding failures: ping one member per interval, then through others and over TCP, then accuse.

One probe, by the awake clock (`timers.py`):

    start                 ping the next member of the round
    + probe_timeout       no answer: ask three others to ping it, and try it over TCP
    + probe_interval      no answer either: accuse it. The interval stretches with our own ill health.

Without TCP and at a loss of p per datagram, a probe of a healthy member fails with probability
(1 - (1-p)^2) * (1 - (1-p)^4)^3: two datagrams directly, four by way of each relay.
"""

from __future__ import annotations

from dataclasses import dataclass

from gossip.codec import SEQUENCE_MAX, encode
from gossip.host import Host
from gossip.members import Member
from gossip.messages import ALIVE, SUSPECT, Ack, Address, Claim, Nack, Ping, PingRequest
from gossip.timers import Timer


@dataclass(slots=True)
class Probe:
    """Our probe in progress; `belief` is what we believed of the target when it began."""

    sequence: int
    target: Member
    started: float
    belief: tuple[int, int, int]
    timer: Timer
    answered: bool = False
    relays_asked: int = 0
    nacks: int = 0


@dataclass(slots=True)
class Relay:
    """A probe we make for another: whom to tell, under what sequence."""

    asker: Address
    sequence: int
    target: str
    nacked: bool = False


class Prober:
    """At most one probe of our own at a time, and up to `max_relays` for others."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sequence = host.rng.getrandbits(32)
        self._probe: Probe | None = None
        self._relays: dict[int, Relay] = {}

    def start(self) -> None:
        """Begin at a random moment, so that members started together do not probe together."""
        host = self._host
        host.timers.at(host.timers.now + host.rng.random() * host.config.probe_interval_s, self._begin)

    def _begin(self, _: object) -> None:
        host, now = self._host, self._host.timers.now
        self._probe = None
        if host.leaving:
            return
        target = host.members.living.draw()
        if target is None:
            host.timers.at(now + host.config.probe_interval_s, self._begin)
            return
        sequence = self._next_sequence()
        timer = host.timers.at(now + host.config.probe_timeout_s, self._ask_others)
        self._probe = Probe(sequence, target, now, target.belief, timer)
        host.stats.probes += 1
        parts = [encode(Ping(sequence, target.id))]
        if target.state == SUSPECT:
            # The accused hears of the accusation from whoever probes it, not only by chance (Lifeguard's
            # buddy system).
            boot, incarnation, _state = target.belief
            parts.append(encode(Claim(SUSPECT, target.id, boot, incarnation, host.me.id)))
        host.send(target.address, *parts)

    def _ask_others(self, _: object) -> None:
        host, probe = self._host, self._probe
        assert probe is not None
        target = probe.target
        relays = host.members.living.sample(
            host.config.indirect_probes,
            lambda member: member is not target and member.belief[2] == ALIVE,
        )
        request = encode(PingRequest(probe.sequence, target.id, *target.address))
        for relay in relays:
            host.send(relay.address, request)
        probe.relays_asked = len(relays)
        if host.config.tcp_probe:
            host.probe_by_tcp(target, probe.sequence, self._remaining_s(probe))
        probe.timer = host.timers.at(host.timers.now + self._remaining_s(probe), self._fail)

    def _remaining_s(self, probe: Probe) -> float:
        interval = self._host.awareness.stretch(self._host.config.probe_interval_s)
        return max(0.0, probe.started + interval - self._host.timers.now)

    def _fail(self, _: object) -> None:
        host, probe = self._host, self._probe
        assert probe is not None
        host.stats.probes_failed += 1
        # Relays that did not even say no point at us rather than at the target.
        host.awareness.add(probe.relays_asked - probe.nacks if probe.relays_asked else 1)
        # A target that spoke up for itself meanwhile, or that is no member any more, is not accused.
        if probe.target.belief == probe.belief and host.members.known.get(probe.target.id) is probe.target:
            host.accuse(probe.target)
        self._begin(None)

    def acknowledged(self, ack: Ack) -> None:
        """`ack.member` answered a ping of ours: our probe's, or one made for another."""
        host, probe = self._host, self._probe
        if probe is not None and ack.sequence == probe.sequence:
            if not probe.answered and ack.member == probe.target.id:
                probe.answered = True
                host.awareness.add(-1)
                host.timers.cancel(probe.timer)
                resume = max(host.timers.now, probe.started + host.config.probe_interval_s)
                probe.timer = host.timers.at(resume, self._begin)
            return
        relay = self._relays.get(ack.sequence)
        if relay is not None and ack.member == relay.target:
            del self._relays[ack.sequence]
            host.send(relay.asker, encode(Ack(relay.sequence, ack.member)))

    def nacked(self, nack: Nack) -> None:
        """A relay is there, the target it was asked to ping has not answered it."""
        probe = self._probe
        if probe is not None and nack.sequence == probe.sequence:
            probe.nacks = min(probe.nacks + 1, probe.relays_asked)

    def relay(self, request: PingRequest, asker: Address) -> None:
        """Ping a member for another, which is at `asker`."""
        host = self._host
        if len(self._relays) >= host.config.max_relays:
            host.stats.relays_refused += 1
            return
        sequence = self._next_sequence()
        self._relays[sequence] = Relay(asker, request.sequence, request.target)
        wait = host.config.probe_timeout_s * host.config.nack_after
        host.timers.at(host.timers.now + wait, self._relay_waits, sequence)
        # Our own address for the target may be newer than the asker's, or older: it is asked by the asker's.
        host.send((request.host, request.port), encode(Ping(sequence, request.target)))

    def _relay_waits(self, sequence: int) -> None:
        """Say no after most of the timeout; keep listening for as long as the asker does; then forget."""
        host, relay = self._host, self._relays.get(sequence)
        if relay is None:
            return
        if relay.nacked:
            del self._relays[sequence]
            return
        relay.nacked = True
        host.send(relay.asker, encode(Nack(relay.sequence)))
        host.timers.at(host.timers.now + host.config.probe_interval_s, self._relay_waits, sequence)

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) & SEQUENCE_MAX
        return self._sequence
