"""A peer that holds a million small objects starts in a moment: nothing at its start walks over the rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from peer.objects.heads import Head
from peer.replication.keys import OBJECT, Space
from peer.replication.value import decode_row, decode_side, encode_row, encode_side, payload_of, wrap
from peer.storage.rows import Write
from peer.storage.sqlite import SqliteRows
from tests.cluster_tools import content
from tests.cluster_world import ClusterWorld
from tests.storage_waiting import commit_wait

Figure = Callable[[str, object], None]

BODY = content(7, 400)
BATCH = 4000
START_S = 3.0
"""The issue's bound for a million objects."""


def key_of(number: int) -> str:
    return f"photos/{number // 1000:04}/{number:07}.jpg"


def multiply(database: Path, objects: int) -> None:
    """Give the peer `objects` more like the one it holds: a row and its bytes for each, as a put would write them."""

    async def work() -> None:
        rows = SqliteRows(database, asyncio.get_running_loop())
        try:
            await asyncio.to_thread(copy_template, rows, objects)
        finally:
            rows.close()

    asyncio.run(work())


def copy_template(rows: SqliteRows, objects: int) -> None:
    found = [
        (key, row) for key, row in rows.scan("rows", b"\x03", b"\x04", 10) if bytes(key).endswith(b"one")
    ]
    assert len(found) == 1
    key, row = found[0]
    assert isinstance(key, bytes)
    accepted = decode_row(key, row)
    payload, stored = payload_of(accepted.value), rows.get("side", accepted.side_id)
    assert payload is not None and stored is not None
    side = decode_side(key, stored)
    assert Head.decode(payload).size == len(BODY)
    space = Space(OBJECT, key[3:11], 64, 12)
    assert space.row_key(b"one") == key
    for first in range(0, objects, BATCH):
        batch: list[Write] = []
        for number in range(first, min(first + BATCH, objects)):
            new_key, side_id = space.row_key(key_of(number).encode()), accepted.side_id + 1 + number
            value = wrap(payload, b"", number.to_bytes(8, "big"))
            batch.append(("rows", new_key, encode_row(new_key, accepted.ballot, side_id, value)))
            batch.append(("side", side_id, encode_side(new_key, side)))
        commit_wait(rows, batch)


def starts_with(directory: Path, objects: int, figure: Figure) -> float:
    """Seconds from the start of the process to the first right answer: the best of three, each after a SIGKILL."""
    with ClusterWorld(directory, 1, replicas=1) as world:
        assert world.call("PUT", "/v1/buckets/million").status == 201
        assert world.call("PUT", "/v1/buckets/million/objects/one", BODY).status == 200
        assert world.stop(0) == 0
        multiply(world.place(0).directory / "rows" / "atoll.db", objects)
        took = []
        for number in (0, objects // 2, objects - 1):
            begun_s = time.monotonic()
            world.start(0)
            world.wait_ready(0)
            answer = world.call("GET", f"/v1/buckets/million/objects/{key_of(number)}")
            took.append(time.monotonic() - begun_s)
            assert (answer.status, answer.body) == (200, BODY)
            listed = world.call(
                "GET", f"/v1/buckets/million/objects?limit=5&after={key_of(number)[:-8]}"
            ).json
            assert listed["objects"][0]["key"].startswith("photos/")
            assert world.call("PUT", f"/v1/buckets/million/objects/new-{number}", b"new").status == 200
            world.kill(0)
        size = (world.place(0).directory / "rows" / "atoll.db").stat().st_size
        figure(f"start with {objects:,} objects ({size / 1e6:.0f} MB of rows)", [f"{s:.2f} s" for s in took])
        return min(took)


def test_starts_with_many_objects(tmp_path: Path, record_property: Figure) -> None:
    """Goal: rows written as a peer would write them are served after a start (the large form takes a million)."""
    starts_with(tmp_path, 20_000, record_property)


@pytest.mark.full
def test_starts_with_a_million_objects(large_path: Path, record_property: Figure) -> None:
    """Goal: under three seconds from the start of the process to the first right answer."""
    assert starts_with(large_path, 1_000_000, record_property) < START_S
