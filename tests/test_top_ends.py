"""Goal: `atoll top` gives its terminal back however it is ended, and does not outlive it."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

RECORDING = Path(__file__).parent / "data" / "events-healthy.jsonl"
DEADLINE_S = 30.0
GIVEN_BACK = (b"\x1b[?1049l", b"\x1b[?1000l", b"\x1b[?1003l", b"\x1b[?25h")
"""The other screen, both kinds of mouse reports, the hidden cursor."""


@contextmanager
def shown() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A recording on a terminal of its own, once it is on the screen, and our end of that terminal. It is nobody's
    controlling terminal, so that no SIGHUP tells of its end."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = dict(os.environ) | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-m", "tools.cli", "top", "--replay", str(RECORDING)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        seen = b""
        while b"peer-1" not in seen:
            seen += _read(ours)
        yield process, ours
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _read(ours: int) -> bytes:
    """What comes next; b"" once the other end is closed. AssertionError when nothing comes."""
    ready, _, _ = select.select([ours], [], [], DEADLINE_S)
    assert ready, "the screen stands still"
    try:
        return os.read(ours, 65536)
    except OSError:  # how Linux tells that nobody has the other end any more
        return b""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(how: signal.Signals) -> None:
    """Goal: after SIGTERM and SIGHUP the terminal is as it was, and the program has ended well."""
    with shown() as (process, ours):
        try:
            process.send_signal(how)
            after = b"".join(iter(lambda: _read(ours), b""))
            assert process.wait(DEADLINE_S) == 0
            assert all(code in after for code in GIVEN_BACK), after
        finally:
            os.close(ours)


def test_it_ends_with_its_terminal() -> None:
    """Goal: a terminal that goes away without a signal ends it as well, instead of a loop that reads nothing."""
    with shown() as (process, ours):
        os.close(ours)
        process.wait(DEADLINE_S)
