"""Page 6: the journals of all peers as one, and what this program noticed itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Static

from tui.journal import KEPT, Entry
from tui.logrows import FLOORS, LogRow, detail_words, found, log_columns, log_rows
from tui.page import Page
from tui.rows import Rows
from tui.state import State

MEANING = (
    "The newest line is the last. The view follows it until you scroll up; f or End follows again. The filter takes words"
    " and level:, kind:, peer: or code: with values, say: level:error,warning peer:peer-2 disk."
)


class LogRows(Rows[LogRow]):
    """The table, which tells when the user looks away from its end, and back."""

    follows = True

    class Left(Message):
        """Scrolled by the mouse."""

    class Ended(Message):
        """The end is wanted."""

    def on_resize(self) -> None:
        super().on_resize()
        if self.follows:
            self.call_after_refresh(self.to_end)

    def on_mouse_scroll_up(self) -> None:
        self.post_message(self.Left())

    def action_end(self, which: int) -> None:
        super().action_end(which)
        if which > 0:
            self.post_message(self.Ended())

    def to_end(self) -> None:
        """Show the last row, and put the cursor on it."""
        super().action_end(1)
        self.scroll_to(y=max(0, len(self.rows) + 1 - self.size.height), animate=False, immediate=True)


class Log(Page):
    """A line an entry; below them the one under the cursor in full."""

    TITLE: ClassVar[str] = "Log"
    PROMPT: ClassVar[str] = "words, level:error, kind:repair, peer:peer-2, code:..."
    MEANING: ClassVar[str] = MEANING
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "follow", "follow"),
        Binding("l", "level", "level"),
    ]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._floor = 0
        self._last: Entry | None = None
        """The last one there was when the user looked away."""
        self._drawn: object = None
        self._dated = False

    def compose(self) -> ComposeResult:
        yield Static(id="log-state")
        yield LogRows(log_columns(dated=False), key=lambda row: row.entry.id, empty="nothing found", id="log")
        yield Static(id="entry")

    @property
    def has_news(self) -> bool:
        return True

    def show(self, state: State) -> None:
        today = state.wall().astimezone().date()
        drawn = (state.journal.added, self.filter, self._floor, state.stale, today)
        rows = self.query_one(LogRows)
        if drawn != self._drawn:
            self._drawn = drawn
            entries = found(state.journal, self.filter, FLOORS[self._floor][1])
            shown = log_rows(entries, state.wall(), unicode=self.unicode)
            if self._dated != any(row.dated for row in shown):
                self._dated = not self._dated
                rows.replace_columns(log_columns(dated=self._dated))
            rows.show(shown, dim=state.stale)
            if rows.follows:
                rows.to_end()
            self._show_entry()
        self._show_state()

    def _show_state(self) -> None:
        table = self.query_one(LogRows)
        rows = table.rows
        text = Text(no_wrap=True, overflow="crop")
        if table.follows:
            text.append("following", style="green")
        else:
            below = (
                len(rows) - bisect_right(rows, self._last, key=lambda row: row.entry)
                if self._last
                else len(rows)
            )
            text.append(f"{below:,} new below" if below else "nothing new below", style="bold yellow")
            text.append(" (f follows)")
        text.append(f"   {len(rows):,} of {len(self.top.state.journal):,} lines")
        if len(self.top.state.journal) >= KEPT:
            text.append(", older ones are forgotten")
        text.append(f"   {FLOORS[self._floor][0]}", style="bold" if self._floor else "")
        if self.filter:
            text.append(f"   filter: {self.filter}", style="bold")
        self.query_one("#log-state", Static).update(text, layout=False)

    def _show_entry(self) -> None:
        current = self.query_one(LogRows).current
        text = Text()
        for words, style in detail_words(current.entry if current is not None else None):
            text.append(words, style=style)
        self.query_one("#entry", Static).update(text, layout=False)

    # --- following

    def on_rows_moved(self) -> None:
        rows = self.query_one(LogRows)
        self._follow(rows.current is not None and rows.current == rows.rows[-1])
        self._show_entry()

    def on_log_rows_left(self) -> None:
        self._follow(False)

    def on_log_rows_ended(self) -> None:
        self.action_follow()

    def action_follow(self) -> None:
        """Go to the end and stay there."""
        self._follow(True)
        self.query_one(LogRows).to_end()
        self._show_entry()

    def _follow(self, follows: bool) -> None:
        table = self.query_one(LogRows)
        if table.follows and not follows:
            self._last = table.rows[-1].entry if table.rows else None
        table.follows = follows
        self._show_state()

    # --- the rest

    def action_level(self) -> None:
        """All levels, warnings and errors, errors only, and round again."""
        self._floor = (self._floor + 1) % len(FLOORS)
        self.top.redraw_page()

    def commands(self) -> Iterable[SystemCommand]:
        yield SystemCommand("Follow", "go to the newest line and stay there (f)", self.action_follow)
        yield SystemCommand("Level", "all, warnings and errors, errors only (l)", self.action_level)

    def copied(self) -> str:
        return "\n".join(row.entry.text for row in self.query_one(LogRows).rows)
