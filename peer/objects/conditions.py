"""Conditional writes: what If-Match and If-None-Match decide (P3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peer.errors import Conflict, NotFound
from peer.replication.registers.register import Current, Judge, Put

from .heads import Head


@dataclass(frozen=True, slots=True)
class Conditions:
    """If-Match and If-None-Match of a write: etags without quotes, or "*"."""

    if_match: frozenset[str] = frozenset()
    if_none_match: frozenset[str] = frozenset()

    def refusal(self, current: Head | None) -> Conflict | NotFound | None:
        """What to answer instead of writing, or None."""
        if self.if_match:
            if current is None:
                return NotFound("there is no such object to match", code="NoSuchKey")
            if "*" not in self.if_match and current.etag not in self.if_match:
                return Conflict(f"the object's ETag is {current.etag}, which If-Match does not name")
        if self.if_none_match and current is not None:
            if "*" in self.if_none_match:
                return Conflict("the object exists already")
            if current.etag in self.if_none_match:
                return Conflict(f"the object's ETag is {current.etag}, which If-None-Match names")
        return None


def contended() -> Conflict:
    """A condition that could not be decided because others kept changing the key; nothing changed."""
    conflict = Conflict(
        "other requests keep changing this object, so the condition could not be decided; try again",
        code="ConditionalRequestConflict",
        status=409,
    )
    conflict.retry = True
    return conflict


def judge_of(wanted: Put, conditions: Conditions | None) -> Judge:
    if conditions is None:
        return lambda _: wanted

    def judge(current: Current) -> Any:
        refusal = conditions.refusal(None if current.payload is None else Head.decode(current.payload))
        return refusal if refusal is not None else wanted

    return judge
