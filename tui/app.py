"""What `atoll top` and `atoll dev` show: verdict, ring, peers, live.

The app asks its `Feed` once an interval and hands the answer to the widgets; between answers it only
lets the age of the data grow. Everything it shows comes from `model.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Footer, Static

from tui.facts import Facts
from tui.feed import Feed, Outage, Snapshot
from tui.help import HelpScreen
from tui.model import Cluster, Peer, cluster_of
from tui.notices import Notices
from tui.peertable import PeerTable
from tui.ringview import RingView
from tui.statusline import StatusLine
from tui.verdict import VerdictLine

INTERVAL_S = 1.0
REDRAW_S = 0.5


def time_of_day() -> str:
    return time.strftime("%H:%M:%S")


class TopApp(App[None]):
    """The live view of a cluster.

    Args:
        feed: where snapshots come from.
        title: first words of the top line.
        interval_s: seconds between two polls.
        unicode: False draws everything in ASCII.
        panel: lines shown below, as `(heading, text)` (what `dev` adds).
        clock: the time of day for notices.
    """

    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = False
    # Textual declares these two as instance variables, so ClassVar is not to be had.
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (50, "-narrow"), (112, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (20, "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "quit", key_display="q", priority=True),
        Binding("p", "pause", "pause"),
        Binding("r", "ask", "refresh"),
        Binding("question_mark", "help", "help", key_display="?"),
    ]

    def __init__(
        self,
        feed: Feed,
        *,
        title: str = "atoll top",
        interval_s: float = INTERVAL_S,
        unicode: bool = True,
        panel: Sequence[tuple[str, str]] = (),
        clock: Callable[[], str] = time_of_day,
    ) -> None:
        super().__init__()
        self.feed = feed
        self.top_title = title
        self.interval_s = interval_s
        self.unicode = unicode
        self.panel = panel
        if panel:  # takes rows that the drawing would need
            self.VERTICAL_BREAKPOINTS = [(0, "-low"), (24, "-high")]
        self.paused = False
        self.shown = asyncio.Event()
        self.snapshot: Snapshot | None = None
        self.outage: Outage | None = None
        self.cluster: Cluster | None = None
        # Kept by name: a query would look in the help screen while that is on top.
        self.status = StatusLine(id="status")
        self.verdict = VerdictLine(id="verdict")
        self.ring = RingView(id="ring")
        self.facts = Facts(id="facts")
        self.peers = PeerTable(id="peers")
        self.panel_lines = Static(id="panel")
        self.notices = Notices(clock, id="notices")
        self.verdict.unicode = self.ring.unicode = self.peers.unicode = unicode

    def compose(self) -> ComposeResult:
        yield self.status
        yield self.verdict
        with Container(id="body"):
            with Container(id="picture"):
                yield self.ring
                yield self.facts
            yield self.peers
        yield self.panel_lines
        yield self.notices
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.screen.set_class(not self.unicode, "-ascii")
        self.show_panel(self.panel)
        self.set_interval(self.interval_s, self._tick)
        self.set_interval(REDRAW_S, self._redraw)
        self.shown.set()
        self._ask()

    # --- data in

    def _tick(self) -> None:
        if not self.paused:
            self._ask()

    def _ask(self) -> None:
        # Exclusive by hand: a poll under way is not cancelled by the next tick, or a cluster that answers
        # slower than the interval would never be shown.
        if not any(worker.name == "poll" and not worker.is_finished for worker in self.workers):
            self.run_worker(self.poll_once(), name="poll")

    async def poll_once(self) -> None:
        """Ask the feed and show what it says."""
        answer = await self.feed.poll()
        if isinstance(answer, Outage):
            if self.outage is None:
                self.notice("no peer answers; still trying", "red")
            self.outage = answer
        else:
            before, self.snapshot = self.cluster, answer
            self.cluster = cluster_of(answer.cluster)
            if self.feed.moved is not None:
                gone, now, why = self.feed.moved
                self.notice(
                    f"{gone} no longer answers ({why}): moved to {self.cluster.answering}, {now}", "yellow"
                )
            elif self.outage is not None:
                self.notice(f"{self.cluster.answering} answers again, {answer.endpoint}", "green")
            self.outage = None
            for words, style in changes(before, self.cluster):
                self.notice(words, style)
        self._show()

    def notice(self, words: str, style: str = "") -> None:
        """A line at the bottom, with the time."""
        self.notices.add(words, style)

    def show_panel(self, lines: Sequence[tuple[str, str]]) -> None:
        """Replace the lines below the peers; none hides them."""
        self.panel_lines.set_class(bool(lines), "shown")
        text = Text(overflow="fold")
        for number, (heading, words) in enumerate(lines):
            text.append("\n" if number else "")
            text.append(f"{heading:<12} ", style="bold")
            text.append(words)
        self.panel_lines.update(text)

    # --- data out

    def _show(self) -> None:
        stale = self.outage is not None
        self.ring.show(self.cluster, self.snapshot.ring if self.snapshot else None, stale=stale)
        self.facts.show(self.cluster, stale=stale)
        self.peers.show(self.cluster, stale=stale)
        self._redraw()

    def _redraw(self) -> None:
        now = self.feed.clock()
        self.status.show(self.top_title, self.cluster, self.snapshot, now, self.paused)
        self.verdict.show(self.cluster, self.outage, now)

    # --- keys

    def action_pause(self) -> None:
        self.paused = not self.paused
        self._redraw()

    def action_ask(self) -> None:
        self._ask()

    def action_help(self) -> None:
        screen = HelpScreen()
        screen.set_class(not self.unicode, "-ascii")
        self.push_screen(screen)


def changes(before: Cluster | None, after: Cluster) -> list[tuple[str, str]]:
    """What is worth a notice between two snapshots: states, arrivals, departures, the verdict."""
    if before is None:
        return []
    old: dict[str, Peer] = {peer.id: peer for peer in before.peers}
    found = []
    for peer in after.peers:
        was = old.pop(peer.id, None)
        if was is None:
            found.append((f"{peer.name} joined", "green"))
        elif was.state != peer.state:
            found.append((f"{peer.name} is {peer.look.word}, was {was.look.word}", peer.look.colour))
    found.extend((f"{peer.name} is no longer a member", "yellow") for peer in old.values())
    if before.verdict != after.verdict:
        found.append((f"the cluster is {after.look.word}, was {before.look.word}", after.look.colour))
    return found
