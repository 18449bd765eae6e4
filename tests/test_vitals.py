"""A peer's own condition: which flags it raises and when, that it has an ill disk tried, and what it tells of it."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer import vitals as vitals_module
from peer.looplag import Standstill
from peer.vitals import BLOCKED, FULL, READ_ONLY, SLOW, Vitals


class Seen:
    """Vitals whose words are kept."""

    def __init__(self, path: Path) -> None:
        self.vitals = Vitals(path, path.parent)
        self.flags: list[frozenset[str]] = []
        self.writable = 0
        self.vitals.tell = self.flags.append
        self.vitals.on_writable = self._writable

    def _writable(self) -> None:
        self.writable += 1


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    path = tmp_path / "atoll.db"
    path.write_bytes(b"rows")
    return Seen(path)


async def look_until(seen: Seen, flags: set[str]) -> None:
    async with asyncio.timeout(30):
        while seen.vitals.flags != flags:
            seen.vitals.look()
            await asyncio.sleep(0.01)


def test_flags_are_told_when_they_change(seen: Seen) -> None:
    """Goal: each source sets its own; what did not change is not told again."""
    for full in (False, True, True, False):
        seen.vitals.flag([(FULL, full)])
        seen.vitals.flag([(BLOCKED, True)])
    assert seen.flags == [{BLOCKED}, {BLOCKED, FULL}, {BLOCKED}]
    assert seen.writable == 1, "when it was not full any more"


def test_a_read_only_disk_is_tried_until_it_is_well(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the flag rises at once and falls when a trial goes well, with nobody writing; workers hear of it."""
    monkeypatch.setattr(vitals_module, "TRY_OUT_S", 0.02)

    async def main() -> None:
        gauge = seen.vitals.rows
        gauge.refused(OSError(errno.EROFS, "Read-only file system"))
        seen.vitals.look()
        assert seen.flags == [{READ_ONLY}]
        assert seen.vitals.info()["read_only"] == "Read-only file system"
        await look_until(seen, set())

    asyncio.run(main())
    assert seen.flags == [{READ_ONLY}, set()] and seen.writable == 1


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Seen]:
    """Rows and segments on two file systems."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("there is no second file system here")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "atoll.db").write_bytes(b"rows")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        seen = Seen(tmp_path)
        seen.vitals = Vitals(tmp_path / "rows" / "atoll.db", Path(other))
        seen.vitals.tell, seen.vitals.on_writable = seen.flags.append, seen._writable
        yield seen


def test_of_two_disks_the_one_that_is_read_only_is_told(apart: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: rows that go on being written say nothing of the segments' disk, which is tried by itself. With one gauge for
    both the next commit took the flag back, and the next chunk raised it."""
    monkeypatch.setattr(vitals_module, "TRY_OUT_S", 1e9)

    async def main() -> None:
        vitals = apart.vitals
        vitals.segments.refused(OSError(errno.EROFS, "Read-only file system"))
        vitals.rows.wrote()
        assert not vitals.rows.read_only
        vitals.look()
        assert apart.flags == [{READ_ONLY}]
        assert vitals.info()["read_only"] == "segments/: Read-only file system"
        await look_until(apart, set())  # the first trial, in the segments' directory
        assert apart.writable == 1
        vitals.rows.refused(OSError(errno.EROFS, "Read-only file system"))
        vitals.look()
        assert vitals.info()["read_only"] == "rows/: Read-only file system"
        await look_until(apart, set())

    asyncio.run(main())


def test_of_two_disks_the_slow_one_is_told(apart: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: which disk it is; of two slow ones the slower one."""
    monkeypatch.setattr(vitals_module, "TRY_OUT_S", 1e9)
    monkeypatch.setattr(apart.vitals.segments, "slow", lambda: ("write", 2.5))

    async def main() -> None:
        apart.vitals.look()
        assert apart.vitals.info()["slow"] == {"operation": "write", "took_s": 2.5, "disk": "segments/"}
        monkeypatch.setattr(apart.vitals.rows, "slow", lambda: ("commit", 4.0))
        apart.vitals.look()
        assert apart.vitals.info()["slow"] == {"operation": "commit", "took_s": 4.0, "disk": "rows/"}
        assert apart.flags == [{SLOW}]

    asyncio.run(main())


def test_a_disk_that_hangs_is_told_of(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: looking never waits for the disk; one trial at a time hangs with it."""
    monkeypatch.setattr(vitals_module, "TRY_OUT_S", 0.0)
    hangs, trials = threading.Event(), []

    def hang(path: Path) -> None:
        trials.append(path)
        hangs.wait(30)

    monkeypatch.setattr(seen.vitals.rows, "try_out", hang)
    monkeypatch.setattr(seen.vitals.rows, "slow", lambda: ("fsync", 31.4))

    async def main() -> None:
        await look_until(seen, {SLOW})
        for _ in range(10):
            seen.vitals.look()
            await asyncio.sleep(0.01)
        assert seen.vitals.info()["slow"] == {"operation": "fsync", "took_s": 31.4, "disk": ""}
        hangs.set()

    asyncio.run(main())
    assert len(trials) == 1 and seen.flags == [{SLOW}]


def test_a_standstill_is_told(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: `blocked` for as long as a standstill counts as recent."""
    monkeypatch.setattr(seen.vitals.lag, "recent", lambda: Standstill(3.2, 0.0, False))
    seen.vitals.look()
    monkeypatch.setattr(seen.vitals.lag, "recent", lambda: None)
    seen.vitals.look()
    assert seen.flags == [{BLOCKED}, set()]
