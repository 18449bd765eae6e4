"""What `atoll top` and `atoll dev` show: a header that tells the truth, and the pages behind the keys 1 to 7.

The app hears events from its source, folds them into a `State` and draws the page that is up once a second, at once
when the verdict, the members or the connection changed. It asks for nothing itself; what the user does goes
through `source.client()`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.filter import LineFilter
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Footer, Input

from tui import palette
from tui.acting import act
from tui.actions import ACTIONS, title
from tui.clean import NoControls
from tui.header import Header
from tui.help import HelpScreen
from tui.model import Peer
from tui.newest import Newest
from tui.overview import Lines, Overview
from tui.page import Page
from tui.pages import PAGES
from tui.peers import PeerRow, Peers
from tui.source import Source
from tui.state import State
from tui.troubles import TellsTroubles

if TYPE_CHECKING:
    from peer.client import Event

REDRAW_S = 1.0
SOON_S = 0.1
"""What must not wait for the next second is drawn so soon; further news within that time is drawn with it."""
URGENT = frozenset({"connected", "unreachable", "cluster", "membership", "epoch", "ring"})


class TopApp(App[None], TellsTroubles):
    """The live view of a cluster.

    Args:
        source: where events come from.
        title: first words of the top line.
        unicode: False draws everything in ASCII.
        readonly: hide whatever changes the cluster.
        panel: lines shown on the overview, as `(heading, text)` (what `dev` adds).
        clock: monotonic seconds.
        redraw_s: seconds between two drawings; 0: only when `redraw` is called (tests).
    """

    CSS_PATH = "top.tcss"
    COMMANDS = App.COMMANDS | {palette.PeerCommands}
    # Textual declares these two as instance variables, so ClassVar is not to be had.
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (50, "-narrow"), (112, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (20, "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"page({number})", show=False) for number in PAGES),
        Binding("q", "quit", "quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),  # q is a letter where one types; this is none
        Binding("p", "pause", "pause"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("c", "copy", "copy"),
        Binding("colon,ctrl+p", "command_palette", "commands", key_display=":"),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("escape", "escape", show=False),
    ]

    def __init__(
        self,
        source: Source,
        *,
        title: str = "atoll top",
        unicode: bool = True,
        readonly: bool = False,
        panel: Lines = (),
        clock: Callable[[], float] = time.monotonic,
        redraw_s: float = REDRAW_S,
        state: State | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.top_title = title
        self.unicode = unicode
        self.readonly = readonly
        self.panel = panel
        if panel:  # takes rows that the drawing would need
            self.VERTICAL_BREAKPOINTS = [(0, "-low"), (24, "-high")]
        self.clock = clock
        self.redraw_s = redraw_s
        self.state = state if state is not None else State()
        self._filter = NoControls()
        self.shown = asyncio.Event()
        self.paused = False
        self._drawn_at: float | None = None
        """When that was told what the page shows, by `clock`; it gets older while the drawing is paused."""
        self._pages: dict[int, Page] = {}
        self._at = 1
        self._soon: asyncio.TimerHandle | None = None

    def compose(self) -> ComposeResult:
        yield Header(id="header")
        with ContentSwitcher(id="pages", initial="page-1"):
            yield self._made(1)
        yield Input(id="filter")
        yield Newest(id="newest")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.set_class(not self.unicode, "-ascii")
        self.query_one("#filter", Input).display = False
        if self.redraw_s:
            self.set_interval(self.redraw_s, self.redraw)
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """The first picture is on the screen; what takes longer to load comes now."""
        self.shown.set()
        self.redraw()
        self.page.take_focus()
        self.run_worker(self._listen(), name="events", exit_on_error=False)

    # --- events in

    async def _listen(self) -> None:
        try:
            async with aclosing(self.source.events()) as events:  # type: ignore[type-var]
                async for event in events:
                    self.hear(event)
        except Exception as error:  # noqa: BLE001 (the screen must say why it stands still, and not vanish)
            self.state.refused = str(error) or repr(error)
            self.state.say(f"nothing new will be shown: {self.state.refused}", "error")
            self._redraw_soon()

    def hear(self, event: Event) -> None:
        """Take over one event; drawn soon if it matters, else with the next second."""
        self.state.apply(event, self.clock())
        if event.kind in URGENT:
            self._redraw_soon()

    def say(self, message: str, level: str = "info") -> None:
        """A line in the journal, from this program itself."""
        self.state.say(message, level)
        self._redraw_soon()

    # --- pictures out

    @property
    def page(self) -> Page:
        """The one that is up."""
        return self._pages[self._at]

    def _redraw_soon(self) -> None:
        if self.redraw_s and self._soon is None and self.is_running:
            self._soon = asyncio.get_running_loop().call_later(SOON_S, self._redraw_now)

    def _redraw_now(self) -> None:
        self._soon = None
        self.redraw()

    def redraw(self) -> None:
        """Draw what is known; while paused only the header, so that the age grows."""
        if not self.is_running or not self.screen_stack:
            return
        base = self.screen_stack[0]
        base.query_one(Header).show(
            self.top_title,
            self.state,
            self.clock(),
            told_at=self._drawn_at if self.paused else self.state.told_at,
            paused=self.paused,
            unicode=self.unicode,
            titles={number: door.title for number, door in PAGES.items()},
            at=self._at,
        )
        if not self.paused:
            self.redraw_page()
            newest = base.query_one("#newest", Newest)
            newest.display = not self.page.has_news
            newest.show(self.state.journal)

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), self._filter]

    def redraw_page(self) -> None:
        """Draw the page that is up, at once: the user did something to it."""
        self._drawn_at = self.state.told_at
        self.page.show(self.state)

    def rows_of(self, peers: Iterable[Peer]) -> list[PeerRow]:
        """Peers as rows of a table, at this moment."""
        since_s = self.state.age_s(self.clock()) or 0.0
        return [PeerRow(peer, self.unicode, since_s) for peer in peers]

    def show_panel(self, lines: Lines) -> None:
        """Replace what `atoll dev` says on the overview; nothing hides it."""
        self.panel = lines
        overview = self._pages.get(1)
        if isinstance(overview, Overview) and overview.is_mounted:
            overview.panel(lines)

    # --- pages

    def _made(self, number: int) -> Page:
        page = self._pages[number] = PAGES[number].load()(id=f"page-{number}")
        return page

    async def action_page(self, number: int) -> None:
        switcher = self.query_one("#pages", ContentSwitcher)
        if number not in self._pages:
            await switcher.add_content(self._made(number))
        self._close_filter()
        self._at = number
        switcher.current = f"page-{number}"
        self.redraw_page()
        self.redraw()
        self.page.take_focus()

    async def open_peer(self, peer_id: str, *, back_to: int = 0) -> None:
        """The page of one peer; Escape leads back to where it was opened."""
        await self.action_page(2)
        if isinstance(self.page, Peers):
            self.page.open(peer_id, back_to=back_to)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from self.page.commands()
        for number, door in PAGES.items():
            yield SystemCommand(f"Page {door.title}", f"show it (key {number})", self._opener(number))
        if not self.readonly:
            for action in ACTIONS.values():
                if not action.ring:
                    does = partial(act, self, action.name, None)
                    yield SystemCommand(title(action, None), action.says, does)
        yield SystemCommand("Pause", "stop drawing, and go on (p)", self.action_pause)
        yield SystemCommand("Copy", "what the page shows, as text (c)", self.action_copy)
        yield SystemCommand("Theme", "light, dark and others", self.action_change_theme)
        yield SystemCommand("Help", "keys and what the drawings mean (?)", self.action_help)
        yield SystemCommand("Quit", "leave (q)", self.action_quit)

    def action_command_palette(self) -> None:
        if not isinstance(self.screen, CommandPalette):
            self.push_screen(palette.commands())

    def search_themes(self) -> None:
        self.push_screen(palette.themes())

    def _opener(self, number: int) -> Callable[[], None]:
        def open_page() -> None:
            self.call_later(self.action_page, number)

        return open_page

    # --- keys

    def action_pause(self) -> None:
        self.paused = not self.paused
        self.redraw()

    def action_copy(self) -> None:
        words = self.page.copied()
        self.copy_to_clipboard(words)
        self.say(f"copied {len(words.splitlines())} lines of {self.page.TITLE}")

    def action_help(self) -> None:
        own: dict[str, str] = {}
        everywhere = {"pages": f"1 to {max(PAGES)}"}
        for active in self.screen.active_bindings.values():
            binding, node = active.binding, active.node
            named = (
                binding.show or binding.tooltip
            )  # those with a tooltip are ours, but have no room at the foot
            if active.enabled and named and not isinstance(node, Screen):
                keys = everywhere if node is self else own
                keys.setdefault(binding.description, self.get_key_display(binding))
        self.push_screen(
            HelpScreen(
                self.page.TITLE, own, everywhere, self.page.MEANING, columns=1 if self.size.width < 72 else 2
            )
        )

    def get_key_display(self, binding: Binding) -> str:
        """In letters: arrows and the like are not in every font."""
        shown = super().get_key_display(binding)
        return shown if shown.isascii() else binding.key

    def action_filter(self) -> None:
        if not self.page.PROMPT:
            return
        line = self.query_one("#filter", Input)
        line.placeholder = self.page.PROMPT
        line.value = self.page.filter
        line.display = True
        line.focus()

    def action_escape(self) -> None:
        """Close the line of the filter, and forget what it said."""
        if self.query_one("#filter", Input).display or self.page.filter:
            self.page.set_filter("")
            self._close_filter()
            self.page.take_focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "filter" and event.input.display:
            self.page.set_filter(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "filter":
            self.page.submit_filter(event.value)
            self._close_filter()
            self.page.take_focus()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).display = False
