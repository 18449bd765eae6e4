"""One owner of registers on a simulated disk, whose messages a test writes itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from peer.replication.messages import ACCEPT, BALLOT, NO_GATE, PREPARE, READ
from peer.replication.registers.acceptor import Acceptor
from peer.replication.value import Accepted, decode_row, wrap
from tests.replication_world import KEY, OP_ID, rot
from tools.sim.disk import SimDisk, SimRows
from tools.sim.env import SimEnv
from tools.sim.loop import VirtualLoop
from tools.sim.story import Story


class Owner:
    """One acceptor on a simulated disk. Every message gives a future of its reply."""

    def __init__(self) -> None:
        self.loop = VirtualLoop(limit_s=600)
        self.disk = SimDisk()
        self.open()

    def open(self) -> None:
        self.env = SimEnv(self.loop, "owner", "owner")
        self.rows = SimRows(self.disk, self.env, random.Random(1), Story(self.loop.time))
        self.acceptor = Acceptor(self.rows, self.env.now)

    def crash(self) -> None:
        """Power loss and restart: what no commit made durable is gone."""
        self.env.kill()
        self.rows.crash()
        self.open()

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        self.loop.run(scenario)

    def prepare(self, ballot: bytes, key: bytes = KEY, *, gate: int = NO_GATE, side: bool = False) -> Any:
        return self._ask(self.acceptor.prepare, (PREPARE, 0, key, ballot, gate, side))

    def accept(
        self, ballot: bytes, payload: bytes | None, key: bytes = KEY, *, side: bytes | None = None,
        gate: int = NO_GATE,
    ) -> Any:  # fmt: skip
        value = wrap(payload, b"", OP_ID)
        return self._ask(self.acceptor.accept, (ACCEPT, 0, key, ballot, value, side, gate))

    def read(self, key: bytes = KEY, *, gate: int = NO_GATE, side: bool = False) -> Any:
        return self._ask(self.acceptor.read, (READ, 0, key, gate, side))

    def ballot(self, key: bytes = KEY) -> Any:
        return self._ask(self.acceptor.ballot, (BALLOT, 0, key, NO_GATE))

    def stored(self, key: bytes = KEY) -> Accepted:
        """What is on the disk now."""
        return decode_row(key, self.disk.tables["rows"].get(key))

    def rot(self, key: bytes = KEY) -> None:
        rot(self.disk, "rows", key)

    def _ask(
        self, handler: Callable[[Any, Callable[[Any], None]], None], message: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()
        handler(message, future.set_result)
        return future
