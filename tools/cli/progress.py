"""Progress of transfers on stderr: bars for every file and in total on a terminal, else one line at the end."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tools.cli.output import clean, size_text
from tools.cli.session import note

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SHOWN_BYTES = 256 * 1024
"""Files smaller than this are over before a bar of their own could be seen."""


class Transfers:
    """The progress of one command. Thread-safe. Totals may grow while it runs."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._bars: Progress | None = None
        self._total: TaskID | None = None
        self._files = 0
        self._bytes = 0
        self.moved = 0
        self.done = 0

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._bars = _bars()
            self._bars.start()
            self._total = self._bars.add_task("total", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def expect(self, files: int, size: int) -> None:
        """So many more files and bytes will come."""
        with self._lock:
            self._files += files
            self._bytes += size
            if self._bars is not None and self._total is not None:
                self._bars.update(self._total, total=self._bytes, description=self._count())

    def begin(self, name: str, size: int | None) -> Item:
        """A file starts to move; `size` None: nobody knows how long it is."""
        task = None
        if self._bars is not None and (size is None or size >= SHOWN_BYTES):
            task = self._bars.add_task(clean(name)[-40:], total=size)
        return Item(self, task)

    def say(self, text: str) -> None:
        """A line for the person, above the bars."""
        if self._bars is not None:
            self._bars.console.print(clean(text), markup=False, highlight=False)
        else:
            note(clean(text))

    def summary(self, failed: int = 0) -> None:
        """What was moved, how fast; the last line."""
        took_s = max(time.monotonic() - self._started, 1e-3)
        files = "1 object" if self.done == 1 else f"{self.done} objects"
        tail = f", {failed} failed" if failed else ""
        rate = f"{size_text(self.moved / took_s)}/s"
        note(f"{self._verb} {files}, {size_text(self.moved)} in {took_s:.1f} s ({rate}){tail}")

    def _count(self) -> str:
        return f"total {self.done}/{self._files}"

    def advance(self, task: TaskID | None, moved: int) -> None:
        """Bytes moved (negative: a transfer starts over)."""
        with self._lock:
            self.moved += moved
        if self._bars is not None:
            if task is not None:
                self._bars.advance(task, moved)
            if self._total is not None:
                self._bars.advance(self._total, moved)

    def end(self, task: TaskID | None, *, worked: bool) -> None:
        """A file is over."""
        with self._lock:
            self.done += worked
        if self._bars is not None:
            if task is not None:
                self._bars.remove_task(task)
            if self._total is not None:
                self._bars.update(self._total, description=self._count())


class Item:
    """The progress of one file."""

    def __init__(self, transfers: Transfers, task: TaskID | None) -> None:
        self._transfers = transfers
        self._task = task
        self._moved = 0

    def moved(self, count: int) -> None:
        """For the client's `progress`."""
        self._moved += count
        self._transfers.advance(self._task, count)

    def end(self, *, worked: bool) -> None:
        """The file is over; what a failed one moved does not count."""
        if not worked and self._moved:
            self._transfers.advance(None, -self._moved)
        self._transfers.end(self._task, worked=worked)


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
