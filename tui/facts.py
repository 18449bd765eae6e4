"""What belongs beside the ring: partitions by health, replicas, storage in total."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from tui.model import DASH, Cluster, partition_lines, size_words


class Facts(Static):
    def show(self, cluster: Cluster | None, *, stale: bool) -> None:
        if cluster is not None:
            self.update(facts_text(cluster, stale=stale))


def facts_text(cluster: Cluster, *, stale: bool) -> Text:
    """A few lines; sums only over peers whose numbers are known, and says if some are not."""
    total = cluster.partitions["total"]
    text = Text(style="dim" if stale else "")
    text.append("partitions ", style="bold")
    text.append(f"{total:,}\n" if total is not None else f"{DASH}\n")
    for words, count, colour in partition_lines(cluster):
        text.append(f"  {words:<12}{count:>6}\n", style=colour)
    text.append("replicas   ", style="bold")
    text.append(f"{cluster.replicas if cluster.replicas is not None else DASH}\n")
    known = [peer for peer in cluster.peers if peer.used_bytes is not None]
    text.append("stored     ", style="bold")
    text.append(size_words(sum(peer.used_bytes or 0 for peer in known)) if known else DASH)
    if known and len(known) < len(cluster.peers):
        text.append(f" on {len(known)} of {len(cluster.peers)} peers", style="yellow")
    return text
