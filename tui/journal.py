"""What happened, newest last: entries of the peers' journals and what this program noticed itself. Bounded."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tui.clean import clean

KEPT = 2000
LEVELS = ("info", "warning", "error")
LEVEL_COLOURS = {"info": "", "good": "green", "warning": "yellow", "error": "red"}
LOCAL = "top"
"""Stands for a peer's name where this program speaks for itself."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One line. `at` in UTC; ordered by time, then by id. `level`: info, good (made here only), warning or error."""

    at: datetime
    id: str
    node: str = field(compare=False)
    level: str = field(compare=False)
    kind: str = field(compare=False)
    code: str = field(compare=False)
    message: str = field(compare=False)

    @property
    def clock(self) -> str:
        """The time of day where the reader sits."""
        return self.at.astimezone().strftime("%H:%M:%S")

    @property
    def colour(self) -> str:
        return LEVEL_COLOURS.get(self.level, "")

    @property
    def text(self) -> str:
        """Everything in one line, as it is copied and filtered."""
        return (
            f"{self.at.strftime('%Y-%m-%dT%H:%M:%SZ')} {self.level} {self.node} {self.kind}: {self.message}"
        )


def entry_of(told: Mapping[str, Any]) -> Entry:
    """An event `log` as an entry; whatever is missing is empty, and a time that makes no sense is the beginning of all."""
    node = told.get("node")
    try:
        at = datetime.fromisoformat(str(told.get("time")))
    except ValueError:
        at = datetime.fromtimestamp(0, UTC)
    return Entry(
        at if at.tzinfo is not None else at.replace(tzinfo=UTC),
        str(told.get("id") or ""),
        str(node.get("name") or "") if isinstance(node, Mapping) else "",
        str(told.get("level") or "info"),
        str(told.get("kind") or ""),
        str(told.get("code") or ""),
        _sentence(told.get("message")),
    )


def _sentence(told: object) -> str:
    """One line that can be shown."""
    return clean(" ".join(str(told or "").split()))


class Journal:
    """Entries by time, each once, the newest `KEPT`."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._ids: set[str] = set()
        self._said = 0
        self.added = 0  # grows with every entry: what is drawn need be drawn anew only then

    def add(self, entry: Entry) -> bool:
        """Keep it, unless it is known already; whether it was new."""
        if entry.id in self._ids:
            return False
        insort(self._entries, entry)
        self._ids.add(entry.id)
        self.added += 1
        if len(self._entries) > KEPT:
            self._ids.discard(self._entries.pop(0).id)
        return True

    def say(self, at: datetime, message: str, level: str = "info") -> None:
        """Note what this program itself did or met."""
        self._said += 1
        self.add(Entry(at, f"{LOCAL}-{self._said}", LOCAL, level, "view", "", _sentence(message)))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def newest(self, count: int) -> list[Entry]:
        """At most `count` entries, oldest first."""
        return self._entries[-count:] if count > 0 else []
