"""A peer's own condition: which flags it raises and when, that it has an ill disk tried, and what it tells of it."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path

import pytest

from peer import vitals as vitals_module
from peer.looplag import Standstill
from peer.vitals import BLOCKED, FULL, READ_ONLY, SLOW, Vitals


class Seen:
    """Vitals whose words are kept."""

    def __init__(self, path: Path) -> None:
        self.vitals = Vitals(path)
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
        gauge = seen.vitals.gauge
        gauge.refused(OSError(errno.EROFS, "Read-only file system"))
        seen.vitals.look()
        assert seen.flags == [{READ_ONLY}]
        assert seen.vitals.info()["read_only"] == "Read-only file system"
        await look_until(seen, set())

    asyncio.run(main())
    assert seen.flags == [{READ_ONLY}, set()] and seen.writable == 1


def test_a_disk_that_hangs_is_told_of(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: looking never waits for the disk; one trial at a time hangs with it."""
    monkeypatch.setattr(vitals_module, "TRY_OUT_S", 0.0)
    hangs, trials = threading.Event(), []

    def hang(path: Path) -> None:
        trials.append(path)
        hangs.wait(30)

    monkeypatch.setattr(seen.vitals.gauge, "try_out", hang)
    monkeypatch.setattr(seen.vitals.gauge, "slow", lambda: ("fsync", 31.4))

    async def main() -> None:
        await look_until(seen, {SLOW})
        for _ in range(10):
            seen.vitals.look()
            await asyncio.sleep(0.01)
        assert seen.vitals.info()["slow"] == {"operation": "fsync", "took_s": 31.4}
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
