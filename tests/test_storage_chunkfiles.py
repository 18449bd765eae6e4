"""Threads, descriptors and failing disks around the segments' state machine."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from peer.buffers import HEADER_BYTES, Buffer
from peer.errors import Corrupt, Full, NotFound, StartupError, Unavailable
from peer.storage import segmentdir
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.operations import ChunkOptions, Limits
from peer.storage.records import Extent, pack_header, record_bytes, unpack_header
from peer.storage.syscalls import data_end, fallocate, punch_hole

KIB = 1024
MIB = 1024 * KIB
LIMITS = Limits(floor=0, smallest=MIB, largest=MIB, least=512 * KIB, punch_bytes=128 * KIB)


def unexpected(reason: str) -> None:
    raise AssertionError(reason)


Opener = Callable[..., ChunkFiles]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens the chunk files of one directory; closes what was opened last."""
    current: list[ChunkFiles] = []

    def open_(named: Any = (), fatal: Callable[[str], object] = unexpected, **options: Any) -> ChunkFiles:
        for files in current:
            files.close()
        files = ChunkFiles(
            tmp_path / "segments", options=ChunkOptions(**{"limits": LIMITS, **options}), fatal=fatal
        )
        files.open(named, lambda *lost: unexpected(f"lost {lost}"))
        current[:] = [files]
        return files

    yield open_
    for files in current:
        files.close()


def store(files: ChunkFiles, size: int, buffer: Buffer | None = None) -> tuple[bytes, Extent]:
    buffer = buffer or Buffer(256 * KIB)
    buffer.payload(size)[:] = os.urandom(size)
    name = blake3(buffer.payload(size)).digest()
    extent = files.append(buffer, size, name)
    files.named(extent)
    return name, extent


def wait_until(condition: Callable[[], object]) -> None:
    """Return once the condition holds, within ten seconds."""
    tick = threading.Event()
    for _ in range(5000):
        if condition():
            return
        tick.wait(0.002)
    raise AssertionError("the condition never came true")


@given(st.binary(min_size=32, max_size=32), st.integers(0, 1 << 22), st.integers(0, HEADER_BYTES * 8 - 1))
def test_headers(name: bytes, length: int, bit: int) -> None:
    """A header reads back as written, and any flipped bit makes it none."""
    header = bytearray(pack_header(name, length))
    assert len(header) == HEADER_BYTES and unpack_header(header) == (name, length)
    header[bit // 8] ^= 1 << bit % 8
    damaged_reserved = 48 <= bit // 8 < 56  # zero, not covered by what is read; the checksum ignores it
    assert damaged_reserved or unpack_header(header) is None


@given(st.integers(0, (1 << 32) - 1), st.integers(0, 1 << 40), st.integers(0, 1 << 22))
def test_extents(segment: int, page: int, length: int) -> None:
    """An extent encodes to 16 bytes that order and read back; anything else is refused."""
    extent = Extent(segment, page * 4096, length)
    assert len(extent.encode()) == 16 and Extent.decode(extent.encode()) == extent
    assert extent.end - extent.offset == record_bytes(length) >= 64 + length
    with pytest.raises(ValueError, match="16 bytes"):
        Extent.decode(extent.encode()[1:])


def test_yesterdays_record() -> None:
    """Bytes written by format 1 stay readable: the layout is frozen here."""
    header = bytes.fromhex(
        "41544f4c4c43484b01000000"
        "05000000" + "11" * 32 + "00" * 8
    ) + blake3(bytes.fromhex("41544f4c4c43484b0100000005000000" + "11" * 32 + "00" * 8)).digest(8)  # fmt: skip
    assert pack_header(b"\x11" * 32, 5) == header
    assert Extent(1, 8192, 5).encode().hex() == "01000000" + "0020000000000000" + "05000000"


def test_many_threads_share_syncs(opened: Opener) -> None:
    """Eight threads append at once over several segments; everything reads back, no record overlaps."""
    files = opened()

    def work(seed: int) -> list[tuple[bytes, Extent]]:
        buffer = Buffer(256 * KIB)
        return [store(files, 1000 + (seed * 40 + n) * 331 % 60_000, buffer) for n in range(40)]

    with ThreadPoolExecutor(8) as pool:
        kept = [row for rows in pool.map(work, range(8)) for row in rows]
    buffer = Buffer(256 * KIB)
    for name, extent in kept:
        assert files.read(extent, name, buffer) == extent.length
        assert files.read(extent, name, buffer, direct=True) == extent.length
    spans = sorted((e.segment, e.offset, e.end) for _, e in kept)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in zip(spans, spans[1:]))  # noqa: B905, RUF007
    stats = files.stats
    assert stats["appends"] == 320 >= stats["syncs"]
    assert stats["live_count"] == 320 and stats["segments"] > 5
    reopened = opened(kept)
    assert reopened.stats["live_bytes"] == sum(e.record_bytes for _, e in kept)


def test_one_sync_serves_writes_that_returned_before(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a sync runs others write; they all share the next one, and none returns before it."""
    files = opened()
    store(files, 100)
    begun, go_on = threading.Event(), threading.Event()
    real, count = os.fdatasync, 0

    def slow(fd: int) -> None:
        nonlocal count
        count += 1
        if count == 1:
            begun.set()
            assert go_on.wait(30)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(store, files, 100)
        assert begun.wait(30)
        others = [pool.submit(store, files, 100) for _ in range(5)]
        wait_until(lambda: len(files._machine.all[1].numbers) == 6)  # all writes have returned and wait
        assert not any(future.done() for future in (first, *others))
        go_on.set()
        for future in (first, *others):
            future.result(30)
    assert count == 2


def test_cached_reads_never_wait(opened: Opener) -> None:
    """`read_cached` answers from the page cache or not at all: what is not cached is no damage."""
    files = opened()
    name, extent = store(files, 100_000)
    buffer = Buffer(256 * KIB)
    with files._files.readable(extent.segment) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert files.read_cached(extent, name, buffer) in (None, 100_000)
        os.pread(fd, 4096, extent.offset)  # its first pages only
        assert files.read_cached(extent, name, buffer) in (None, 100_000)
    assert files.read(extent, name, buffer) == 100_000
    assert files.read_cached(extent, name, buffer) in (None, 100_000)
    assert files.stats["corrupt"] == 0


def test_many_appends_under_one_sync(opened: Opener) -> None:
    """`append_many` answers for each item, also when some find no room, and syncs them together."""
    files = opened()
    store(files, 10)
    before = files.stats["syncs"]
    items: list[tuple[Buffer, int, bytes]] = []
    for size in (10, 20_000, 60_000):
        buffer = Buffer(256 * KIB)
        buffer.payload(size)[:] = os.urandom(size)
        items.append((buffer, size, blake3(buffer.payload(size)).digest()))
    results = files.append_many(items)
    assert files.stats["syncs"] == before + 1
    for (_, size, name), extent in zip(items, results, strict=True):
        assert isinstance(extent, Extent)
        assert files.read(extent, name, Buffer(256 * KIB)) == size
        files.named(extent)


def test_a_failed_write_abandons_its_extent(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short writes and ENOSPC are Full, other errors Unavailable; the next append goes elsewhere."""
    files = opened()
    _, before = store(files, 5000)
    buffer = Buffer(256 * KIB)
    real = os.pwrite
    for failure, expected in ((errno.ENOSPC, Full), (errno.EIO, Unavailable), (0, Full)):

        def fail(fd: int, data: Any, offset: int, failure: int = failure) -> int:
            if failure:
                raise OSError(failure, os.strerror(failure))
            return real(fd, data[:4096], offset)

        monkeypatch.setattr(os, "pwrite", fail)
        with pytest.raises(expected):
            files.append(buffer, 5000, bytes(32))
        monkeypatch.setattr(os, "pwrite", real)
    name, after = store(files, 5000)
    assert after.offset == before.offset + 4 * record_bytes(5000)
    assert files.read(after, name, buffer) == 5000
    assert files.stats["live_count"] == 2 and files.stats["dying_count"] == 3


def test_a_failed_sync_is_fatal(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """An fdatasync that fails ends the process: nothing is acknowledged, nothing retried."""
    reasons: list[str] = []
    files = opened(fatal=reasons.append)
    store(files, 100)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(Unavailable):
        store(files, 100)
    assert len(reasons) == 1 and "fdatasync" in reasons[0]


def test_unsealed_segments_are_cut_and_sealed_at_the_start(opened: Opener, tmp_path: Path) -> None:
    """What a kill leaves open is truncated behind the last byte written, renamed, and stays readable."""
    files = opened()
    kept = [store(files, 30_000) for _ in range(3)]
    (left,) = (tmp_path / "segments").glob("*.open")
    assert left.stat().st_size == MIB
    files = opened(kept)
    (sealed,) = (tmp_path / "segments").iterdir()
    assert sealed.suffix == ".seg" and sealed.stat().st_size == kept[-1][1].end
    assert list(files.scan(1, Buffer(256 * KIB))) == kept
    assert store(files, 10)[1].segment == 2


def test_a_full_disk_passes_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a peer starts on a full disk, to serve and to delete; a disk that fails is named with what to do."""
    wrong = errno.ENOSPC

    def refuse(*_: object) -> None:
        raise OSError(wrong, os.strerror(wrong))

    monkeypatch.setattr(segmentdir, "fallocate", refuse)
    directory = segmentdir.SegmentDir(tmp_path / "segments")
    directory.probe()
    assert list(directory.path.iterdir()) == []
    wrong = errno.EIO
    files = ChunkFiles(tmp_path / "segments")
    try:
        with pytest.raises(StartupError, match=r"cannot open the segments in .* look at the disk"):
            files.open([], lambda *_: None)
    finally:
        files.close()


def test_no_fallocate_no_start(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot preallocate or punch is refused at the start, by name and with a remedy."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(segmentdir, "punch_hole", refuse)
    with pytest.raises(StartupError, match=r"punch holes.*ext4"):
        opened()


def test_the_floor(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the free-space floor chunks are refused as Full; what is there is served; then it goes on."""
    files = opened(
        limits=Limits(floor=100 * MIB, smallest=MIB, largest=MIB, least=512 * KIB),
        space_every_s=0,
        full_for_s=0,
    )
    free = 200 * MIB
    monkeypatch.setattr(files._files, "free_bytes", lambda: free)
    name, extent = store(files, 1000)
    free = 99 * MIB
    with pytest.raises(Full, match="floor"):
        store(files, 1000)
    assert files.full
    assert files.read(extent, name, Buffer(256 * KIB)) == 1000
    free = 200 * MIB
    assert not files.full
    store(files, 1000)


def test_room_that_somebody_made_ends_it(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal counts for a while, so that a peer at its limit does not say one thing after the other; but not once there
    is room for another segment that was not there then: such a peer healed half a minute later than it could."""
    files = opened(
        limits=Limits(floor=100 * MIB, smallest=MIB, largest=MIB, least=512 * KIB),
        space_every_s=0,
        full_for_s=1e9,
    )
    free = 99 * MIB
    monkeypatch.setattr(files._files, "free_bytes", lambda: free)
    with pytest.raises(Full, match="floor"):
        store(files, 1000)
    assert files.full
    free = 101 * MIB
    assert not files.full
    store(files, 1000)


def test_segments_do_not_outrun_the_measure_of_space(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free space is measured anew after each segment: a fast disk took the floor's 64 MiB between two looks a second."""
    limits = Limits(floor=8 * MIB, smallest=MIB, largest=MIB, least=512 * KIB)
    files = opened(space_every_s=1e9, limits=limits)
    free = limits.floor + 5 * limits.least

    def free_bytes() -> int:
        segments = sum(entry.stat().st_size for entry in files._files.path.iterdir())
        return free - segments

    monkeypatch.setattr(files._files, "free_bytes", free_bytes)
    stored = 0
    with pytest.raises(Full):
        while stored < 100:
            store(files, 250_000)
            stored += 1
    assert free_bytes() >= limits.floor - limits.least


def test_a_segment_that_cannot_be_created_is_full(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """When preallocation fails the append says Full, leaves no file behind, and ids are not used again."""
    files = opened(space_every_s=0)
    real = segmentdir.fallocate

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segmentdir, "fallocate", refuse)
    with pytest.raises(Full):
        store(files, 1000)
    assert list(files._files.path.iterdir()) == []
    assert "no room" in str(files.full), "free space or not, it refused a chunk a moment ago"
    monkeypatch.setattr(segmentdir, "fallocate", real)
    assert store(files, 1000)[1].segment > 1


def test_a_really_full_file_system(tmp_path: Path) -> None:
    """ENOSPC on a small tmpfs: Full at some point, everything acknowledged stays, deleting makes room."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mount)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        limits = Limits(floor=0, smallest=512 * KIB, largest=512 * KIB, least=256 * KIB)
        options = ChunkOptions(limits=limits, space_every_s=0)
        files = ChunkFiles(mount / "segments", options=options, fatal=unexpected)
        files.open((), unexpected)
        kept: list[tuple[bytes, Extent]] = []
        with pytest.raises(Full):
            while len(kept) < 1000:
                kept.append(store(files, 50_000))
        assert len(kept) > 30
        buffer = Buffer(256 * KIB)
        for name, extent in kept:
            assert files.read(extent, name, buffer) == 50_000
        for _, extent in kept[:30]:
            files.unnamed(extent)
        files.settle()
        store(files, 50_000)
        files.close()
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_readers_keep_few_descriptors(opened: Opener) -> None:
    """Reading from many segments keeps at most `open_files` descriptors, and closes those of removed ones."""
    files = opened(open_files=3)
    kept = [store(files, 200_000) for _ in range(40)]
    buffer = Buffer(256 * KIB)
    for name, extent in kept:
        files.read(extent, name, buffer)
    assert len({e.segment for _, e in kept}) == 8
    assert len(files._files._readable) == 3
    for _, extent in kept[:-8]:
        files.unnamed(extent)
    files.settle()
    with pytest.raises((NotFound, Corrupt)):
        files.read(kept[0][1], kept[0][0], buffer)
    assert len(list(files._files.path.iterdir())) < 5


def test_punches_come_by_themselves(opened: Opener) -> None:
    """A few unnamed extents of a sealed segment are punched after a while without anybody asking."""
    files = opened(punch_after_s=0.01)
    kept = [store(files, 200_000) for _ in range(10)]
    files = opened(kept, punch_after_s=0.01)
    files.unnamed(kept[0][1])
    wait_until(lambda: files.stats["punched_bytes"])
    assert files.stats["punched_bytes"] == record_bytes(200_000)
    assert files.read(kept[1][1], kept[1][0], Buffer(256 * KIB)) == 200_000


def test_holes(tmp_path: Path) -> None:
    """`fallocate` reserves without writing, `data_end` tells reserved from written, punching frees."""
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fallocate(fd, 0, MIB)
        assert data_end(fd) == 0 and os.fstat(fd).st_size == MIB
        assert os.fstat(fd).st_blocks * 512 >= MIB
        os.pwrite(fd, b"x" * 8192, 4096)
        os.fsync(fd)
        assert data_end(fd) == 12288
        punch_hole(fd, 0, MIB)
        assert data_end(fd) == 0 and os.pread(fd, 5, 4096) == bytes(5)
        assert os.fstat(fd).st_blocks * 512 < MIB
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        punch_hole(fd, 0, 4096)
