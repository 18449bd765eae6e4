"""What the loop knows of bulk transfers under way, and until when each may go on.

B4  A transfer is given up when nothing of it has moved for so long as its caller said, not when all of it took so long;
    before it began: when nothing of any to the same peer has. Only LONGEST_S bounds the whole, so that a link that trickles
    does not keep a buffer for ever.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from peer.buffers import Buffer
from peer.errors import AtollError
from peer.rpc.bulksocket import BulkSocket

LONGEST_S: Final = 300.0
"""For a whole transfer and what it waited, however slow the link: four at once of 4 MiB need 56 KB/s."""

Result = tuple[list[Any], int]
Done = Callable[["Result | AtollError"], None]


class Job:
    """One call on its way. `B1` rests on who may touch it: the worker once `started`, until it reports."""

    __slots__ = (
        "connection", "deadline", "dialling", "done", "expired", "header",
        "into", "member", "moved", "payload", "request_id", "silence_s", "started", "until",
    )  # fmt: skip

    def __init__(
        self, member: Route, header: tuple[Any, ...], payload: memoryview | None, into: Buffer | None,
        now: float, silence_s: float, done: Done | None, request_id: str = "",
    ) -> None:  # fmt: skip
        self.member = member
        self.request_id = request_id  # of the client's request it is for
        self.header = header
        self.payload = payload
        self.into = into
        self.silence_s = silence_s
        self.until = now + LONGEST_S
        self.deadline = now + silence_s
        self.done = done
        self.connection: BulkSocket | None = None
        self.moved = 0  # bytes on its connection when looked at last
        self.dialling: socket.socket | None = None
        self.started = False  # under the client's lock: from now on the worker uses payload and into
        self.expired = False  # under the lock: the loop has given up on it

    def goes_on(self, now: float) -> None:
        """Something moved (B4)."""
        self.deadline = min(max(self.deadline, now + self.silence_s), self.until)

    def look(self, now: float) -> bool:
        """Whether bytes of it have moved since the last look."""
        connection = self.connection
        if not self.started or connection is None or (moved := connection.moved()) <= self.moved:
            return False
        self.moved = moved
        self.goes_on(now)
        return True


class Route:
    """What the loop knows about transfers to one peer."""

    __slots__ = ("active", "error", "id", "idle", "retry_at", "waiting")

    def __init__(self, member_id: str) -> None:
        self.id = member_id
        self.idle: list[BulkSocket] = []  # last used last
        self.active = 0
        self.waiting = 0
        self.retry_at = 0.0
        self.error: AtollError | None = None
