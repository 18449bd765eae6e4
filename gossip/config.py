"""Every number of the failure detector and the reason for it; the defaults are memberlist's for a LAN."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Config:
    """Durations in seconds. The methods below turn them into what a cluster of n members uses."""

    # One member is probed per interval, in a random order without repetition, so a crashed member is
    # noticed by someone within about one interval whatever the size of the cluster (SWIM, section 4.3).
    probe_interval_s: float = 1.0
    # Far above a LAN's round trip and a busy interpreter's turn; half the interval, so that the indirect
    # probes get as long as the direct one.
    probe_timeout_s: float = 0.5
    # Three relays turn 5 % packet loss into 0.07 % failed probes; a fourth would gain little.
    indirect_probes: int = 3
    # A probe over TCP beside the indirect ones: a network that drops only UDP is a misconfiguration to
    # survive, not a dead member.
    tcp_probe: bool = True
    # A relay that has not heard the target after this part of the timeout says so. Relays that are silent
    # altogether mean that the prober itself is deaf (Lifeguard, section IV-A).
    nack_after: float = 0.8

    # An accused member has 4 intervals times log10(n), at least 4 s, if others confirm the accusation,
    # and 6 times as long if nobody does: 4 to 24 s at ten members.
    suspicion_multiplier: float = 4.0
    suspicion_max_multiplier: float = 6.0
    # Independent accusers wanted besides the first before the shortest time applies.
    confirmations: int = 2
    # Within the shortest time everyone who believes an accusation tells the accused so, this often, in a
    # datagram of a hundred bytes, and hears the answer if it missed it. A refutation spreads by chance;
    # under heavy loss some miss it, and each of them would announce a death. At 1,000 members and 30 % loss
    # this and telling the accused first divide false deaths by sixteen (tools/gossip_sim.py).
    reminders: int = 3

    # Local health from 0 to 7: at 7 this member probes every 8 s, as it trusts itself that much less.
    awareness_max: int = 7

    # News go to three random members five times a second, each piece 4 * ceil(log10(n + 1)) times: enough
    # to reach all with a probability that loss of some per cent does not change.
    gossip_interval_s: float = 0.2
    gossip_fanout: int = 3
    retransmit_multiplier: int = 4
    # A dead member goes on hearing gossip for this long, so that one wrongly declared dead learns of it
    # and refutes.
    gossip_to_dead_s: float = 30.0

    # Whole memberships are compared this often, more rarely above 32 members.
    push_pull_interval_s: float = 30.0
    push_pull_timeout_s: float = 10.0
    # Each dead member is tried about this often by somebody: the two sides of a healed partition find each
    # other within a few such intervals.
    reconnect_interval_s: float = 15.0

    # A timer this late means the process was not running, and its own deadlines move back by the pause.
    # Ordinary turns of a busy event loop stay below it.
    late_s: float = 0.1
    # After a pause this long what waits in the socket may be older than what others agree on, and be
    # incomplete as the socket overflowed: a whole membership is fetched at once.
    resync_after_s: float = 2.0

    # How long the dead stay known: longer than a weekend's partition of two halves is not worth remembering
    # addresses for, seeds remain. The departed need remembering only until nobody repeats older news.
    forget_dead_s: float = 72 * 3600.0
    forget_left_s: float = 3600.0

    # Bounds. Beyond `max_members` unknown members are ignored and counted; the oldest most often sent
    # news are dropped beyond `max_broadcasts`; probes relayed for others at one time.
    max_members: int = 10_000
    max_broadcasts: int = 4_096
    max_relays: int = 1_024

    def suspicion_s(self, members: int) -> tuple[float, float]:
        """Shortest and longest time in seconds an accused member has to refute, among `members` members."""
        scale = max(1.0, math.log10(max(1, members)))
        shortest = self.suspicion_multiplier * scale * self.probe_interval_s
        return shortest, shortest * self.suspicion_max_multiplier

    def reminder_s(self, members: int) -> float:
        """Time between reminders of an accusation."""
        return self.suspicion_s(members)[0] / (self.reminders + 1)

    def confirmations_wanted(self, members: int) -> int:
        """Further accusers wanted; none where fewer than that many others could accuse at all."""
        return self.confirmations if members - 2 >= self.confirmations else 0

    def retransmits(self, members: int) -> int:
        """How often one member passes on a piece of news."""
        return self.retransmit_multiplier * math.ceil(math.log10(members + 1))

    def push_pull_s(self, members: int) -> float:
        """Interval between comparisons, growing with the logarithm of the cluster above 32 members."""
        steps = math.ceil(math.log2(members / 32)) if members > 32 else 0
        return self.push_pull_interval_s * (1 + steps)
