"""Why the verdict is what it is: the API's own sentences with their codes, the worst first."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from tui.state import State

SHOWN = 4


class Reasons(Static):
    """Takes as many rows as it needs, at most `SHOWN` and one for how many more there are."""

    def show(self, state: State) -> None:
        text = reason_lines(state)
        self.display = bool(text)
        self.update(text)


def reason_lines(state: State) -> Text:
    """Reasons, then warnings; who was asked and why it failed when nobody answers."""
    lines: list[tuple[str, str]] = []
    if state.refused:
        lines = [(state.refused, "red")]
    elif state.outage is not None:
        lines = [(f"{url}: {why}", "red") for url, why in state.outage.failures]
    elif state.cluster is not None:
        lines = [(f"{words}", state.cluster.look.colour) for words in state.cluster.reasons]
        lines += [(f"{words}", "yellow") for words in state.cluster.warnings]
    text = Text()
    for words, style in lines[:SHOWN]:
        text.append("\n" if text else "")
        text.append(f"  {words}", style=style)
    if len(lines) > SHOWN:
        text.append(f"\n  and {len(lines) - SHOWN} more: atoll status", style="bright_black")
    return text
