"""Whose chunk transfers a peer takes part in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from peer.bulkservice import BulkService
from peer.replication.messages import FAILED, MISSING
from tests.replication_world import member, ring_of

TAG = 1


@pytest.fixture
def service() -> BulkService:
    """A peer of a ring of two that holds no chunk."""
    epoch = ring_of(member(1), member(2))
    replica: Any = SimpleNamespace(epochs=SimpleNamespace(current=epoch), tag=TAG, serve=lambda *_: None)
    holder: Any = SimpleNamespace(find=lambda name: None)
    pool: Any = SimpleNamespace(take_blocking=lambda timeout_s: "buffer", give=lambda buffer: None)
    nothing: Any = None
    return BulkService(nothing, replica, holder, nothing, pool)


@pytest.mark.parametrize("sender", ["", "f" * 16], ids=["stranger", "no member"])
@pytest.mark.parametrize(
    "header", [["get", TAG, b"n" * 32], ["put", TAG, b"n" * 32, b"a", b"b"], ["get", 0, b"n"], []]
)
def test_only_members_are_served(service: BulkService, sender: str, header: list[Any]) -> None:
    """Goal: who holds the cluster key but is no member of the ring neither reads chunks nor stores any."""
    buffer: Any = "a buffer"
    reply, payload, _ = service.handle(sender, header, buffer, 10)
    assert reply[:2] == (FAILED, "AccessDenied") and payload is None


def test_members_are_served(service: BulkService) -> None:
    """Goal: a member gets its answer, and so does one that this peer has not heard of yet."""
    for sender, tag in ((member(2).id, TAG), ("f" * 16, TAG + 1)):
        assert service.handle(sender, ["get", tag, b"n" * 32], None, 0)[0] == (MISSING,)
