"""A peer's memory of itself: every kind of row is checked, none is lost or taken for another (M1, M2)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import Corrupt
from peer.replication import meta
from peer.replication.agreement.proposals import again
from peer.replication.messages import NO_GATE, PREPARE
from peer.replication.workers import Workers
from tests.replication_world import KEY, Peer, World, ballot_at, simulate
from tools.sim.disk import SimDisk, SimRows
from tools.sim.env import SimEnv
from tools.sim.loop import VirtualLoop
from tools.sim.story import Story

KINDS = (
    b"amnesiac",
    b"boot",
    b"boots",
    b"bound",
    b"epoch",
    b"epochs/",
    b"joint/",
    b"member",
    b"merged",
    b"paxos",
    b"tables/",
    b"workers/paused",
    b"workers/rates",
)


@pytest.fixture(scope="module")
def rows() -> Iterator[SimRows]:
    """An open database; the tests put one disk after the other under it."""
    loop = VirtualLoop(limit_s=60)
    yield SimRows(SimDisk(), SimEnv(loop, "peer", "peer"), random.Random(1), Story(loop.time))
    loop.close()


@pytest.fixture(scope="module")
def used() -> SimDisk:
    """The disk of a peer that did everything there is to remember."""
    disks: list[SimDisk] = []

    async def scenario(world: World, a: Peer, *_: Peer) -> None:
        await a.ask(PREPARE, KEY, ballot_at(1 << 60), NO_GATE, False)
        await a.replica.proposals.propose(lambda base: again(base) if base.number == 1 else base)
        await a.ask(PREPARE, KEY, ballot_at(1 << 61), NO_GATE, False)
        await Workers(a.env, a.rows).pause(["anti-entropy"])
        await Workers(a.env, a.rows).limit(["anti-entropy"], 5.0)
        await a.replica.recovered(0)
        disks.append(a.disk.copy())

    simulate(scenario)
    disk = disks[0]
    for key, value in (
        (b"member", b"0123456789abcdef"), (b"amnesiac", b"1"), (b"paxos", b"\x90"),
        (b"joint/" + bytes(10), b"\x01"), (b"tables/" + bytes(8), bytes(100)),
    ):  # fmt: skip
        disk.apply([meta.write(key, value)])
    return disk


def test_every_kind_of_row_is_there(used: SimDisk, rows: SimRows) -> None:
    """Goal: the tests below look at all kinds there are."""
    keys = used.tables[meta.TABLE].keys()
    assert {next(kind for kind in reversed(KINDS) if key.startswith(kind)) for key in keys} == set(KINDS)
    rows.disk = used
    meta.check(rows)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.decode())
def test_a_flipped_bit_is_found_and_named(used: SimDisk, rows: SimRows, kind: bytes) -> None:
    """Goal: any bit of a row's value, checksum or key: nothing is read from it, and a start finds it."""
    key = next(key for key in used.tables[meta.TABLE] if key.startswith(kind))
    stored = used.tables[meta.TABLE][key]
    bits = range(8 * len(stored)) if len(stored) < 200 else range(0, 8 * len(stored), 97)
    for bit in bits:
        disk = rows.disk = used.copy()
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        disk.tables[meta.TABLE][key] = bytes(flipped)
        with pytest.raises(Corrupt, match=f"row '{kind.decode()}.*own memory.*checksum"):
            meta.load(rows, key)
        with pytest.raises(Corrupt, match=f"row '{kind.decode()}.*own memory.*checksum"):
            meta.check(rows)
    for bit in range(8 * len(key)):
        disk = rows.disk = used.copy()
        renamed = bytearray(key)
        renamed[bit // 8] ^= 1 << bit % 8
        disk.tables[meta.TABLE][bytes(renamed)] = disk.tables[meta.TABLE].pop(key)
        with pytest.raises(Corrupt, match="own memory"):
            meta.check(rows)


@given(st.binary(min_size=1, max_size=20), st.binary(max_size=60), st.binary(max_size=80))
def test_only_what_was_written_is_read(key: bytes, value: bytes, other: bytes) -> None:
    """Goal: rows of any key and value read back as they were, and other bytes do not."""
    stored = meta.write(key, value)[2]
    assert stored is not None and meta.value_of(key, stored) == value
    if other != stored:
        with pytest.raises(Corrupt):
            meta.value_of(key, other)


def test_a_damaged_row_among_thousands_is_found(rows: SimRows) -> None:
    """Goal: the check reads page after page, to the last row."""
    disk = rows.disk = SimDisk()
    disk.apply([meta.write(b"epochs/" + number.to_bytes(8, "big"), b"x") for number in range(1000)])
    meta.check(rows)
    last = disk.tables[meta.TABLE].keys()[-1]
    disk.tables[meta.TABLE][last] = b"????x"
    with pytest.raises(Corrupt, match="history of the ring"):
        meta.check(rows)
