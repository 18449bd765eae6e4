"""A program on a real terminal: tmux runs it, tests press keys and read the screen."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pytest

from tests.cluster_tools import wait_until

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux: make test-deps installs it")


class Terminal:
    """A tmux server of its own with one window; a context manager that ends whatever runs in it.

    Its exit code is in `directory`/code once it has ended, and what it left on the terminal stays there.
    """

    def __init__(
        self,
        directory: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        columns: int = 110,
        rows: int = 34,
    ) -> None:
        self._socket = f"atoll-{uuid.uuid4().hex[:12]}"
        self._code = directory / "code"
        script = f"{shlex.join(command)}; echo $? > {shlex.quote(str(self._code))}; cat"
        self._tmux(
            "new-session", "-d", "-x", str(columns), "-y", str(rows), "sh", "-c", script, environment=environment
        )  # fmt: skip

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and hasattr(error, "add_note"):
            error.add_note(f"the screen was:\n{self.screen()}")
        self._tmux("kill-server", check=False)

    def press(self, *keys: str) -> None:
        """Names as tmux has them: `Enter`, `Escape`, `Down`, or a character."""
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        """What is to be read now."""
        return self._tmux("capture-pane", "-p", check=False)

    def shows(self, *words: str) -> bool:
        screen = self.screen()
        return all(word in screen for word in words)

    def wait_for(self, *words: str) -> str:
        """The screen once all of these are on it. AssertionError with the screen if they do not come."""
        wait_until(lambda: self.shows(*words), f"{words} on the screen")
        return self.screen()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return int(self._code.read_text()) if self._code.exists() and self._code.read_text() else None

    def _tmux(self, *words: str, check: bool = True, environment: Mapping[str, str] | None = None) -> str:
        told = subprocess.run(
            ["tmux", "-L", self._socket, "-f", "/dev/null", *words],
            env=environment, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert not check or told.returncode == 0, told.stderr
        return told.stdout
