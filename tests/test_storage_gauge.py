"""The gauge of a disk: what counts as slow and when it ends, what counts as read-only, and that both end by themselves."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from peer.storage import gauge as gauge_module
from peer.storage.gauge import RISE_S, SLOW_S, WINDOW_S, Gauge


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def measured() -> tuple[Clock, Gauge]:
    clock = Clock()
    return clock, Gauge(clock)


def take(clock: Clock, gauge: Gauge, seconds: float, what: str = "commit") -> None:
    """An operation of so many seconds."""
    with gauge.timed(what):
        clock.now_s += seconds


def test_a_lone_hiccup_is_no_slow_disk() -> None:
    """Goal: one operation that took long, or many quick ones, are nothing; several long ones are; the worst is told."""
    clock, gauge = measured()
    take(clock, gauge, 1.5)
    for _ in range(1000):
        take(clock, gauge, SLOW_S * 0.9)
    assert gauge.slow() is None
    take(clock, gauge, 0.8)
    take(clock, gauge, 1.3, "fsync")
    assert gauge.slow() == ("fsync", pytest.approx(1.3))


def test_an_operation_that_hangs_is_seen_while_it_does() -> None:
    """Goal: nobody has to wait for the end of an fsync to know that it takes long."""
    clock, gauge = measured()
    with gauge.timed("fsync"):
        clock.now_s += RISE_S - 0.1
        assert gauge.slow() is None
        clock.now_s += 28.1
        assert gauge.slow() == ("fsync", pytest.approx(30.0))
    assert gauge.slow() == ("fsync", pytest.approx(30.0))


def test_it_is_slow_until_no_slow_operation_is_left_in_the_window() -> None:
    """Goal: hysteresis. One slow operation now and then keeps it slow, though it would not have made it so."""
    clock, gauge = measured()
    take(clock, gauge, RISE_S)
    assert gauge.slow() is not None
    for _ in range(5):
        clock.now_s += WINDOW_S - 0.2
        take(clock, gauge, SLOW_S)
        assert gauge.slow() == ("commit", pytest.approx(SLOW_S))
    clock.now_s += WINDOW_S + 0.1
    assert gauge.slow() is None
    take(clock, gauge, SLOW_S)
    assert gauge.slow() is None


def test_operations_that_run_at_once_count_once() -> None:
    """Goal: eight threads that each wait 0.6 s at the same time have waited 0.6 s."""
    clock, gauge = measured()
    begun = [gauge.timed("write") for _ in range(8)]
    for one in begun:
        one.__enter__()
    clock.now_s += 0.6
    for one in begun:
        one.__exit__(None, None, None)
    assert gauge.slow() is None


def test_what_is_kept_is_bounded() -> None:
    """Goal: a disk that is slow for ever costs no more memory, and a failed operation was one, too."""
    clock, gauge = measured()
    for _ in range(3 * gauge_module.KEPT):
        with pytest.raises(OSError, match="gone"), gauge.timed("commit"):
            clock.now_s += SLOW_S
            raise OSError("gone")
    assert len(gauge._slow) <= gauge_module.KEPT and not gauge._running
    assert gauge.slow() is not None


def test_only_a_refusal_means_read_only() -> None:
    """Goal: EROFS is; no room and an I/O error are something else; a good write ends it."""
    _, gauge = measured()
    for number in (errno.ENOSPC, errno.EIO):
        assert not gauge.refused(OSError(number, os.strerror(number)))
        assert gauge.read_only == ""
    assert gauge.refused(OSError(errno.EROFS, "Read-only file system"))
    assert gauge.read_only == "Read-only file system"
    gauge.wrote()
    assert gauge.read_only == ""


def test_trying_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a disk that is well is found to be; one that refuses is not; a full one is; a failed sync is fatal."""
    gauge = Gauge()
    file = tmp_path / "atoll.db"
    file.write_bytes(b"rows")
    gauge.refused(OSError(errno.EROFS, "before"))
    gauge.try_out(file)
    assert gauge.read_only == "" and list(tmp_path.iterdir()) == [file]

    def fail(number: int) -> None:
        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(gauge_module.os, "pwrite", refuse)

    fail(errno.EROFS)
    gauge.try_out(file)
    assert gauge.read_only
    fail(errno.ENOSPC)
    gauge.try_out(file)
    assert gauge.read_only, "nothing was written, so nothing is known"
    monkeypatch.undo()

    def fail_to_sync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(gauge_module.os, "fdatasync", fail_to_sync)
    told: list[str] = []
    gauge.try_out(file, told.append)
    assert len(told) == 1 and "fdatasync" in told[0]


def test_trying_out_a_directory_of_segments(tmp_path: Path) -> None:
    """Goal: something is written in it, and its open segments must be writable, too."""
    gauge = Gauge(place="segments/")
    gauge.refused(OSError(errno.EROFS, "before"))
    unwritable = tmp_path / "00000001.open"
    unwritable.mkdir()
    gauge.try_out(tmp_path)
    assert gauge.read_only
    unwritable.rmdir()
    (tmp_path / "00000001.open").write_bytes(b"chunks")
    gauge.try_out(tmp_path)
    assert not gauge.read_only and [file.name for file in tmp_path.iterdir()] == ["00000001.open"]


def test_operations_are_counted_by_how_long_they_took() -> None:
    """Goal: each operation is in the histogram of its kind, the quick ones, too."""
    clock, gauge = measured()
    for seconds in (0.002, 0.002, 3.0):
        take(clock, gauge, seconds, "fsync")
    took = gauge.took["fsync"]
    assert took.count == 3 and dict(took.cumulative())["0.0025"] == 2
    assert gauge.took["commit"].count == 0
