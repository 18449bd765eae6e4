"""Goal: the lines at the foot tell a thing once, whoever saw it, and as often as it happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tui.journal import Entry
from tui.newest import SAME_S, entry_lines, folded

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def said(node: str, message: str, after_s: float) -> Entry:
    at = NOON + timedelta(seconds=after_s)
    return Entry(at, f"{node}-{after_s}", node, "warning", "membership", "peer_dead", message)


def test_what_several_peers_saw_is_one_line() -> None:
    """Goal: three peers see one death: one line, at the time of the first, that says how many; other words stay lines."""
    entries = [
        said("peer-1", "peer-4 is dead", 0),
        said("peer-2", "peer-4 is dead", 1),
        said("peer-2", "peer-5 is dead", 2),
    ]
    entries.append(said("peer-3", "peer-4 is dead", 3))
    lines = folded(entries, 9)
    assert [(line.entry.message, len(line.nodes)) for line in lines] == [
        ("peer-4 is dead", 3),
        ("peer-5 is dead", 1),
    ]
    assert "peer-4 is dead (3 peers say so)" in entry_lines(lines).plain
    assert "peer-2: peer-5 is dead" in entry_lines(lines).plain
    assert folded(entries, 1) == lines[1:] and folded([], 3) == []


def test_what_happens_again_is_told_again() -> None:
    """Goal: the same words of the same peer, or of another one much later, are another line."""
    again = [said("peer-1", "peer-4 is dead", 0), said("peer-1", "peer-4 is dead", 5)]
    assert len(folded(again, 9)) == 2
    later = [said("peer-1", "peer-4 is dead", 0), said("peer-2", "peer-4 is dead", SAME_S + 1)]
    assert len(folded(later, 9)) == 2
