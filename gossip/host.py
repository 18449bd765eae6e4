"""What the parts of the state machine may ask of the whole (`swim.py` is the only implementation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gossip.awareness import Awareness
from gossip.config import Config
from gossip.exchange import Entry
from gossip.members import Member, Members
from gossip.messages import Address
from gossip.record import Record
from gossip.roster import Rng
from gossip.timers import Timers


class Send(NamedTuple):
    """Seal this body and send it as one datagram; losing it is fine."""

    address: Address
    body: bytes


class Exchange(NamedTuple):
    """Send this request over TCP and hand the reply, or None, to `Swim.answered` with the token."""

    token: int
    address: Address
    payload: bytes
    timeout_s: float


@dataclass(slots=True)
class Stats:
    """Counts since the start, for metrics and tests."""

    probes: int = 0
    probes_failed: int = 0
    accusations: int = 0  # ours, of others
    refutations: int = 0  # ours, of accusations of us
    deaths: int = 0  # beliefs that a member is dead, by our own timer
    pauses: int = 0  # times we found ourselves late
    twins: int = 0  # another process speaks under our id
    misdirected: int = 0  # pings meant for another member
    stale: int = 0  # claims overruled by what we knew
    unknown: int = 0  # messages of kinds we do not know, claims about members we do not know
    relays_refused: int = 0
    exchanges: int = 0
    exchanges_failed: int = 0
    exchanges_skipped: int = 0  # too many under way


class Host(Protocol):
    """The state machine as its parts see it."""

    config: Config
    rng: Rng
    me: Record
    timers: Timers
    members: Members
    awareness: Awareness
    stats: Stats
    leaving: bool

    def send(self, address: Address, *messages: bytes) -> None:
        """One datagram of these messages, filled up with news."""

    def ask(self, exchange: Exchange) -> None:
        """One exchange over TCP."""

    def accuse(self, member: Member) -> None:
        """We could not reach this member."""

    def probe_by_tcp(self, member: Member, sequence: int, timeout_s: float) -> None:
        """Try to reach it over TCP; success comes back as an Ack of that sequence."""

    def merge(self, sender: str, entries: list[Entry]) -> None:
        """Take on what another member believes."""

    def own_entry(self) -> tuple[bytes, int, int, int]:
        """Ourselves, as an entry of an exchange."""

    def acknowledged_by_tcp(self, sequence: int, member: str) -> None:
        """The answer to `probe_by_tcp`."""
