"""One bulk connection: what a slow reader costs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from peer.buffers import BufferPool
from peer.rpc.bulksocket import BulkSocket


class Trickle:
    """A socket whose other side takes one byte in each second."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def setsockopt(self, *_: object) -> None:
        pass

    def sendmsg(self, buffers: object) -> int:
        return self.send(buffers)

    def send(self, view: object) -> int:
        self.now_s += 1.0
        assert self.now_s < 100, "no deadline"
        return 1


def test_a_slow_reader_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a transfer that crawls ends at the limit, and the memory it was sealed in comes back."""
    slow: Any = Trickle()
    monkeypatch.setattr("peer.rpc.bulksocket.time", slow)
    cipher = SimpleNamespace(
        seal=lambda packed: b"s" * len(packed), seal_into=lambda payload, record: len(payload)
    )
    session: Any = SimpleNamespace(send=cipher, theirs=SimpleNamespace(member_id="m"), where="there")
    monkeypatch.setattr("peer.rpc.frames.seal", lambda cipher, packed: bytes(packed))
    seals = BufferPool(1, name="seal")
    connection = BulkSocket(slow, session)
    connection.limit(10)
    with pytest.raises(BlockingIOError):
        connection.send(["get"], memoryview(b"x" * 5000), seals)
    seals.give(seals.take_blocking(1))
