"""What a change of a register is given to judge, and what it may want stored instead (`register`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from peer.errors import AtollError


@dataclass(frozen=True, slots=True)
class Current:
    """A register as judged: `payload` None when the key is absent or deleted.

    `replaced`: the payload whose place a change is known to have taken, which is so when the accept that was answered is
    the one that was chosen. None where nothing was replaced, or where it is not certain what.
    """

    ballot: bytes
    payload: bytes | None
    side: bytes | None
    replaced: bytes | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """What a change wants stored: payload None writes a tombstone; `side` is the inline bytes beside it."""

    payload: bytes | None
    side: bytes | None = None


class Keep:
    """The change turned out to need nothing: the current value stands (and is chosen when `change` returns)."""


Judge = Callable[[Current], Put | type[Keep] | AtollError]
