"""The membership of one peer: SWIM with Lifeguard's extensions, as a state machine.

Events are method calls with the caller's monotonic clock in seconds: `receive` a datagram, `serve` an
exchange or take its answer (`answered`), `tick` when `next_clock()` has come. Afterwards `outbox` holds
what to send and `changes` the members whose state or record changed; the caller empties both. The caller
empties its socket before it calls `tick`, so that an answer that has arrived counts before the deadline
it answers.

The rules that keep it right: beliefs form an order and the larger wins (`members.py`, I1); only a member
itself raises its incarnation (I2), here in `_reincarnate` and nowhere else; time during which this process
did not run does not count against others (`timers.py`).

Sources: Das, Gupta, Motivala: SWIM, DSN 2002. Dadgar, Phillips, Currey: Lifeguard, DSN 2018.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gossip.awareness import Awareness
from gossip.broadcast import Broadcasts
from gossip.codec import ROOM_BYTES, encode, pack
from gossip.config import Config
from gossip.exchange import Entry
from gossip.host import Exchange, Send, Stats
from gossip.members import Belief, Member, Members
from gossip.messages import (
    ALIVE,
    DEAD,
    LEFT,
    SUSPECT,
    Ack,
    Address,
    Alive,
    Claim,
    Nack,
    Packet,
    Ping,
    PingRequest,
)
from gossip.probe import Prober
from gossip.record import INCARNATION_MAX, Record, decode_record, encode_record
from gossip.roster import Rng
from gossip.suspicion import Suspicion
from gossip.sync import Sync
from gossip.timers import Timer, Timers


class Swim:
    """One member's state machine. `me.boot` must be higher than in any earlier run of this id."""

    def __init__(self, me: Record, cluster_id: str, config: Config, rng: Rng, clock: float) -> None:
        self.config = config
        self.rng = rng
        self.me = me
        self.raw = encode_record(me)
        self.timers = Timers(clock, config.late_s)
        self.members = Members(config, rng)
        self.awareness = Awareness(config.awareness_max)
        self.stats = Stats()
        self.leaving = False
        # A process with our id and a later boot is about: a copied data directory, or we are the old one.
        self.superseded = False
        self.outbox: list[Send | Exchange] = []
        self.changes: list[Member] = []
        self._broadcasts = Broadcasts(me.id, config.max_broadcasts)
        self._gossip_timer: Timer | None = None
        self._owe_record = False
        self._prober = Prober(self)
        self._sync = Sync(self, cluster_id)
        self._prober.start()
        self._sync.start()

    # Events

    def receive(self, clock: float, packet: Packet, source: Address) -> None:
        """A datagram arrived from `source`, where an answer goes."""
        self._observe(clock)
        sender = self.members.known.get(packet.sender)
        if sender is not None:
            sender.heard_at = self.timers.now
        self.stats.unknown += packet.unknown
        self._owe_record = False
        for message in packet.messages:
            kind = type(message)
            if kind is Claim:
                self._hear(message)  # type: ignore[arg-type]
            elif kind is Alive:
                self._introduce(message.record, message.raw)  # type: ignore[union-attr]
            else:
                self._answer(message, source)  # type: ignore[arg-type]
        if self._owe_record:
            # The sender accuses us, or repeats what was: it hears our answer directly, not by chance.
            self.send(source, encode(Alive(self.me, self.raw)))

    def _answer(self, message: Ping | PingRequest | Ack | Nack, source: Address) -> None:
        if type(message) is Ping:
            if message.target == self.me.id:
                self.send(source, encode(Ack(message.sequence, self.me.id)))
            else:
                self.stats.misdirected += 1
        elif type(message) is Ack:
            self._prober.acknowledged(message)
        elif type(message) is PingRequest:
            self._prober.relay(message, source)
        elif type(message) is Nack:
            self._prober.nacked(message)

    def tick(self, clock: float) -> None:
        """Do what is due. Call it when `next_clock()` has come and the socket is empty."""
        self._observe(clock)
        while (timer := self.timers.pop_due()) is not None:
            timer[2](timer[3])

    def next_clock(self) -> float:
        """When to call `tick` next, on the caller's clock; may become earlier with any event."""
        return self.timers.next_clock()

    def serve(self, clock: float, payload: bytes) -> bytes:
        """Answer another member's exchange. Raises Malformed or Stranger; then nothing changed."""
        self._observe(clock)
        return self._sync.serve(payload)

    def answered(self, clock: float, token: int, reply: bytes | None) -> None:
        """The reply to an Exchange, None if there was none. Raises Malformed or Stranger for a bad one."""
        self._observe(clock)
        self._sync.answered(token, reply)

    def join_request(self, clock: float) -> bytes:
        """What to send to an address that may be a member's, such as a seed."""
        self._observe(clock)
        return self._sync.request()

    def joined(self, clock: float, reply: bytes) -> str:
        """Its reply: returns the id of who answered. Raises Malformed or Stranger; then nothing changed."""
        self._observe(clock)
        return self._sync.merge_reply(reply)

    def update(
        self, clock: float, *, epoch: tuple[int, int] | None = None, flags: frozenset[str] | None = None
    ) -> None:
        """Tell everyone something new about ourselves; nothing happens if it is not new."""
        self._observe(clock)
        record = replace(
            self.me,
            epoch=self.me.epoch if epoch is None else epoch,
            flags=self.me.flags if flags is None else flags,
        )
        if record != self.me and not self.leaving:
            self.me = record
            self._reincarnate(record.incarnation)

    def leave(self, clock: float) -> None:
        """Announce that we go on purpose. Nothing is probed any more; `told` says when news are out."""
        self._observe(clock)
        if self.leaving:
            return
        self.leaving = True
        self._reincarnate(self.me.incarnation)
        self._broadcasts.put(self.me.id, encode(Claim(LEFT, self.me.id, *self.me.life, self.me.id)))
        if self._gossip_timer is not None:
            self.timers.cancel(self._gossip_timer)
        self._gossip(None)

    @property
    def told(self) -> bool:
        """Our latest news of ourselves have been passed on as often as news are."""
        return self.me.id not in self._broadcasts

    def learn(self, clock: float, records: Iterable[bytes]) -> None:
        """Members known from elsewhere, alive until probes say otherwise; not passed on as news."""
        self._observe(clock)
        for raw in records:
            record = decode_record(raw)
            if record.id != self.me.id and record.id not in self.members.known:
                self.members.add(record, raw, self.timers.now)

    def _observe(self, clock: float) -> None:
        late = self.timers.observe(clock)
        if late > 0.0:
            self.stats.pauses += 1
            if late > self.config.probe_timeout_s:
                self.awareness.add(1)
            if late > self.config.resync_after_s and not self.leaving:
                self._sync.resync()

    # Beliefs about others

    def _introduce(self, record: Record, raw: bytes) -> None:
        """A member's own word: it is alive in this life."""
        member = self.members.known.get(record.id)
        if (
            member is not None and member.record is record
        ):  # by far most: the same bytes decode to the same record
            self.stats.stale += 1
            return
        if record.id == self.me.id:
            self._defend(ALIVE, record.boot, record.incarnation)
            return
        if member is None:
            member = self.members.add(record, raw, self.timers.now)
            if member is not None:
                self.changes.append(member)
                self._spread(member.id, encode(Alive(record, raw)))
            return
        life = record.life
        newer = life > member.record.life
        if newer:
            member.record, member.raw = record, raw
        belief = (*life, ALIVE)
        if belief > member.belief:
            self._believe(member, belief, member.id)
        elif not newer:
            self.stats.stale += 1
        if newer and (not self.changes or self.changes[-1] is not member):
            self.changes.append(member)

    def _hear(self, claim: Claim) -> None:
        """Somebody's word about a member: suspect, dead or left."""
        state, about, boot, incarnation, accuser = claim
        if about == self.me.id:
            self._defend(state, boot, incarnation)
            return
        member = self.members.known.get(about)
        if member is None:
            # Only a record makes a member known: the dead of others are not worth remembering.
            self.stats.unknown += 1
            return
        belief = (boot, incarnation, state)
        if belief > member.belief:
            self._believe(member, belief, accuser)
        elif belief == member.belief and state == SUSPECT:
            self._confirm(member, accuser)
        elif belief < member.belief:
            self.stats.stale += 1

    def accuse(self, member: Member) -> None:
        """Our own probe of it failed."""
        self.stats.accusations += 1
        boot, incarnation, state = member.belief
        if state == ALIVE:
            self._believe(member, (boot, incarnation, SUSPECT), self.me.id)
        elif state == SUSPECT:
            self._confirm(member, self.me.id)
        # The accused hears of it first and answers us directly: a false accusation is mostly withdrawn
        # before it has spread, and in a lossy network withdrawals do not drown in accusations.
        self.send(member.address, encode(Claim(SUSPECT, member.id, boot, incarnation, self.me.id)))

    def _confirm(self, member: Member, accuser: str) -> None:
        assert member.suspicion is not None
        if member.suspicion.confirm(accuser):
            self._set_due(member, min(member.due, member.suspicion.deadline))
            self._spread(member.id, self._claim(member, accuser))

    def _believe(self, member: Member, belief: Belief, accuser: str) -> None:
        """Take on a belief that overrules ours, arm what follows from it, pass it on."""
        now, state = self.timers.now, belief[2]
        if self.members.believe(member, belief):
            self.changes.append(member)
        if state == SUSPECT:
            size = len(self.members)
            wanted = self.config.confirmations_wanted(size)
            member.suspicion = Suspicion(accuser, now, *self.config.suspicion_s(size), wanted)
            self._set_due(member, min(member.suspicion.deadline, now + self.config.reminder_s(size)))
        elif state != ALIVE:
            self._set_due(member, now + self.config.gossip_to_dead_s)
        if state == ALIVE:
            self._spread(member.id, encode(Alive(member.record, member.raw)))
        else:
            self._spread(member.id, self._claim(member, accuser))

    @staticmethod
    def _claim(member: Member, accuser: str) -> bytes:
        boot, incarnation, state = member.belief
        return encode(Claim(state, member.id, boot, incarnation, accuser))

    def merge(self, sender: str, entries: list[Entry]) -> None:
        """What another member believes, as part of an exchange."""
        for entry in entries:
            if entry.state in (ALIVE, SUSPECT):
                self._introduce(entry.record, entry.raw)
            if entry.state == ALIVE:
                continue
            state, about = entry.state, entry.record.id
            member = self.members.known.get(about)
            if state == DEAD and member is not None and member.is_living:
                # Old news perhaps, from a partition that has ended: the member gets its time to refute.
                state = SUSPECT
            self._hear(Claim(state, about, entry.boot, entry.incarnation, sender))
        member = self.members.known.get(sender)
        if member is not None:
            member.heard_at = self.timers.now

    # Ourselves

    def _defend(self, state: int, boot: int, incarnation: int) -> None:
        """Somebody's word about us."""
        if boot != self.me.boot:
            # An earlier life of ours: whoever believes it hears our record. A later one is another process.
            self._owe_record |= boot < self.me.boot
            if boot > self.me.boot and not self.superseded:
                self.superseded = True
                self.stats.twins += 1
            return
        if state == ALIVE:
            if incarnation > self.me.incarnation and not self.leaving:
                self.stats.twins += 1
                self._reincarnate(incarnation)
            return
        if incarnation < self.me.incarnation:
            self._owe_record |= not self.leaving
        elif not self.leaving and incarnation < INCARNATION_MAX:
            self.stats.refutations += 1
            self._owe_record = True
            self.awareness.add(1)
            self._reincarnate(incarnation)

    def _reincarnate(self, above: int) -> None:
        """Speak under a new incarnation: I2, the only place where one is made."""
        self.me = replace(self.me, incarnation=min(above + 1, INCARNATION_MAX))
        self.raw = encode_record(self.me)
        self._spread(self.me.id, encode(Alive(self.me, self.raw)))

    def own_entry(self) -> tuple[bytes, int, int, int]:
        """Ourselves, as an entry of an exchange."""
        return (self.raw, *self.me.life, LEFT if self.leaving else ALIVE)

    # Time

    def _set_due(self, member: Member, due: float) -> None:
        """Its state changes by itself at `due`.

        A timer that is armed earlier is left alone and armed again when it fires: a member that is accused
        and refutes again and again has one timer, not one per accusation.
        """
        member.due = due
        if member.timer is not None:
            if member.timer[0] <= due:
                return
            self.timers.cancel(member.timer)
        member.timer = self.timers.at(due, self._on_due, member)

    def _on_due(self, member: Member) -> None:
        member.timer = None
        if member.due > self.timers.now:
            if member.due != float("inf"):
                member.timer = self.timers.at(member.due, self._on_due, member)
        elif member.suspicion is not None and member.suspicion.deadline > self.timers.now:
            reminder = pack(self.me.id, [self._claim(member, next(iter(member.suspicion.accusers)))])
            self.outbox.append(Send(member.address, reminder))
            reminder_at = self.timers.now + self.config.reminder_s(len(self.members))
            self._set_due(member, min(member.suspicion.deadline, reminder_at))
        elif member.state == SUSPECT:
            boot, incarnation, _ = member.belief
            self.stats.deaths += 1
            self._believe(member, (boot, incarnation, DEAD), self.me.id)
        elif member in self.members.recent:
            self.members.cool(member)
            keep = self.config.forget_left_s if member.state == LEFT else self.config.forget_dead_s
            self._set_due(member, self.timers.now + keep)
        else:
            self.members.forget(member)
            self._broadcasts.discard(member.id)

    # Output

    def send(self, address: Address, *messages: bytes) -> None:
        """One datagram of these messages, filled up with news."""
        room = ROOM_BYTES - sum(map(len, messages))
        news = self._broadcasts.take(room, self.config.retransmits(len(self.members)))
        self.outbox.append(Send(address, pack(self.me.id, [*messages, *news])))

    def ask(self, exchange: Exchange) -> None:
        """One exchange over TCP."""
        self.outbox.append(exchange)

    def probe_by_tcp(self, member: Member, sequence: int, timeout_s: float) -> None:
        """Try to reach it over TCP."""
        self._sync.probe(member, sequence, timeout_s)

    def acknowledged_by_tcp(self, sequence: int, member: str) -> None:
        """It was reached."""
        self._prober.acknowledged(Ack(sequence, member))

    def _spread(self, about: str, message: bytes) -> None:
        self._broadcasts.put(about, message)
        if self._gossip_timer is None:
            wait = self.rng.random() * self.config.gossip_interval_s
            self._gossip_timer = self.timers.at(self.timers.now + wait, self._gossip)

    def _gossip(self, _: object) -> None:
        """Pass news on to a few; there is no timer while there are none."""
        for member in self.members.living.sample(self.config.gossip_fanout, lambda member: True):
            if not self._broadcasts:
                break
            self.send(member.address)
        wronged = self.members.recent.pick()
        if wronged is not None and wronged.state == DEAD:
            body = pack(self.me.id, [self._claim(wronged, self.me.id)])
            self.outbox.append(Send(wronged.address, body))
        self._gossip_timer = None
        if self._broadcasts and (self.members.living or self.members.recent):
            due = self.timers.now + self.config.gossip_interval_s
            self._gossip_timer = self.timers.at(due, self._gossip)
