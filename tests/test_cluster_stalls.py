"""Clients that begin an upload and send no more, or next to nothing, on real processes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster_tools import MIB, content, wait_until
from tests.cluster_world import ClusterWorld

STALLED = 200


@contextlib.contextmanager
def stalled(world: ClusterWorld, first_bytes: int) -> Iterator[list[socket.socket]]:
    """STALLED uploads of 64 MiB that sent so many bytes and then nothing."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for number in range(STALLED):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", world.place(0).api_port), 10))
            head = (
                f"PUT /v1/buckets/busy/objects/stalled-{number} HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: {world.authorization}\r\nContent-Length: {64 * MIB}\r\n\r\n"
            )
            client.sendall(head.encode() + bytes(first_bytes))
            sockets.append(client)
        yield sockets


@pytest.mark.parametrize("first_bytes", [0, 100_000, MIB])
def test_stalled_uploads_do_not_starve_others(tmp_path: Path, first_bytes: int) -> None:
    """Goal: 200 clients that stall before, within and behind the bytes that take no buffer: another one goes on storing
    and reading, large objects and small ones. With a mebibyte each they once kept all turns for a minute."""
    with ClusterWorld(tmp_path, 1, replicas=1) as world:
        assert world.call("PUT", "/v1/buckets/busy", b'{"shards": 1}').status == 201
        world.forget_connections()
        with stalled(world, first_bytes):
            for number in range(3):
                for size in (1000, 9 * MIB):
                    body = content(number, size)
                    path = f"/v1/buckets/busy/objects/normal-{number}-{size}"
                    assert world.call("PUT", path, body, timeout_s=60.0).status == 200
                    assert world.call("GET", path, timeout_s=60.0).body == body
        idle = "/v1/cluster/nodes/self"
        wait_until(lambda: world.json_of(idle)["buffers"]["client"]["lent"] == 0, "every buffer is back")
