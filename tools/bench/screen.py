"""`python -m tools.bench.screen`: what `atoll top` costs: time to the first picture, and CPU while it is shown.

Runs the real command on a pseudo-terminal, of a running cluster (`--profile`) or of a recording (`--replay`), once for each
page. Seconds and per cent are of one core. Linux only (/proc).
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import statistics
import struct
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

ESCAPES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
FIRST_WORDS, DATA_WORDS = b"atoll top", b"age "
DEADLINE_S = 20.0
SETTLE_S = 3.0
READ_BYTES = 1 << 16


@dataclass(slots=True)
class Costs:
    """Of one run, in seconds since the command was started; `cpu` is a part of one core."""

    first_s: float = 0.0
    data_s: float = 0.0
    cpu: float = 0.0


class Screen:
    """`atoll top` on a terminal of its own."""

    def __init__(self, arguments: Sequence[str], columns: int, rows: int) -> None:
        self.began_s = time.monotonic()
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:  # the child
            environment = os.environ | {
                "TERM": "xterm-256color",
                "COLUMNS": "",
                "LINES": "",
                "LC_ALL": "C.UTF-8",
            }
            os.execve(sys.executable, [sys.executable, "-m", "tools.cli", *arguments], environment)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._seen = b""

    def until(self, words: bytes) -> float:
        """Seconds from the start until these words were written. Raises ClickException after DEADLINE_S."""
        while words not in ESCAPES.sub(b"", self._seen):
            if time.monotonic() - self.began_s > DEADLINE_S or not self.read(0.5):
                raise click.ClickException(f"top did not show {words.decode()!r}: {self._seen[-500:]!r}")
        return time.monotonic() - self.began_s

    def read(self, for_s: float) -> bool:
        """Take what it writes, at most so long; False when it has ended."""
        if select.select([self._terminal], [], [], for_s)[0]:
            try:
                self._seen = (self._seen + os.read(self._terminal, READ_BYTES))[-4 * READ_BYTES :]
            except OSError:
                return False
        return True

    def idle(self, seconds: float) -> None:
        """Let it run, taking what it writes."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0 and self.read(left_s):
            pass

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self._terminal)
        os.waitpid(self.pid, 0)


def measure(arguments: Sequence[str], page: int, columns: int, rows: int, seconds: float) -> Costs:
    """One run: first picture, first data, then CPU over `seconds` on this page."""
    screen = Screen(arguments, columns, rows)
    costs = Costs()
    try:
        costs.first_s = screen.until(FIRST_WORDS)
        costs.data_s = screen.until(DATA_WORDS)
        screen.press(str(page))
        screen.idle(SETTLE_S)
        before_s, began_s = screen.cpu_s(), time.monotonic()
        screen.idle(seconds)
        costs.cpu = (screen.cpu_s() - before_s) / (time.monotonic() - began_s)
    finally:
        screen.end()
    return costs


@click.command()
@click.option("--profile", help="A running cluster's profile.")
@click.option("--replay", type=click.Path(exists=True, path_type=Path), help="A recording instead.")
@click.option("--size", default="120x40", show_default=True, help="COLUMNSxROWS.")
@click.option("--seconds", default=10.0, show_default=True, help="How long each page is watched.")
@click.option("--pages", default="1234567", show_default=True)
def main(profile: str | None, replay: Path | None, size: str, seconds: float, pages: str) -> None:
    """Print one line a page, then the medians of first picture and first data."""
    columns, rows = (int(part) for part in size.split("x"))
    arguments = ["--profile", profile] if profile else []
    arguments += ["top", *(("--replay", str(replay)) if replay else ())]
    found = []
    for page in pages:
        costs = measure(arguments, int(page), columns, rows, seconds)
        found.append(costs)
        click.echo(
            f"page {page}: {costs.cpu:6.1%} of a core, first picture {costs.first_s:.2f} s, data {costs.data_s:.2f} s"
        )
    click.echo(
        f"median: first picture {statistics.median(c.first_s for c in found):.2f} s, "
        f"data {statistics.median(c.data_s for c in found):.2f} s"
    )


if __name__ == "__main__":
    main()
