"""What the outside world gives replication: clock, randomness, tasks, network, disks.

The real peer and the simulator each implement these few protocols; nothing else in this package
touches time, sockets, threads or chance (architecture: the same code under a simulator).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from peer.errors import AtollError
from ring.epoch import Epoch

Reply = Callable[[tuple[Any, ...]], None]
Done = Callable[[Any], None]
Write = tuple[str, Any, bytes | None]


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class Ring(Protocol):
    """The ring as this peer has it now."""

    @property
    def tag(self) -> int: ...
    @property
    def epoch(self) -> Epoch: ...


class Chance(Protocol):
    def random(self) -> float: ...
    def getrandbits(self, k: int, /) -> int: ...


class Env(Protocol):
    """One peer's clock, random source and tasks."""

    @property
    def rng(self) -> Chance: ...
    def now(self) -> float:
        """Monotonic seconds."""

    def wall_us(self) -> int:
        """Wall clock in microseconds; may jump, so nothing but ballots' size depends on it."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable: ...
    def future(self) -> asyncio.Future[Any]: ...
    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a task that is kept, logged if it fails, and cancelled at close."""

    async def sleep(self, delay_s: float) -> None: ...


class Network(Protocol):
    """Calls between peers. `done` runs exactly once with the reply list or an AtollError."""

    def call(self, member_id: str, message: tuple[Any, ...], deadline_s: float, done: Done) -> None: ...
    def is_alive(self, member_id: str) -> bool:
        """Gossip's belief: a hint for whom to ask first, never a reason to skip a quorum."""


class RowStore(Protocol):
    """The ordered key-value store of one peer (`peer.storage.rows.Rows`)."""

    @property
    def sequence(self) -> int: ...
    @property
    def roomy(self) -> bool: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def congested(self) -> bool: ...
    @property
    def saturated(self) -> bool: ...
    def get(self, table: str, key: Any) -> bytes | None: ...
    def scan(self, table: str, start: Any, end: Any, limit: int) -> list[tuple[Any, bytes]]: ...
    def heads(
        self, table: str, start: Any, end: Any, limit: int, head_bytes: int
    ) -> list[tuple[Any, bytes, int]]: ...
    def last(self, table: str) -> Any | None: ...
    def commit(self, writes: Sequence[Write], done: Callable[[AtollError | None], None]) -> None: ...
