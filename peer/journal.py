"""A peer's journal: what an operator would want to read back, the last of it, in memory.

Every peer writes its own, and the one that is asked merges those of all (`peer.api.logview`). The log of the process says
more, and is kept; this says what matters, in one form, and is there when somebody asks any peer what happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

KEPT = 1000
MESSAGE_MOST = 500

INFO, WARNING, ERROR = "info", "warning", "error"
MEMBERSHIP, RING, REPAIR, DISK, DAMAGE, PROCESS, CLOCK, ADMIN = (
    "membership", "ring", "repair", "disk", "damage", "process", "clock", "admin",
)  # fmt: skip
Mark = tuple[int, int]
"""Start of the process and number within it: orders a peer's entries."""


class Entry(NamedTuple):
    """One entry as it travels (message LOG). `time_us` is the peer's own clock; `message` a sentence without a stop."""

    boot: int
    number: int
    time_us: int
    level: str
    kind: str
    code: str
    message: str

    @property
    def mark(self) -> Mark:
        return self.boot, self.number


class Journal:
    """The last `KEPT` entries of this process, which is start `boot` of its peer. `wall_us` is the clock."""

    def __init__(self, wall_us: Callable[[], int], boot: int) -> None:
        self._wall_us = wall_us
        self._boot = boot
        self._number = 0
        self._entries: deque[Entry] = deque(maxlen=KEPT)

    @property
    def newest(self) -> Mark:
        """The mark of the last entry; number 0 before there is one."""
        return self._boot, self._number

    def note(self, level: str, kind: str, code: str, message: str) -> None:
        """Write an entry. What is longer than MESSAGE_MOST is cut."""
        self._number += 1
        short = message if len(message) <= MESSAGE_MOST else message[: MESSAGE_MOST - 1] + "…"
        self._entries.append(Entry(self._boot, self._number, self._wall_us(), level, kind, code, short))

    def since(self, mark: Mark, limit: int) -> list[Entry]:
        """The newest entries after `mark`, `limit` at most, the oldest first."""
        found = list(islice(reversed(self._entries), max(0, limit)))
        return [entry for entry in reversed(found) if entry.mark > mark]
