"""Which client's request the work at hand is for, so that the logs of all peers can be searched for it.

The API sets it, for the task of the request and whatever that spawns; messages between peers carry it (`peer.rpc`), and
every line of a log shows it (`peer.logs`). Nothing is decided by it.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Final

MOST: Final = 64
"""Characters of an id."""

CURRENT: Final[ContextVar[str]] = ContextVar("request id", default="")
"""The id of the request this code runs for; "" for what a peer does by itself."""

_SANE = re.compile(rf"[!-~]{{1,{MOST}}}")


def is_sane(text: str) -> bool:
    """Whether a client's id can stand in headers, messages and logs as it is: short, printable, without a space."""
    return _SANE.fullmatch(text) is not None


def told(value: object) -> str:
    """The id that came with another peer's message; "" for what is none."""
    return value if type(value) is str and len(value) <= MOST and value.isprintable() else ""
