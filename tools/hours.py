"""How far a long run has come, told while it goes on. The run itself knows nothing of it, so that it stays the same."""

from __future__ import annotations

import time

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from tools.background import Background
from tools.sim.loop import VirtualLoop

SHORTEST_S = 3600.0
"""Of virtual time: shorter runs are over before anybody asks."""
TERMINAL_EVERY_S = 1.0
LOG_EVERY_S = 60.0


class HoursTold(Background):
    """Tells of virtual hours on stderr: a line that changes on a terminal, a new one each minute in a log."""

    def __init__(self, loop: VirtualLoop, virtual_s: float, console: Console | None = None) -> None:
        super().__init__("virtual hours")
        self._loop = loop
        self._virtual_s = virtual_s
        self._console = console or Console(stderr=True, highlight=False)

    def _run(self) -> None:
        if self._virtual_s < SHORTEST_S:
            return
        began = time.monotonic()
        terminal = self._console.is_terminal
        while not self._stop.wait(TERMINAL_EVERY_S if terminal else LOG_EVERY_S):
            said = self.line(time.monotonic() - began)
            self._console.print(said, end="\r" if terminal else "\n", soft_wrap=True)
        if terminal:
            self._console.control(Control((ControlType.ERASE_IN_LINE, 2)))

    def line(self, elapsed_s: float) -> str:
        """What to say after so many seconds of real time."""
        done = min(1.0, self._loop.time() / self._virtual_s)
        hours = f"{self._loop.time() / 3600:.1f} of {self._virtual_s / 3600:.1f} virtual hours"
        left_s = elapsed_s / done - elapsed_s if done > 0 else 0.0
        return f"{hours}, {elapsed_s / 60:.0f} min gone, {left_s / 60:.0f} min left  "
