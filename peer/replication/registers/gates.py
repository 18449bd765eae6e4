"""Gates: the row beside each shard of a bucket that says whether the shard takes requests.

A gate is a register like any other, holding (state, configuration generation). An owner checks it in the
same turn in which it queues the write it guards, and writes commit in queue order, so a gate closed on a
majority of owners stops every later write (architecture, Buckets).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from peer.errors import Corrupt, Refused
from peer.replication.env import RowStore
from peer.replication.keys import OBJECT, gate_key_of
from peer.replication.messages import ABSTAIN, GATE_REFUSED, NO_GATE
from peer.replication.value import decode_row, payload_of

OPEN, CLOSED = 1, 2
BEHIND = -2
"""A request with generation BEHIND - g looks behind gates closed at generation g: who deletes a bucket does."""
GATES_KEPT = 65_536
_DAMAGED = (-1, -1)


class GateRefused(Refused):
    """The bucket's configuration moved on: `state` is absent, closed or newer. Nothing changed."""

    def __init__(self, state: str, generation: int) -> None:
        super().__init__(f"the bucket's gate is {state} (generation {generation})", code="BucketChanged")
        self.state = state
        self.generation = generation


def gate_payload(state: int, generation: int) -> bytes:
    return bytes(msgpack.packb([state, generation]))


def gate_passed(payload: bytes) -> int:
    """The configuration generation with which an identity change passes a gate of this state, open or closed."""
    state, generation = msgpack.unpackb(payload)
    return int(generation if state == OPEN else BEHIND - generation)


class Gates:
    """The gates of the shards this peer owns, cached; the row is the truth."""

    def __init__(self, rows: RowStore, pending: Callable[[bytes], bytes | None] = lambda _: None) -> None:
        """`pending`: the value of a row whose commit is queued. It guards already, whatever the cache forgot."""
        self.may_lack: Callable[[bytes], bool] = lambda _: False
        """Whether a gate's absence here means nothing: a new owner in a joint epoch may not have merged it yet, and the
        old owners, of whom every request needs a majority, have it."""
        self._rows = rows
        self._pending = pending
        self._known: dict[bytes, tuple[int, int] | None] = {}

    def refusal(self, row_key: bytes, generation: int) -> tuple[Any, ...] | None:
        """None if a request under this configuration generation may touch the row, else the reply."""
        if row_key[0] < OBJECT:
            return None
        return self.shard_refusal(gate_key_of(row_key), generation)

    def shard_refusal(self, gate_key: bytes, generation: int) -> tuple[Any, ...] | None:
        try:
            gate = self._known[gate_key]
        except KeyError:
            gate = self._load(gate_key)
        if gate is None:
            return None if self.may_lack(gate_key) else (GATE_REFUSED, "absent", 0)
        if gate is _DAMAGED:
            return (ABSTAIN, "the gate's row does not match its checksum")
        state, stands_at = gate
        if generation <= BEHIND:
            return (
                None
                if state != OPEN and stands_at == BEHIND - generation
                else (GATE_REFUSED, "open", stands_at)
            )
        if state != OPEN:
            return (GATE_REFUSED, "closed", stands_at)
        if stands_at > generation:
            return (GATE_REFUSED, "newer", stands_at)
        return None

    def generation_for(self, row_key: bytes) -> int:
        """The configuration generation under which the identity change of a row passes this owner's gate now, open or
        closed; NO_GATE for rows without one, and where the gate is not known."""
        if row_key[0] < OBJECT:
            return NO_GATE
        gate_key = gate_key_of(row_key)
        gate = self._known[gate_key] if gate_key in self._known else self._load(gate_key)
        if gate is None or gate is _DAMAGED:
            return NO_GATE
        state, generation = gate
        return generation if state == OPEN else BEHIND - generation

    def queued(self, gate_key: bytes, value: bytes) -> None:
        """A gate row was queued for commit: it guards everything queued from now on."""
        self._keep(gate_key, _decode(value))

    def forget(self, gate_key: bytes) -> None:
        """The commit failed, or the row changed otherwise: read it again when next asked."""
        self._known.pop(gate_key, None)

    def _load(self, gate_key: bytes) -> tuple[int, int] | None:
        pending = self._pending(gate_key)
        if pending is not None:
            return self._keep(gate_key, _decode(pending))
        try:
            accepted = decode_row(gate_key, self._rows.get("rows", gate_key))
        except Corrupt:
            return _DAMAGED
        return self._keep(gate_key, _decode(accepted.value))

    def _keep(self, gate_key: bytes, gate: tuple[int, int] | None) -> tuple[int, int] | None:
        if len(self._known) >= GATES_KEPT:
            self._known.pop(next(iter(self._known)))
        self._known[gate_key] = gate
        return gate


def _decode(value: bytes) -> tuple[int, int] | None:
    payload = payload_of(value)
    if payload is None:
        return None
    state, generation = msgpack.unpackb(payload)
    return state, generation
