"""Comparing whole memberships over TCP: what gossip missed, and members that lost sight of each other.

A random living member is asked every `push_pull_interval_s`; both sides end up with the larger of each
belief. Dead members are tried too, so that the two halves of a healed partition find each other. A member
that was paused for long asks at once, as what waits in its socket may be stale.
"""

from __future__ import annotations

from gossip.errors import Malformed
from gossip.exchange import (
    PROBE,
    PROBE_REPLY,
    STATE,
    STATE_REPLY,
    Content,
    decode,
    encode_probe,
    encode_state,
)
from gossip.host import Exchange, Host
from gossip.members import Member
from gossip.messages import DEAD, Address

# Exchanges that we began and that are not answered. The parts below begin at most one each at a time.
_PENDING_MOST = 16
_RESYNC_TRIES = 3


class Sync:
    """Begins exchanges, answers those of others."""

    def __init__(self, host: Host, cluster_id: str) -> None:
        self._host = host
        self._cluster_id = cluster_id
        self._token = 0
        self._pending: dict[int, int | None] = {}  # token -> sequence of a probe, None of a comparison
        self._resync_tries = 0

    def start(self) -> None:
        """Arm both timers at a random part of their intervals; the first once we have met the others."""
        host = self._host
        host.timers.at(host.timers.now + host.config.probe_interval_s, self._begin)
        host.timers.at(
            host.timers.now + (0.5 + host.rng.random()) * host.config.reconnect_interval_s, self._reconnect
        )

    def _begin(self, _: object) -> None:
        host = self._host
        interval = host.config.push_pull_s(len(host.members))
        host.timers.at(host.timers.now + host.rng.random() * interval, self._push_pull)

    def _push_pull(self, _: object) -> None:
        host = self._host
        if host.leaving:
            return
        interval = host.config.push_pull_s(len(host.members))
        host.timers.at(host.timers.now + (0.9 + 0.2 * host.rng.random()) * interval, self._push_pull)
        self._ask_someone()

    def _reconnect(self, _: object) -> None:
        """Each of d dead is tried about once per interval by the n living together: our share is d / n."""
        host = self._host
        if host.leaving:
            return
        interval = (0.5 + host.rng.random()) * host.config.reconnect_interval_s
        host.timers.at(host.timers.now + interval, self._reconnect)
        dead = len(host.members.gone) + len(host.members.recent)
        if host.rng.random() * len(host.members) < dead:
            roster = host.members.gone
            if host.rng.random() * dead < len(host.members.recent):
                roster = host.members.recent
            for member in roster.sample(1, lambda member: member.state == DEAD):
                self.compare(member.address)

    def resync(self) -> None:
        """Fetch a membership now, from another member if the first does not answer."""
        self._resync_tries = _RESYNC_TRIES
        self._ask_someone()

    def _ask_someone(self) -> None:
        target: Member | None = self._host.members.living.pick()
        if target is not None:
            self.compare(target.address)

    def compare(self, address: Address) -> None:
        """Begin an exchange of memberships with whoever answers there."""
        self._ask(address, self.request(), self._host.config.push_pull_timeout_s, None)

    def probe(self, member: Member, sequence: int, timeout_s: float) -> None:
        """Begin a fallback probe."""
        payload = encode_probe(self._cluster_id, self._host.me.id, PROBE, member.id)
        self._ask(member.address, payload, timeout_s, sequence)

    def _ask(self, address: Address, payload: bytes, timeout_s: float, sequence: int | None) -> None:
        host = self._host
        if len(self._pending) >= _PENDING_MOST:
            host.stats.exchanges_skipped += 1
            return
        self._token += 1
        self._pending[self._token] = sequence
        host.stats.exchanges += 1
        host.ask(Exchange(self._token, address, payload, timeout_s))

    def request(self) -> bytes:
        """Our membership, as a request for another's."""
        return self._state(STATE)

    def serve(self, payload: bytes) -> bytes:
        """Answer a request. Raises Malformed or Stranger; then nothing changed."""
        content = decode(self._cluster_id, payload)
        if content.kind == PROBE:
            return encode_probe(self._cluster_id, self._host.me.id, PROBE_REPLY, self._host.me.id)
        if content.kind != STATE:
            raise Malformed("a reply where a request belongs")
        self._host.merge(content.sender, content.entries)
        return self._state(STATE_REPLY)

    def answered(self, token: int, reply: bytes | None) -> None:
        """What came of an exchange; None if nothing. Raises Malformed or Stranger for a bad reply."""
        if token not in self._pending:
            return
        sequence = self._pending.pop(token)
        try:
            if reply is None:
                self._failed(sequence)
            elif sequence is None:
                self.merge_reply(reply)
                self._resync_tries = 0
            else:
                content = self._reply(reply, PROBE_REPLY)
                self._host.acknowledged_by_tcp(sequence, content.member)
        except Exception:
            self._failed(sequence)
            raise

    def merge_reply(self, reply: bytes) -> str:
        """Merge the reply to `request`; returns the id of the member that answered."""
        content = self._reply(reply, STATE_REPLY)
        self._host.merge(content.sender, content.entries)
        return content.sender

    def _failed(self, sequence: int | None) -> None:
        self._host.stats.exchanges_failed += 1
        if sequence is None and self._resync_tries > 0:
            self._resync_tries -= 1
            self._ask_someone()

    def _reply(self, payload: bytes, kind: int) -> Content:
        content = decode(self._cluster_id, payload)
        if content.kind != kind:
            raise Malformed("a reply of the wrong kind")
        return content

    def _state(self, kind: int) -> bytes:
        host = self._host
        entries = [host.own_entry()]
        entries.extend((member.raw, *member.belief) for member in host.members.known.values())
        return encode_state(self._cluster_id, host.me.id, kind, entries)
