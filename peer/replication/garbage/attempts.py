"""Attempts: one for each put, copy or part that stores chunks, and whether it may still succeed (architecture §7).

An attempt is (member, boot, number), never issued twice. It is **open** from its issue until its coordinator has ended the
change that would have named it in a head; from then on that coordinator sends no further accept that introduces it.
Reference rows name their attempt, and the head names the attempt its chunks were stored under: so a reference whose
attempt is over, and which no head names, is garbage.

T1  Only the coordinator that issued an attempt can say that it is over, and it may say so only when it is: an open attempt
    is one in memory. A later start of the same member has none of an earlier one's, whose process is gone.
T2  A member that is not in the ring coordinates nothing (see `register`), so all its attempts are over.
T3  Accepts of an attempt that is over may still be on their way. Only an identity change of the register, begun after it
    was over, tells whether one of them was chosen: its ballot is above all of theirs.

That word makes the design's closed(attempt) registers unnecessary: those stay for ever, since nothing but the same word
tells when nobody will send that attempt any more. While a coordinator is silent, what it left is kept; it is asked again
until it answers or is out of the ring.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peer.replication.env import Reply
from peer.replication.messages import OK

ATTEMPT_BYTES = 20
ASKED_MOST = 1_000
OPEN, OVER, UNKNOWN = 1, 2, 0
_ATTEMPT = struct.Struct(">8sIQ")


def coordinator_of(attempt: bytes) -> str:
    """The member id of whoever issued an attempt; "" for what is none."""
    return attempt[:8].hex() if len(attempt) == ATTEMPT_BYTES else ""


class Attempts:
    """The attempts this process issued: numbers, and which of them are open. In memory, bounded by requests in flight."""

    def __init__(self, me: str, boot: int) -> None:
        self._me = bytes.fromhex(me)
        self._boot = boot
        self._issued = 0
        self._open: set[int] = set()

    @contextmanager
    def one(self) -> Iterator[bytes]:
        """A fresh attempt, open as long as the block runs."""
        self._issued += 1
        number = self._issued
        self._open.add(number)
        try:
            yield _ATTEMPT.pack(self._me, self._boot, number)
        finally:
            self._open.discard(number)

    @property
    def open(self) -> int:
        return len(self._open)

    def state(self, attempt: bytes) -> int:
        """OPEN, OVER, or UNKNOWN for what this process cannot know (T1)."""
        if len(attempt) != ATTEMPT_BYTES:
            return UNKNOWN
        member, boot, number = _ATTEMPT.unpack(attempt)
        if member != self._me or boot > self._boot or (boot == self._boot and number > self._issued):
            return UNKNOWN
        return OPEN if boot == self._boot and number in self._open else OVER

    def on_ask(self, message: Any, reply: Reply) -> None:
        """(ATTEMPTS, tag, [attempt]) -> OK, [OPEN | OVER | UNKNOWN]."""
        reply((OK, [self.state(attempt) for attempt in message[2][:ASKED_MOST]]))
