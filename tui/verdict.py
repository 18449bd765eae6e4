"""The line that matters: the verdict, its reasons, and what may still fail."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from tui.feed import Outage
from tui.model import Cluster, age_words, headline

MAX_REASONS = 3
STARTING_S = 10.0  # a first answer may take as long before it is bad news


class VerdictLine(Static):
    """Verdict and reasons of the last snapshot, or that no peer answers."""

    unicode = True

    def show(self, cluster: Cluster | None, outage: Outage | None, now: float) -> None:
        self.update(verdict_text(cluster, outage, now, unicode=self.unicode))


def verdict_text(cluster: Cluster | None, outage: Outage | None, now: float, *, unicode: bool) -> Text:
    """What the line says; at most `MAX_REASONS` reasons, the rest counted."""
    if outage is not None:
        return _outage_text(outage, now, unicode=unicode, had_data=cluster is not None)
    if cluster is None:
        return Text("asking the first peer ...", style="bright_black")
    look = cluster.look
    text = Text(f"{look.glyph if unicode else look.plain} {headline(cluster)}", style=f"bold {look.colour}")
    shown = cluster.reasons[:MAX_REASONS]
    for reason in shown:
        text.append(f"\n  {reason}", style=look.colour)
    if len(cluster.reasons) > len(shown):
        text.append(
            f"\n  and {len(cluster.reasons) - len(shown)} more reasons: atoll status", style="bright_black"
        )
    return text


def _outage_text(outage: Outage, now: float, *, unicode: bool, had_data: bool) -> Text:
    down_s = now - outage.since
    if not had_data and down_s < STARTING_S:
        return Text(f"waiting for a peer to answer, {age_words(down_s)}", style="yellow")
    glyph = "✗" if unicode else "X"
    stale = "; what is below is old" if had_data else ""
    text = Text(f"{glyph} NO PEER ANSWERS for {age_words(down_s)}, still trying{stale}", style="bold red")
    for endpoint, why in outage.failures[:MAX_REASONS]:
        text.append(f"\n  {endpoint}: {why}", style="red")
    if len(outage.failures) > MAX_REASONS:
        text.append(f"\n  and {len(outage.failures) - MAX_REASONS} more peers", style="red")
    return text
