"""What rows and chunk stores promise, as checks that any implementation runs through.

`tests/test_storage_contract.py` runs the disk's implementations; the simulator's storage runs through
the same lists, `ROWS_CONTRACT` and `CHUNKS_CONTRACT`: each entry is a function of a fresh bench, its
docstring says which promise it checks. A bench adapts one implementation (see the two Protocols).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pytest
from blake3 import blake3

from peer.errors import AtollError, Corrupt, Full, NotFound
from peer.storage.records import Extent

# --- rows ---


class RowsBench(Protocol):
    """One database and the power switch of its machine."""

    @property
    def rows(self) -> Any:
        """The open `peer.storage.rows.Rows`."""

    def settle(self) -> None:
        """Run the loop until every commit so far has called back."""

    def reopen(self) -> None:
        """Close properly and open again."""

    def crash(self) -> None:
        """Lose what is not durable and open again; nothing need be settled."""

    def fill(self, full: bool) -> None:
        """Make the disk full, or not any more."""


def _commit(bench: RowsBench, writes: Sequence[tuple[str, Any, bytes | None]]) -> AtollError | None:
    answers: list[AtollError | None] = []
    bench.rows.commit(writes, answers.append)
    assert not answers, "done was called from within commit"
    bench.settle()
    assert len(answers) == 1, "done must be called exactly once"
    return answers[0]


def rows_put_get_delete(bench: RowsBench) -> None:
    """A committed value is read back; a replaced one replaces; a deleted or unknown one is None."""
    rows = bench.rows
    assert rows.get("rows", b"k") is None
    assert (
        _commit(bench, [("rows", b"k", b"one"), ("meta", b"k", b"other table"), ("side", 7, b"x" * 9000)])
        is None
    )
    assert (rows.get("rows", b"k"), rows.get("meta", b"k")) == (b"one", b"other table")
    assert rows.get("side", 7) == b"x" * 9000
    assert _commit(bench, [("rows", b"k", b""), ("side", 7, None), ("rows", b"never was", None)]) is None
    assert rows.get("rows", b"k") == b""
    assert rows.get("side", 7) is None


def rows_order(bench: RowsBench) -> None:
    """Scans are in key order (bytes unsigned), start inclusive, end exclusive, limited, values cut."""
    keys = [b"", b"\x00", b"\x00\x00", b"a", b"a\x00", b"a\xff", b"b", b"\x7f", b"\x80", b"\xff", b"\xff\xff"]
    _commit(bench, [("refs", key, b"value of " + key) for key in keys])
    rows = bench.rows
    ordered = [(key, b"value of " + key) for key in sorted(keys)]
    assert rows.scan("refs", b"", b"\xff" * 8, 100) == ordered
    assert rows.scan("refs", b"a", b"b", 100) == [row for row in ordered if b"a" <= row[0] < b"b"]
    assert rows.scan("refs", b"a", b"b", 2) == [row for row in ordered if row[0] >= b"a"][:2]
    assert rows.heads("refs", b"a", b"b", 1, 5) == [(b"a", b"value", 10)]
    assert rows.heads("refs", b"a", b"b", 9, 99) == [
        (*row, len(row[1])) for row in rows.scan("refs", b"a", b"b", 9)
    ]
    assert rows.scan("refs", b"c", b"b", 5) == []
    assert rows.last("refs") == b"\xff\xff"
    assert rows.last("hints") is None


def rows_integer_keys(bench: RowsBench) -> None:
    """The side table orders by number, up to 63 bits."""
    keys = [1, 2, 255, 256, 1 << 40, (1 << 63) - 1]
    _commit(bench, [("side", key, str(key).encode()) for key in reversed(keys)])
    assert [key for key, _ in bench.rows.scan("side", 2, (1 << 63) - 1, 10)] == keys[1:-1]
    assert bench.rows.last("side") == (1 << 63) - 1


def rows_last_write_wins(bench: RowsBench) -> None:
    """Within a batch and between batches of one group the last write of a key wins, deletes included."""
    rows = bench.rows
    done: list[AtollError | None] = []
    rows.commit(
        [("rows", b"a", b"1"), ("rows", b"a", None), ("rows", b"a", b"2"), ("rows", b"b", b"1")], done.append
    )
    rows.commit([("rows", b"b", None), ("rows", b"c", b"1")], done.append)
    rows.commit([("rows", b"b", b"3"), ("rows", b"c", None), ("rows", b"d", b"1")], done.append)
    rows.commit([("rows", b"d", None)], done.append)
    bench.settle()
    assert done == [None] * 4
    assert rows.scan("rows", b"", b"z", 9) == [(b"a", b"2"), (b"b", b"3")]


def rows_callbacks_in_order(bench: RowsBench) -> None:
    """R2: callbacks run in the order of commit, also for batches queued from within a callback."""
    heard: list[int] = []

    def then(n: int) -> Callable[[AtollError | None], None]:
        def done(error: AtollError | None) -> None:
            assert error is None
            heard.append(n)
            if n < 20:
                bench.rows.commit([("meta", b"%d" % (n + 100), b"")], then(n + 100))

        return done

    for n in range(50):
        bench.rows.commit([("meta", b"%d" % n, b"")], then(n))
    bench.settle()
    bench.settle()
    first = [n for n in heard if n < 100]
    assert first == sorted(first) and len(first) == 50
    later = [n for n in heard if n >= 100]
    assert later == sorted(later) and len(later) == 20


def rows_committed_only(bench: RowsBench) -> None:
    """R4: what is queued is not visible before it is durable; what called back is."""
    rows = bench.rows
    seen: list[bytes | None] = []
    rows.commit([("rows", b"k", b"new")], lambda _: seen.append(rows.get("rows", b"k")))
    bench.settle()
    assert seen == [b"new"]


def rows_survive(bench: RowsBench) -> None:
    """R1, R3: after a crash every acknowledged batch is there whole, and any other wholly or not at all."""
    acknowledged: list[int] = []
    for n in range(20):
        writes = [("rows", b"%d/%d" % (n, part), b"x" * 300) for part in range(5)]
        assert _commit(bench, [*writes, ("side", n, b"y" * 4096)]) is None
        acknowledged.append(n)
    for n in range(20, 40):
        bench.rows.commit([("rows", b"%d/%d" % (n, part), b"x") for part in range(5)], lambda _: None)
    bench.crash()
    for n in range(40):
        parts = [bench.rows.get("rows", b"%d/%d" % (n, part)) for part in range(5)]
        assert parts.count(None) in (0, 5), f"batch {n} is there in part"
        assert n not in acknowledged or None not in parts
    assert bench.rows.get("side", 19) == b"y" * 4096


def rows_sequence(bench: RowsBench) -> None:
    """R6: the sequence grows with commits and never falls back, by a restart or a crash."""
    before = bench.rows.sequence
    seen: list[int] = []
    for n in range(3):
        bench.rows.commit([("meta", b"k", b"%d" % n)], lambda _: seen.append(bench.rows.sequence))
        bench.settle()
    assert before < seen[0] < seen[1] < seen[2]
    bench.reopen()
    assert bench.rows.sequence >= seen[2]
    _commit(bench, [("meta", b"k", b"more")])
    acknowledged = bench.rows.sequence
    assert acknowledged > seen[2]
    bench.crash()
    assert bench.rows.sequence >= acknowledged
    assert bench.rows.get("meta", b"k") == b"more"


def rows_close_drains(bench: RowsBench) -> None:
    """Closing commits what was queued."""
    for n in range(200):
        bench.rows.commit([("hints", b"%03d" % n, b"v")], lambda _: None)
    bench.reopen()
    assert len(bench.rows.scan("hints", b"", b"z", 1000)) == 200


def rows_full(bench: RowsBench) -> None:
    """R5: a full disk fails the batch and all queued until it is told; nothing of them is kept; then it goes on."""
    _commit(bench, [("rows", b"before", b"x")])
    bench.fill(True)
    big = [("side", n, b"z" * 16384) for n in range(40)]
    heard: list[tuple[str, AtollError | None]] = []
    bench.rows.commit([("rows", b"a", b"x"), *big], lambda error: heard.append(("a", error)))
    bench.rows.commit([("rows", b"b", b"x")], lambda error: heard.append(("b", error)))
    bench.settle()
    assert [name for name, _ in heard] == ["a", "b"]
    assert all(isinstance(error, Full) and error.state_changed is False for _, error in heard)
    assert [bench.rows.get("rows", key) for key in (b"before", b"a", b"b")] == [b"x", None, None]
    bench.fill(False)
    assert _commit(bench, [("rows", b"a", b"again"), *big]) is None
    bench.crash()
    assert bench.rows.get("rows", b"a") == b"again"


ROWS_CONTRACT = [
    rows_put_get_delete,
    rows_order,
    rows_integer_keys,
    rows_last_write_wins,
    rows_callbacks_in_order,
    rows_committed_only,
    rows_survive,
    rows_sequence,
    rows_close_drains,
    rows_full,
]


# --- chunks ---


class ChunksBench(Protocol):
    """One chunk store with segments of about 256 KiB, and the power switch of its machine."""

    def append(self, payload: bytes) -> Extent:
        """Store under its BLAKE3; durable on return."""

    def read(self, extent: Extent, name: bytes) -> bytes: ...
    def named(self, extent: Extent) -> None: ...
    def abandon(self, extent: Extent) -> None: ...
    def doomed(self, extent: Extent) -> None: ...
    def unnamed(self, extent: Extent) -> None: ...
    def pin(self, extent: Extent) -> bool: ...
    def unpin(self, extent: Extent) -> object: ...
    def stray(self, extent: Extent) -> bool: ...
    def adopt(self, extent: Extent) -> None: ...
    def adopted(self, segment: int) -> None: ...

    def settle(self) -> None:
        """Let everything that can be sealed, punched and removed be so."""

    def segments(self) -> list[int]:
        """Ids of sealed segments of earlier starts."""

    def scan(self, segment: int) -> list[tuple[bytes, Extent]]: ...

    def crash(
        self, named: Sequence[tuple[bytes, Extent]], *, adopting: bool = False
    ) -> list[tuple[bytes, Extent, str]]:
        """Lose what is not durable and open again with these rows; what was reported as lost."""

    def damage(self, extent: Extent, at: int) -> None:
        """Flip a bit of the record on disk, `at` bytes behind its start."""

    def used_bytes(self) -> int:
        """Bytes of disk that segments occupy with data (not what is preallocated)."""


def _payload(size: int = 10_000) -> tuple[bytes, bytes]:
    data = os.urandom(size)
    return blake3(data).digest(), data


def _stored(bench: ChunksBench, size: int = 10_000) -> tuple[bytes, Extent]:
    name, data = _payload(size)
    extent = bench.append(data)
    bench.named(extent)
    return name, extent


def chunks_round_trip(bench: ChunksBench) -> None:
    """Any size comes back as it was; extents do not overlap and start at multiples of 4 KiB."""
    kept: list[tuple[bytes, Extent, bytes]] = []
    for size in (0, 1, 63, 4031, 4032, 4033, 4096, 8128, 65_536, 50_000):
        name, data = _payload(size)
        extent = bench.append(data)
        bench.named(extent)
        assert (extent.length, extent.offset % 4096) == (size, 0)
        kept.append((name, extent, data))
    for name, extent, data in kept:
        assert bench.read(extent, name) == data
    spans = sorted((e.segment, e.offset, e.end) for _, e, _ in kept)
    for one, two in itertools.pairwise(spans):
        assert one[0] != two[0] or one[2] <= two[1], "two records overlap"


def chunks_corrupt(bench: ChunksBench) -> None:
    """P5: a flipped bit in header or payload, or another chunk's extent, is Corrupt, never served."""
    name, extent = _stored(bench)
    other, elsewhere = _stored(bench)
    with pytest.raises(Corrupt):
        bench.read(extent, other)
    bench.damage(extent, 64 + 5000)
    with pytest.raises(Corrupt):
        bench.read(extent, name)
    bench.damage(elsewhere, 20)
    with pytest.raises(Corrupt):
        bench.read(elsewhere, other)


def chunks_survive(bench: ChunksBench) -> None:
    """P2: what append returned is there after a crash, and nothing is reported lost."""
    kept = [_stored(bench, 40_000) for _ in range(20)]
    unnamed_yet, data = _payload()
    extent = bench.append(data)
    assert bench.crash(kept) == []
    for name, where in kept:
        assert len(bench.read(where, name)) == 40_000
    assert (unnamed_yet, extent) in bench.scan(extent.segment)


def chunks_lost_rows(bench: ChunksBench) -> None:
    """Rows that point past a segment's end or to a missing segment are reported at the start."""
    name, extent = _stored(bench)
    missing = Extent(extent.segment + 7, 0, 100)
    beyond = Extent(extent.segment, 1 << 30, 100)
    lost = bench.crash([(name, extent), (b"m" * 32, missing), (b"b" * 32, beyond)])
    assert {(n, e) for n, e, _ in lost} == {(b"m" * 32, missing), (b"b" * 32, beyond)}
    assert len(bench.read(extent, name)) == 10_000


def chunks_ids_never_reissued(bench: ChunksBench) -> None:
    """S9: a new segment's id is greater than any before, files and rows of earlier starts included."""
    seen: set[int] = set()
    for _ in range(3):
        name, extent = _stored(bench)
        assert not seen or extent.segment > max(seen)
        seen.add(extent.segment)
        bench.unnamed(extent)
        bench.settle()
        bench.crash([])
        bench.settle()
    bench.crash([(name, Extent(900, 0, 10))])
    assert _stored(bench)[1].segment > 900


def chunks_space_returns(bench: ChunksBench) -> None:
    """Extents whose rows are gone are punched in sealed segments, and empty segments go."""
    kept = [_stored(bench, 60_000) for _ in range(24)]
    bench.settle()
    before = bench.used_bytes()
    for _, extent in kept[:20]:
        bench.doomed(extent)
        bench.unnamed(extent)
    bench.settle()
    assert bench.used_bytes() <= before - 15 * 60_000
    for name, extent in kept[20:]:
        assert len(bench.read(extent, name)) == 60_000
    with pytest.raises((NotFound, Corrupt)):  # whoever still has the old row must read it again
        bench.read(kept[0][1], kept[0][0])


def chunks_pins(bench: ChunksBench) -> None:
    """S7: a pinned extent keeps its bytes until the last unpin; once its row is gone it cannot be pinned."""
    name, extent = _stored(bench)
    assert bench.pin(extent) and bench.pin(extent)
    _stored(bench, 60_000)
    bench.crash([(name, extent)])  # a restart has no readers; the segment is sealed now
    assert bench.pin(extent)
    bench.unnamed(extent)
    bench.settle()
    assert (name, extent) in bench.scan(extent.segment)
    assert not bench.pin(extent)
    with pytest.raises(NotFound):
        bench.read(extent, name)
    bench.unpin(extent)
    bench.settle()
    assert extent.segment not in bench.segments() or (name, extent) not in bench.scan(extent.segment)


def chunks_abandoned(bench: ChunksBench) -> None:
    """A synced extent that no row will name is given back, and nothing else is."""
    name, data = _payload(60_000)
    extent = bench.append(data)
    bench.abandon(extent)
    kept = [_stored(bench, 60_000) for _ in range(8)]
    bench.settle()
    with pytest.raises((NotFound, Corrupt)):
        bench.read(extent, name)
    for other, where in kept:
        bench.read(where, other)


def chunks_strays(bench: ChunksBench) -> None:
    """S10: bytes no row names go only in segments of an earlier start, after adoption; named ones stay."""
    name, data = _payload()
    extent = bench.append(data)
    assert not bench.stray(extent), "synced, its row may be on the way"
    kept = _stored(bench)
    bench.crash([], adopting=True)
    assert sorted(bench.scan(extent.segment)) == sorted([(name, extent), kept])
    assert not bench.stray(extent), "not adopted yet"
    bench.adopt(kept[1])
    bench.adopted(extent.segment)
    assert bench.stray(extent)
    bench.settle()
    assert bench.scan(extent.segment) == [kept]
    assert len(bench.read(kept[1], kept[0])) == 10_000


def chunks_scan_steps_over_damage(bench: ChunksBench) -> None:
    """A scan finds every whole record around a damaged one, also records that lie inside another's bytes only then."""
    from peer.storage.records import pack_header

    inner = os.urandom(500)
    record = pack_header(blake3(inner).digest(), len(inner)) + inner
    outer = os.urandom(4096 - 64) + record + os.urandom(9000)  # a forged record at a 4 KiB boundary
    first = _stored(bench)
    extent = bench.append(outer)
    bench.named(extent)
    last = _stored(bench)
    rows = [first, (blake3(outer).digest(), extent), last]
    bench.crash(rows)
    assert bench.scan(extent.segment) == rows
    bench.damage(extent, 64 + 4096 + 600)
    forged = (blake3(inner).digest(), Extent(extent.segment, extent.offset + 4096, 500))
    assert bench.scan(extent.segment) == [first, forged, last]


CHUNKS_CONTRACT = [
    chunks_round_trip,
    chunks_corrupt,
    chunks_survive,
    chunks_lost_rows,
    chunks_ids_never_reissued,
    chunks_space_returns,
    chunks_pins,
    chunks_abandoned,
    chunks_strays,
    chunks_scan_steps_over_damage,
]
