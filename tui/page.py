"""What every page of the screen is: a container that shows a State, can be filtered and copied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import SystemCommand
from textual.containers import Container

from tui.state import State
from tui.troubles import TellsTroubles

if TYPE_CHECKING:
    from tui.app import TopApp


class Page(Container, TellsTroubles):
    """One of the screens behind the keys 1 to 7. `show` is called when it comes up, and once a second while it is up."""

    TITLE: ClassVar[str] = "?"
    PROMPT: ClassVar[str] = "filter"
    """What the line asks for that "/" opens; "" where there is nothing to ask."""

    MEANING: ClassVar[str] = ""
    """What is drawn there, told by "?"."""

    filter = ""

    @property
    def top(self) -> TopApp:
        return cast("TopApp", self.app)

    @property
    def unicode(self) -> bool:
        return self.top.unicode

    @property
    def has_news(self) -> bool:
        """Whether the page itself shows the newest lines of the journal, so that the foot need not."""
        return False

    def show(self, state: State) -> None:
        """Draw what is known."""
        raise NotImplementedError

    def set_filter(self, words: str) -> None:
        """The line behind "/" changed."""
        self.filter = words
        self.top.redraw_page()

    def submit_filter(self, words: str) -> None:
        """Enter in that line."""

    def take_focus(self) -> None:
        """The page has come up: focus what the keys are for."""
        for widget in self.query("*"):
            if widget.focusable:
                widget.focus()
                return

    def commands(self) -> Iterable[SystemCommand]:
        """What the command palette offers while this page is up."""
        return ()

    def copied(self) -> str:
        """What `c` puts on the clipboard, as plain text."""
        return ""


def matches(words: str, *texts: str) -> bool:
    """Whether every word occurs in some of the texts, whatever the case."""
    lower = [text.lower() for text in texts]
    return all(any(word in text for text in lower) for word in words.lower().split())
