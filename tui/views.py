"""Page 4: who believes whom to be alive, peer by peer, and in words what differs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.widgets import Static

from tui.beliefs import Beliefs, Differing, Observer, beliefs_of, differing, names, summary
from tui.clean import clean
from tui.matrix import Matrix, Shown, only_differences
from tui.model import LOOKS, age_words
from tui.page import Page, matches
from tui.state import State

MEANING = """\
A row for each peer that believes, a column for each that is believed of.
"!" marks a row or a column in which something differs from what most say.
Gossip takes a moment: what differs for longer than some seconds is a fault
of the network between the two, or a process that stands still."""


class Views(Page):
    """A summary in words, the matrix, the pair under the cursor. The filter keeps the observers with a name."""

    TITLE: ClassVar[str] = "Views"
    MEANING: ClassVar[str] = MEANING
    PROMPT: ClassVar[str] = "observers by name"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("d", "differences", "differences only")]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._beliefs = Beliefs((), ())
        self._found: Differing = differing(self._beliefs)
        self._seen: tuple[object, ...] = ()
        self._only = False

    def compose(self) -> ComposeResult:
        yield Static(id="views-summary")
        yield Static(id="views-legend")
        yield Matrix(id="views-matrix")
        yield Static(id="views-pair")

    def on_mount(self) -> None:
        self.query_one(Matrix).unicode = self.unicode
        self.query_one("#views-legend", Static).update(self._legend())

    # --- drawing

    def show(self, state: State) -> None:
        seen = (state.changed.get("views"), state.stale, self._only, self.filter)
        if seen == self._seen:
            return
        if state.views is not None and seen[0] != (self._seen[0] if self._seen else None):
            self._beliefs = beliefs_of(state.views)
            self._found = differing(self._beliefs)
        self._seen = seen
        told = summary(self._beliefs, self._found)
        colour = {True: "green", False: "bold yellow", None: "bright_black"}[told.agree]
        text = Text()
        for number, sentence in enumerate(told.sentences):
            text.append("\n" if number else "")
            text.append(clean(sentence, unicode=self.unicode), style=colour if number == 0 else "yellow")
        if self._only:
            text.append("\ndifferences only (d shows all)", style="bold")
        self.query_one("#views-summary", Static).update(text)
        self.query_one(Matrix).show(self._shown(), dim=state.stale)
        self._draw_pair()

    def _shown(self) -> Shown:
        everybody = range(len(self._beliefs.members))
        rows, columns = only_differences(self._beliefs, self._found) if self._only else (everybody, everybody)
        kept = [row for row in rows if matches(self.filter, self._beliefs.members[row][1])]
        return Shown(self._beliefs, self._found, kept, columns)

    def _legend(self) -> Text:
        text = Text()
        for state in ("alive", "suspect", "dead", "left", "unknown"):
            look = LOOKS[state]
            text.append(f"{look.glyph if self.unicode else look.plain}", style=look.colour)
            text.append(f" {look.word}  ")
        return text.append("! differs", style="bold yellow")

    def _draw_pair(self) -> None:
        pair = self.query_one(Matrix).pair
        text = self._pair(*pair) if pair is not None else Text()
        self.query_one("#views-pair", Static).update(text, layout=False)

    def _pair(self, one: Observer, member: str) -> Text:
        """What the one believes of the other, since when, the other way round, and what the others believe."""
        known = dict(self._beliefs.members)
        name = clean(known.get(member, "?"), unicode=self.unicode)
        mine = clean(one.name, unicode=self.unicode)
        if one.id == member:
            return Text(f"{mine} itself")
        if one.believes is None:
            why = "does not tell what it believes" if one.answers else "does not answer"
            return Text(f"{mine} {why}: what it holds {name} for is not known", style="yellow")
        state = one.holds(member) or "unknown"
        text = Text(f"{mine} holds {name} for ")
        text.append(state, style=f"bold {LOOKS[state].colour}")
        if member in one.heard_s:
            text.append(f", heard of it {age_words(one.heard_s[member])} before it told this")
        back = next((other.holds(one.id) for other in self._beliefs.observers if other.id == member), None)
        text.append(
            f"; {name} holds {mine} for {back}" if back is not None else f"; what {name} holds is not known"
        )
        others = {
            other_state: [other.name for other in ones if other.id != one.id]
            for other_state, ones in self._beliefs.opinions(member).items()
        }
        words = [f"{names(ones)}: {other_state}" for other_state, ones in others.items() if ones]
        if words:
            text.append("\nothers  " + clean("; ".join(words), unicode=self.unicode))
        return text

    # --- keys

    def on_matrix_moved(self) -> None:
        self._draw_pair()

    def action_differences(self) -> None:
        self._only = not self._only
        self.top.redraw_page()

    def commands(self) -> Iterable[SystemCommand]:
        yield SystemCommand(
            "Differences only", "who believes something else than most, or all (d)", self.action_differences
        )

    def copied(self) -> str:
        """The summary, and every belief that is not "alive"."""
        lines = list(summary(self._beliefs, self._found).sentences)
        known = dict(self._beliefs.members)
        for one in self._beliefs.observers:
            if one.believes is None:
                lines.append(f"{one.name}\tnot known")
            else:
                lines += [f"{one.name}\t{known.get(m, m)}\t{state}" for m, state in one.believes.items()]
        return "\n".join(lines)
