"""Page 5: what heals in the background, on every peer, and what may be done to it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.widgets import Static

from peer.errors import AtollError
from tui.dialog import Ask, Confirm
from tui.page import Page
from tui.rows import Rows
from tui.state import State
from tui.workercommands import VERBS, Verb, outcome, question, rate_problem, where
from tui.workers import WORKER_COLUMNS, Line, Repair, detail_lines, lines_of, repair_of, silent_words, summary

MEANING = (
    'A line is a worker on all peers; Enter unfolds it peer by peer. "oldest" is how long the first in its queue waits,'
    ' "most/s" a limit that was set, "left" when the queue is empty at this rate. A command is for the line under the'
    " cursor: that worker on all peers, or on that one."
)


class RepairPage(Page):
    """Workers, grouped; above them the sum, below them what the line under the cursor has no room for."""

    TITLE: ClassVar[str] = "Repair"
    MEANING: ClassVar[str] = MEANING
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "unfold", "unfold", key_display="space"),
        *(Binding(verb.key, f"command('{verb.verb}')", verb.label) for verb in VERBS.values()),
    ]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._repair = Repair()
        self._unfolded: set[str] = set()
        self._drawn: object = None

    def compose(self) -> ComposeResult:
        yield Static(id="repair-sum")
        yield Rows(WORKER_COLUMNS, key=lambda line: line.key, empty="no worker is known", id="workers")
        yield Static(id="worker")

    def show(self, state: State) -> None:
        redundancy = state.cluster.redundancy if state.cluster is not None else None
        drawn = (state.changed.get("repair"), redundancy, self.filter, frozenset(self._unfolded), state.stale)
        if drawn == self._drawn:
            return
        self._drawn = drawn
        self._repair = repair_of(state.repair)
        text = Text()
        for words, style in summary(self._repair):
            text.append(words, style=style)
        if redundancy is not None and redundancy.message:
            text.append(f"\n{redundancy.message}", style="green" if redundancy.whole else "yellow")
        if silent := silent_words(self._repair):
            text.append(f"\n{silent}", style="yellow")
        self.query_one("#repair-sum", Static).update(text)
        lines = lines_of(self._repair, self._unfolded, self.filter, unicode=self.unicode)
        self.query_one(Rows).show(lines, dim=state.stale)
        self._show_detail()

    @property
    def line(self) -> Line | None:
        """The one under the cursor."""
        current = self.query_one(Rows).current
        return current if isinstance(current, Line) else None

    def _show_detail(self) -> None:
        text = Text()
        for words, style in detail_lines(self.line):
            text.append("\n" if text else "")
            text.append(words, style=style)
        self.query_one("#worker", Static).update(text, layout=False)

    def on_rows_moved(self) -> None:
        self._show_detail()

    def on_rows_chosen(self) -> None:
        self.action_unfold()

    def action_unfold(self) -> None:
        """Show or hide the peers of a worker; on a peer's line hide them."""
        line = self.line
        if line is None or not line.worker:
            return
        self._unfolded ^= {line.worker}
        if line.peer is not None:  # folded away: the cursor goes to what is left of it
            self.query_one(Rows).choose(f"{line.worker}/")
        self.top.redraw_page()

    # --- what changes the cluster

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not (action == "command" and self.top.readonly)

    def commands(self) -> Iterable[SystemCommand]:
        if self.top.readonly:
            return
        for verb in VERBS.values():
            does = f"the worker under the cursor ({verb.key})"
            yield SystemCommand(verb.label.capitalize(), does, partial(self.action_command, verb.verb))

    def action_command(self, verb: str) -> None:
        line = self.line
        if line is None or not line.worker:
            self.top.say("there is no worker under the cursor", "warning")
        elif self.top.source.client() is None:
            self.top.say("there is no cluster to command here", "warning")
        else:
            self.run_worker(
                self._command(VERBS[verb], line), name=f"{verb} {line.worker}", exit_on_error=False
            )

    async def _command(self, verb: Verb, line: Line) -> None:
        """Ask, do, and say what came of it; errors of the server as they are."""
        per_second = None
        if verb.verb == "throttle":
            per_second = await self._rate(line)
            if per_second is None:
                return
        title, lines = question(verb, line, self._repair, per_second)
        if not await self.app.push_screen_wait(Confirm(title, lines, yes=verb.verb.capitalize())):
            return
        client = self.top.source.client()
        assert client is not None
        self.top.say(f"{verb.verb} {line.worker} {where(line, self._repair)}: asked for")
        try:
            told = await client.command_workers(
                verb.verb, line.worker, node=line.peer_id, per_second=per_second
            )
        except AtollError as error:
            self.top.say(f"{verb.verb} {line.worker}: {error}", "error")
        else:
            self.top.say(*outcome(verb, line, told))

    async def _rate(self, line: Line) -> float | None:
        before = {one.per_second or 0.0 for one in line.ones}
        ask = Ask(
            f"Throttle {line.worker} {where(line, self._repair)}",
            ["Items a second at most; 0: as many as it can."],
            f"{before.pop():g}" if len(before) == 1 else "",
            check=rate_problem,
            yes="Next",
        )
        answer = await self.app.push_screen_wait(ask)
        return None if answer is None else float(answer)

    def copied(self) -> str:
        return self.query_one(Rows).plain()
