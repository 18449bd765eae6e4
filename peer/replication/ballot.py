"""Ballots: who proposed, and in what order.

A ballot is 20 bytes, (counter u64, member id 8 bytes, boot u32), big-endian, so that comparing bytes
compares ballots. `NONE` (b"") is below all. The counter is a hybrid clock in microseconds:
max(wall clock, highest seen + 1). A clock that is wrong costs retries, never correctness.

B1  A ballot is never issued twice: counters of one (member, boot) only rise, and every start has a new boot.
"""

from __future__ import annotations

import struct

from .env import Env

NONE = b""
BALLOT_BYTES = 20
_COUNTER = struct.Struct(">Q")
_MAX_COUNTER = 2**64 - 1


def counter_of(ballot: bytes) -> int:
    """The counter of a ballot; 0 for NONE."""
    return int.from_bytes(ballot[:8], "big")


def ceiling(counter: int) -> bytes:
    """The greatest ballot with this counter: what a durable bound on counters promises."""
    return _COUNTER.pack(counter) + b"\xff" * 12


def after(ballot: bytes) -> bytes:
    """The least ballot above this one: promised, it shuts this one out."""
    number = int.from_bytes(ballot, "big") + 1
    return min(number, (1 << 8 * BALLOT_BYTES) - 1).to_bytes(BALLOT_BYTES, "big")


class BallotClock:
    """Issues this peer's ballots, each greater than all issued or seen before."""

    def __init__(self, env: Env, member_id: str, boot: int) -> None:
        self._env = env
        self._tail = bytes.fromhex(member_id) + boot.to_bytes(4, "big")
        assert len(self._tail) == 12, "a member id is 8 bytes"
        self._last = 0

    def next(self, above: bytes = NONE) -> bytes:
        """A fresh ballot greater than `above`, the highest seen."""
        counter = self._env.wall_us()
        floor = int.from_bytes(above[:8], "big")
        if counter <= floor:
            counter = floor + 1
        if counter <= self._last:
            counter = self._last + 1
        assert counter <= _MAX_COUNTER
        self._last = counter
        return _COUNTER.pack(counter) + self._tail
