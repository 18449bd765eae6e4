"""The top line: whose view this is, of which epoch, how old it is."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from tui.feed import Snapshot
from tui.model import Cluster, age_words, epoch_words

STALE_AFTER_S = 5.0


class StatusLine(Static):
    def show(
        self, title: str, cluster: Cluster | None, snapshot: Snapshot | None, now: float, paused: bool
    ) -> None:
        self.update(status_text(title, cluster, snapshot, now, paused))


def status_text(
    title: str, cluster: Cluster | None, snapshot: Snapshot | None, now: float, paused: bool
) -> Text:
    """Age in yellow once it is more than `STALE_AFTER_S`; "paused" instead of silence."""
    text = Text(title, style="bold")
    if paused:
        text.append("  PAUSED (p goes on)", style="bold yellow")
    if cluster is not None and snapshot is not None:
        age = now - snapshot.taken_at
        text.append(f"  view of {cluster.answering} ({snapshot.endpoint})", style="not bold")
        text.append(f"  epoch {epoch_words(cluster.epoch, cluster.epoch_kind)}", style="not bold")
        text.append(f"  age {age_words(age)}", style="yellow" if age > STALE_AFTER_S else "not bold")
    return text
