"""The lines above every page: whose view this is and how old, the verdict, the pages. Pure functions and one widget each."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text
from textual.widgets import Static

from tui.model import age_words, epoch_words, headline
from tui.state import Outage, State

STALE_AFTER_S = 3.0
STARTING_S = 10.0
"""A first answer may take as long before it is bad news."""


def view_line(
    title: str, state: State, now: float, *, told_at: float | None, paused: bool, width: int
) -> Text:
    """Who answers, of which epoch, and the age of what is shown, which was told `told_at`; what does not fit goes, the
    age last."""
    text = Text(title, style="bold", no_wrap=True, overflow="crop")
    if paused:
        text.append("  PAUSED (p goes on)", style="bold yellow")
    cluster = state.cluster
    if cluster is None or told_at is None:
        return text
    age_s = max(0.0, now - told_at)
    age = Text(f"  age {age_words(age_s)}", style="bold yellow" if age_s > STALE_AFTER_S else "not bold")
    parts = [
        f"  view of {state.answering or state.endpoint}",
        f" ({state.endpoint})" if state.answering else ", which has not told all yet",
        f"  epoch {epoch_words(cluster.epoch, cluster.epoch_kind)}",
    ]
    for part in parts:
        if text.cell_len + len(part) + age.cell_len <= width:
            text.append(part, style="not bold")
    return text.append_text(age)


def verdict_line(state: State, now: float, *, unicode: bool) -> Text:
    """The verdict and what may still fail, in one line; when nobody answers, that."""
    if state.refused:
        words = f"{'✗' if unicode else 'X'} NOTHING MORE TO SHOW, and why; q quits"
        return Text(words, style="bold red")
    if state.outage is not None:
        return _outage_line(state.outage, now, unicode=unicode, had_data=state.cluster is not None)
    if state.cluster is None:
        return Text("asking the first peer ...", style="bright_black")
    look = state.cluster.look
    return Text(
        f"{look.glyph if unicode else look.plain} {headline(state.cluster)}", style=f"bold {look.colour}"
    )


def _outage_line(outage: Outage, now: float, *, unicode: bool, had_data: bool) -> Text:
    down_s = now - outage.since
    if not had_data and down_s < STARTING_S:
        return Text(f"waiting for a peer to answer, {age_words(down_s)}", style="yellow")
    glyph = "✗" if unicode else "X"
    stale = "; what is below is old" if had_data else ""
    return Text(f"{glyph} NO PEER ANSWERS for {age_words(down_s)}, still trying{stale}", style="bold red")


def page_line(titles: Mapping[int, str], current: int, *, width: int) -> Text:
    """The pages with their keys; the one that is up in reverse. Narrow: only that one with its name."""
    full = " ".join(f" {number} {title} " for number, title in titles.items())
    text = Text(no_wrap=True, overflow="crop")
    for number, title in titles.items():
        here = number == current
        text.append(" " if text else "")
        words = f"{number} {title}" if here or len(full) <= width else str(number)
        text.append(f" {words} ", style="reverse bold" if here else "")
    return text


class Header(Static):
    """Three lines that never move."""

    def show(
        self,
        title: str,
        state: State,
        now: float,
        *,
        told_at: float | None,
        paused: bool,
        unicode: bool,
        titles: Mapping[int, str],
        at: int,
    ) -> None:
        width = max(20, self.size.width - 2)
        lines = [
            view_line(title, state, now, told_at=told_at, paused=paused, width=width),
            verdict_line(state, now, unicode=unicode),
            page_line(titles, at, width=width),
        ]
        self.update(Text("\n", no_wrap=True, overflow="crop").join(lines), layout=False)
