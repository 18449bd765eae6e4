"""What happened while you looked: the newest lines, with the time of day. Bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rich.text import Text
from textual.widgets import Static

KEPT = 50


class Notices(Static):
    """Shows as many of the newest notices as it has rows."""

    def __init__(self, time_of_day: Callable[[], str], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._time_of_day = time_of_day
        self._lines: deque[tuple[str, str, str]] = deque(maxlen=KEPT)

    @property
    def lines(self) -> list[str]:
        return [words for _, words, _ in self._lines]

    def add(self, words: str, style: str = "") -> None:
        self._lines.append((self._time_of_day(), words, style))
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        newest = list(self._lines)[-max(self.size.height, 1) :]
        text = Text(overflow="fold")
        for number, (moment, words, style) in enumerate(newest):
            text.append("\n" if number else "")
            text.append(f"{moment} ", style="bright_black")
            text.append(words, style=style)
        self.update(text)
