"""All that the screens show, built from events alone (GET /v1/events): a fold, no I/O, no clock of its own.

S1  What is shown was told: a value nobody told is None, not zero.
S2  `told_at` is when a peer last said that what it told stands (`requests`, or a whole `cluster`); its distance from now is
    the age on the screen. When nobody answers everything stays and only gets older.
S3  Everything that grows has a bound: the journal, the history, the failures of an outage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from tui.journal import Journal, entry_of
from tui.model import Cluster, Json, cluster_of, refreshed

if TYPE_CHECKING:
    from peer.client import Event

HISTORY = 600  # looks, one a second
FAILURES_MOST = 50
RATES = ("all", "errors", "bytes_in", "bytes_out", "backlog")


@dataclass(frozen=True, slots=True)
class Outage:
    """Nobody answers: each endpoint tried and why it failed; `since` by the clock of `State.apply`."""

    failures: tuple[tuple[str, str], ...]
    since: float


@dataclass(slots=True)
class State:
    """What is known. `changed` counts the events of each kind, so that a page draws again only what is new."""

    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    endpoint: str = ""
    answering: str = ""  # the name of the peer whose view this is; "" until it has said it
    cluster: Cluster | None = None
    ring: Json | None = None
    views: Json | None = None
    repair: Json | None = None
    requests: Json | None = None
    told_at: float | None = None
    outage: Outage | None = None
    refused: str = ""  # why nothing more will ever be told: wrong credentials, a broken recording
    journal: Journal = field(default_factory=Journal)
    history: dict[str, deque[float | None]] = field(
        default_factory=lambda: {name: deque(maxlen=HISTORY) for name in RATES}
    )
    changed: dict[str, int] = field(default_factory=dict)

    @property
    def stale(self) -> bool:
        """Whether what is shown may be over: nobody answers now, or ever."""
        return self.outage is not None or bool(self.refused)

    def age_s(self, now: float) -> float | None:
        return None if self.told_at is None else max(0.0, now - self.told_at)

    def recent(self, rate: str, count: int) -> list[float | None]:
        """The last `count` values of a rate, oldest first."""
        values = self.history[rate]
        return list(islice(values, max(0, len(values) - count), None))

    def say(self, message: str, level: str = "info") -> None:
        """A line of this program's own in the journal."""
        self.journal.say(self.wall(), message, level)

    def apply(self, event: Event, now: float) -> None:
        """Take over what was told. Unknown kinds are ignored: a newer peer may tell more."""
        kind, data = event.kind, event.data
        self.changed[kind] = self.changed.get(kind, 0) + 1
        match kind:
            case "connected":
                self._connected(data)
            case "unreachable":
                self._unreachable(data, now)
            case "hello":
                self.answering = _name(data)
            case "cluster":
                self.cluster, self.told_at = cluster_of(data), now
                self.answering = _name(data)
            case "requests":
                self.requests, self.told_at = data, now
                if self.cluster is not None:
                    self.cluster = refreshed(self.cluster, data)
                for name, values in self.history.items():
                    value = data.get(name)
                    values.append(float(value) if isinstance(value, int | float) else None)
            case "ring":
                self.ring = data
            case "views":
                self.views = data
            case "repair":
                self.repair = data
            case "log":
                self.journal.add(entry_of(data))
            case "lost":
                self.say(f"{data.get('events')} events came faster than they could be shown", "warning")

    def _connected(self, data: Json) -> None:
        url, before, why = str(data.get("url") or ""), data.get("before"), data.get("why")
        if self.outage is not None and before is not None:
            self.say(f"{_address(url)} answers again", "good")
        elif before is not None and before != url:
            self.say(
                f"moved to {_address(url)}: {_address(str(before))} no longer answers ({why})", "warning"
            )
        elif before is not None:
            self.say(f"connected to {_address(url)} again ({why})", "warning")
        self.endpoint, self.answering, self.outage = url, "", None

    def _unreachable(self, data: Json, now: float) -> None:
        told = data.get("failures")
        failures = tuple((str(url), str(why)) for url, why in told) if isinstance(told, list) else ()
        if self.outage is None:
            self.say("no peer answers; still trying", "error")
        since = self.outage.since if self.outage is not None else now
        self.outage = Outage(failures[:FAILURES_MOST], since)


def _name(told: Json) -> str:
    peer = told.get("peer")
    return str(peer.get("name") or "") if isinstance(peer, Mapping) else ""


def _address(url: str) -> str:
    return url.rpartition("//")[2]
