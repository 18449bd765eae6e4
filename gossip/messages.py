"""What members say to each other, one class each. The wire form of each is in `codec.py`.

These are NamedTuples rather than dataclasses: a thousand members under heavy loss exchange half a million
claims a second in the simulator, and a tuple is made in a third of the time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gossip.record import Record

Address = tuple[str, int]

# The states of a member. At the same life (boot, incarnation) the larger overrules the smaller.
ALIVE: Final = 0
SUSPECT: Final = 1
DEAD: Final = 2
LEFT: Final = 3
STATE_NAMES: Final = ("alive", "suspect", "dead", "left")


class Ping(NamedTuple):
    """Are you there, and are you `target`? Another process may have taken over the address."""

    sequence: int
    target: str


class PingRequest(NamedTuple):
    """Please ping `target` at this address for me."""

    sequence: int
    target: str
    host: str
    port: int


class Ack(NamedTuple):
    """`member` answered the ping with this sequence."""

    sequence: int
    member: str


class Nack(NamedTuple):
    """I am there, but the target you asked me to ping has not answered yet."""

    sequence: int


class Alive(NamedTuple):
    """A member's own record, in the bytes its owner encoded."""

    record: Record
    raw: bytes


class Claim(NamedTuple):
    """`member` is suspect or dead, says `accuser`; or has left, says `member` itself."""

    state: int
    member: str
    boot: int
    incarnation: int
    accuser: str


Message = Ping | PingRequest | Ack | Nack | Alive | Claim


class Packet(NamedTuple):
    """One datagram's content. `unknown` counts messages of kinds this version does not know."""

    sender: str
    messages: list[Message]
    unknown: int = 0
